"""Every published and real message is explained from its URL and keys alone, and none of the forged ones is."""

import pytest
from support.vectors import Vector, independent_vectors

from ixfast.chips import Message, compile_profile
from ixfast.chips.detect import Detection, detect
from ixfast.domain.model import Key
from ixfast.keys import check_value
from ixfast.keys.diversify import USUAL_DERIVATIONS

COUNTER_0 = "bolty/sdm-counter0"  # made by a program; a tag's first read has counter 1
ALL = independent_vectors()


def url_of(vector: Vector) -> str:
    """The vector's URL, or one of the usual forms in which its window stands before the MAC."""
    inputs = vector["inputs"]
    if inputs["url"] is not None:
        return str(inputs["url"])
    mac, window = inputs["mac"].upper(), inputs["mac_input_ascii"]
    mirrors = {"picc_data": inputs.get("picc_enc"), "uid": inputs.get("uid"), "ctr": inputs.get("ctr_msb"), "enc": inputs["enc"]}
    sent = {name: text.upper() for name, text in mirrors.items() if text is not None}
    if not window or window.endswith("&cmac="):
        if inputs.get("tt"):
            return f"https://tag.example/t?m={sent['uid']}x{sent['ctr']}&tt={inputs['tt']}&cmac={mac}"
        return "https://tag.example/t?" + "&".join(f"{name}={text}" for name, text in sent.items()) + f"&cmac={mac}"
    return f"https://{window}{mac}" if "/" in window else f"https://tag.example/t?m={window}{mac}"


def detected(vector: Vector, *, lower: bool = False) -> Detection:
    inputs = vector["inputs"]
    keys = [Key(1, bytes.fromhex(hexadecimal), check_value(bytes.fromhex(hexadecimal)))
            for hexadecimal in (inputs["file_key"], inputs.get("meta_key")) if hexadecimal]  # fmt: skip
    url = url_of(vector)
    return detect([url.lower() if lower else url], keys, derivations=USUAL_DERIVATIONS[:3])


@pytest.mark.parametrize("lower", [False, True], ids=["verbatim", "lower-cased"])
@pytest.mark.parametrize(
    "vector",
    [pytest.param(v, id=v["name"]) for v in ALL if v["op"] == "sdm_message"],
)
def test_a_message_is_explained(vector: Vector, lower: bool) -> None:
    found = detected(vector, lower=lower)
    if not vector["expected"]["valid"]:
        assert found.proposals == ()
        return
    if vector["name"] == COUNTER_0:
        assert "the counter is 0" in found.reasons[0]
        return
    profile = found.proposals[0].profile
    assert profile.scheme == f"ntag424-{vector['inputs']['mode'].lower()}"
    compiled = compile_profile(profile)
    message = compiled.read_url(url_of(vector))
    assert isinstance(message, Message)
    uid = vector["expected"]["uid"]
    window = compiled.windows(message, bytes.fromhex(uid) if uid else b"", {})[0].decode()
    expected = vector["inputs"]["mac_input_ascii"]
    assert window == (expected if not lower else window)
    assert window.lower() == expected.lower()
    offset = vector["expected"].get("tt_offset_in_file_data")
    if offset is not None:
        assert profile.tamper_offset == offset


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in ALL if v["op"] == "ntag22x_sun"])
def test_a_message_of_an_ntag22x_is_explained(vector: Vector) -> None:
    inputs = vector["inputs"]
    value = bytes.fromhex(inputs["key"])
    found = detect([f"https://tag.example/t?m={inputs['mirror_text']}"], [Key(1, value, check_value(value))])
    profile = found.proposals[0].profile
    assert profile.scheme == ("ntag22x-sd" if inputs["tt"] else "ntag223")
    assert profile.allow_without_counter is (vector["expected"]["ctr"] == 0)
