"""Whole tap messages of real tags and published examples, read from their URLs and examined, over both cores."""

import importlib
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support.vectors import Vector, independent_vectors

from ixfast import _cmac_py, _lrp_py
from ixfast.chips import CompiledProfile, Message, compile_profile
from ixfast.chips.ntag424_aes import AesScheme
from ixfast.chips.ntag424_lrp import LrpScheme
from ixfast.chips.scheme import PiccData, Scheme
from ixfast.domain.model import EncodingProfile, Evidence, Key, Tamper
from ixfast.errors import InputError

COVERED = {("sdm_message", "AES"): 49, ("sdm_message", "LRP"): 30}
MESSAGE_OPERATIONS = ("sdm_message",)  # test_other_vectors.py has the messages of other chips
COUNTER_0 = "bolty/sdm-counter0"  # made by a program; a tag's first read has counter 1

ALL = independent_vectors()
MESSAGES = [v for v in ALL if v["op"] == "sdm_message"]
AES = [v for v in MESSAGES if v["inputs"]["mode"] == "AES"]
LRP = [v for v in MESSAGES if v["inputs"]["mode"] == "LRP"]


def schemes() -> dict[str, dict[str, Scheme]]:
    """The scheme of each mode, by the core that it computes with."""
    halves: dict[str, tuple[Any, Any]] = {"twin": (_cmac_py, _lrp_py)}
    try:
        halves["native"] = importlib.import_module("ixfast._cmac"), importlib.import_module("ixfast._lrp")
    except ModuleNotFoundError:
        if os.environ.get("IXFAST_REQUIRE_NATIVE") == "1":
            raise
    return {
        core: {"AES": AesScheme("ntag424-aes", aes), "LRP": LrpScheme("ntag424-lrp", lrp)} for core, (aes, lrp) in halves.items()
    }


SCHEMES = schemes()


def test_every_message_vector_is_covered() -> None:
    counted = Counter((v["op"], v["inputs"].get("mode")) for v in ALL if v["op"] in MESSAGE_OPERATIONS)
    assert counted == Counter(COVERED)
    assert len({v["name"] for v in MESSAGES}) == len(AES) + len(LRP) == sum(COVERED.values())


def mirrors_of(vector: Vector) -> dict[str, str]:
    """Placeholder by the text that stands for it in the URL and in the window."""
    inputs = vector["inputs"]
    texts = {inputs["mac"].upper(): "{mac}"}
    for name, placeholder in (("picc_enc", "{picc}"), ("uid", "{uid}"), ("ctr_msb", "{counter}"), ("tt", "{tamper}")):
        if inputs.get(name) is not None:
            texts[inputs[name].upper()] = placeholder
    if inputs["enc"] is not None:
        texts[inputs["enc"].upper()] = f"{{enc:{len(inputs['enc'])}}}"
    return texts


def window_of(vector: Vector) -> str:
    """The profile's window: the text that the tag MACed, with placeholders for its mirrors."""
    window: str = vector["inputs"]["mac_input_ascii"]
    for text, placeholder in mirrors_of(vector).items():
        window = window.replace(text, placeholder)
    return window


def template_of(vector: Vector) -> str:
    """The profile's template: the tail of the vector's URL, or one of the usual forms if it has none."""
    url = vector["inputs"]["url"]
    if url is None:
        slots = set(mirrors_of(vector).values())
        if "{tamper}" in slots:
            return "m={uid}x{counter}&tt={tamper}&cmac={mac}"
        usual = {"picc": "picc_data", "uid": "uid", "counter": "ctr", "enc": "enc", "mac": "cmac"}
        present = {slot.strip("{}").partition(":")[0]: slot for slot in slots}
        template = "&".join(f"{name}={present[slot]}" for slot, name in usual.items() if slot in present)
        window = window_of(vector)
        return template if template.endswith(window + "{mac}") or not window else "m=" + window + "{mac}"
    tail: str = url.partition("?")[2] or "/" + url.split("://")[1].partition("/")[2]
    for text, placeholder in mirrors_of(vector).items():
        tail = tail.replace(text, placeholder)
    return tail


def profile_of(vector: Vector, scheme: Scheme) -> CompiledProfile:
    return compile_profile(
        EncodingProfile(
            name=vector["name"],
            scheme=scheme.name,
            template=template_of(vector),
            window=window_of(vector),
            tamper_offset=vector["expected"].get("tt_offset_in_file_data"),
            allow_without_counter=vector["expected"].get("ctr", 0) is None,
        ),
        scheme=scheme,
    )


def url_of(vector: Vector) -> str:
    if vector["inputs"]["url"] is not None:
        return str(vector["inputs"]["url"])
    url = template_of(vector)
    for text, placeholder in mirrors_of(vector).items():
        url = url.replace(placeholder, text)
    return f"https://tag.example/t?{url}"


def key(hex16: str) -> tuple[Key, ...]:
    return (Key(1, bytes.fromhex(hex16), b"\0\0\0"),)


def examine(vector: Vector, scheme: Scheme, change: Callable[[str], str] = str, uid: bytes | None = None) -> Evidence:
    inputs = vector["inputs"]
    compiled = profile_of(vector, scheme)
    message = compiled.read_url(change(url_of(vector)))
    assert isinstance(message, Message)
    meta_keys = key(inputs["meta_key"]) if compiled.encrypted else ()
    return compiled.examine(message, uid=uid, file_keys=key(inputs["file_key"]), meta_keys=meta_keys)


def is_as_expected(vector: Vector, evidence: Evidence) -> bool:
    expected = vector["expected"]
    if not expected["valid"]:
        return not evidence.authentic and evidence.file_data is None
    if vector["name"] == COUNTER_0:
        return evidence.reason == "counter_range"
    file_data = expected.get("file_data")
    tamper = Tamper(expected["tt_perm"], expected["tt_curr"]) if "tt_perm" in expected else None
    uid = expected["uid"]
    return evidence == Evidence(
        authentic=True,
        uid=None if uid is None else bytes.fromhex(uid),
        counter=expected["ctr"],
        key_version=1,
        tamper=tamper,
        file_data=None if file_data is None else bytes.fromhex(file_data),
    )


@pytest.mark.parametrize("change", [str, str.lower], ids=["verbatim", "lower-cased"])
@pytest.mark.parametrize("core", SCHEMES)
@pytest.mark.parametrize("vector", MESSAGES, ids=lambda v: str(v["name"]))
def test_message(vector: Vector, core: str, change: Callable[[str], str]) -> None:
    evidence = examine(vector, SCHEMES[core][vector["inputs"]["mode"]], change)
    assert is_as_expected(vector, evidence), evidence


@pytest.mark.parametrize("core", SCHEMES)
def test_the_refused_counter_0_has_a_right_mac(core: str) -> None:
    vector = next(v for v in AES if v["name"] == COUNTER_0)
    inputs, uid = vector["inputs"], bytes.fromhex(vector["expected"]["uid"])
    verify = SCHEMES[core]["AES"].verify
    assert verify(bytes.fromhex(inputs["file_key"]), uid, 0, b"", bytes.fromhex(inputs["mac"]))


@pytest.mark.parametrize("vector", [v for v in MESSAGES if v["expected"].get("uid")], ids=lambda v: str(v["name"]))
def test_another_tag_is_refused_for_its_uid_before_anything_else(vector: Vector) -> None:
    scheme = SCHEMES["twin"][vector["inputs"]["mode"]]
    evidence = examine(vector, scheme, uid=bytes.fromhex("04000000000001"))
    assert evidence.reason == "uid_mismatch"


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda v: str(v["name"]))
def test_the_other_mode_believes_nothing(vector: Vector) -> None:
    """An encrypted mirror of the other mode has another length; a plain one reads alike and its MAC does not hold."""
    scheme = SCHEMES["twin"]["LRP" if vector["inputs"]["mode"] == "AES" else "AES"]
    try:
        evidence = examine(vector, scheme)
    except (InputError, AssertionError):  # AssertionError: the path of the URL does not look like the profile's
        assert vector["inputs"]["picc_mirror"] == "encrypted"
    else:
        assert not evidence.authentic


class WithoutTagByte(AesScheme):
    """Takes every encrypted mirror for UID and counter, as naive verifiers do."""

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        block = _cmac_py.picc_decrypt(meta_key, picc)
        return PiccData(block[1:8], int.from_bytes(block[8:11], "little"))


class WithUnmirroredUid(AesScheme):
    """Puts the tag's UID into the session vector although the tag does not mirror it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.verify = self._verify

    def _verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
        return _cmac_py.sdm_verify(file_key, uid or bytes.fromhex("049f50824f1390"), counter, window, mac)


class WithCounterAsPrinted(AesScheme):
    """Forgets that the counter goes into the session vector with its least significant byte first."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.verify = self._verify

    def _verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
        turned = counter if counter < 0 else int.from_bytes(counter.to_bytes(3, "little"))
        return _cmac_py.sdm_verify(file_key, uid, turned, window, mac)


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (WithoutTagByte, {"androidcrypto/enc-uid-only", "androidcrypto/enc-ctr-only"}),
        (WithUnmirroredUid, {"androidcrypto/enc-ctr-only"}),
        (WithCounterAsPrinted, {"derived/aes-ctr-65536", "derived/aes-plain-bad-ctr-byte-order", "boltcard/card-1"}),
    ],
)
def test_control_a_broken_scheme_is_caught(broken: type[AesScheme], caught_by: set[str]) -> None:
    scheme = broken("ntag424-aes")
    wrong = {v["name"] for v in AES if not is_as_expected(v, examine(v, scheme))}
    assert caught_by <= wrong
