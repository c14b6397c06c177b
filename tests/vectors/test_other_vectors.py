"""Independent vectors of NTAG 22x messages, derived keys and originality, and a check that every operation is tested."""

import importlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.vectors import FOLDER, Vector, independent_vectors

from ixfast import _cmac_py
from ixfast.chips import Message, compile_profile, tamper
from ixfast.chips.core import Core
from ixfast.chips.ntag22x import Ntag22xScheme
from ixfast.chips.originality import NTAG424_PUBLIC_KEY, verify_originality
from ixfast.domain.model import EncodingProfile, Evidence, Key, Tamper
from ixfast.keys.diversify import BoltCard, BoltCardKeys, SdmBackend, SdmBackendLegacy, an10922

HERE = Path(__file__).parent
COUNTS = {
    "aes_cmac": 10,
    "aes_cmac_subkeys": 1,
    "aes_cmac_verify": 107,
    "kdf_an10922_aes128": 2,
    "kdf_an10922_aes192": 1,
    "kdf_an10922_aes256": 1,
    "kdf_boltcard": 5,
    "kdf_sdm_backend_legacy": 4,
    "kdf_sdm_backend_standard": 9,
    "lricb": 38,
    "lrp_cmac": 31,
    "lrp_eval": 36,
    "lrp_key_material": 2,
    "ntag22x_sun": 4,
    "originality_secp224r1": 16,
    "sdm_file": 2,
    "sdm_mac": 1,
    "sdm_message": 79,
    "sdm_picc": 5,
    "sdm_session": 3,
}

ALL = independent_vectors()
WORDS = {"closed": "C", "open": "O", "not enabled": "I", "not mirrored": None}


def cores() -> dict[str, Core]:
    found: dict[str, Core] = {"twin": _cmac_py}
    try:
        found["native"] = importlib.import_module("ixfast._cmac")
    except ModuleNotFoundError:
        if os.environ.get("IXFAST_REQUIRE_NATIVE") == "1":
            raise
    return found


CORES = cores()


def of(operation: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in ALL if vector["op"] == operation]


def unhex(text: str | None) -> bytes:
    return bytes.fromhex(text or "")


def test_every_operation_is_claimed_by_a_test_module() -> None:
    """A vector that no test runs protects nothing. A module claims an operation by naming it in quotes, this one with `of`."""
    assert Counter(vector["op"] for vector in ALL) == Counter(COUNTS)
    assert sum(COUNTS.values()) == len({vector["name"] for vector in ALL}) == 357
    others = "".join(path.read_text() for path in HERE.glob("test_*.py") if path.name != Path(__file__).name)
    here = Path(__file__).read_text()
    unclaimed = {name for name in COUNTS if f'"{name}"' not in others and f'of("{name}")' not in here}
    assert unclaimed == set()


def test_the_provenance_of_every_file_is_stated() -> None:
    rows = re.findall(r"^\| `(\w+\.json)` \| (\d+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    counts = {file.name: len(json.loads(file.read_text())["vectors"]) for file in sorted(FOLDER.glob("*.json"))}
    assert {name: int(count) for name, count in rows} == counts
    assert len(rows) == len(counts)


def read_ntag22x(vector: Vector, scheme: Ntag22xScheme, change: Callable[[str], str] = str) -> Evidence:
    """Process a tap, from the mirrored text to the evidence."""
    inputs = vector["inputs"]
    template = "m={uid}x{counter}x{tt}x{mac}" if inputs["tt"] else "m={uid}x{counter}x{mac}"
    profile = EncodingProfile(name="22x", scheme=scheme.name, template=template, allow_without_counter=True)
    compiled = compile_profile(profile, scheme=scheme)
    message = compiled.read_url(change(f"https://tag.example/t?m={inputs['mirror_text']}"))
    assert isinstance(message, Message)
    return compiled.examine(message, uid=unhex(inputs["uid"]), file_keys=(Key(1, unhex(inputs["key"]), b"\0\0\0"),))


def expected_ntag22x(vector: Vector) -> Evidence:
    expected = vector["expected"]
    stored, current = WORDS.get(expected.get("tt_stored", "not mirrored")), WORDS.get(expected.get("tt_actual", "not mirrored"))
    tamper = Tamper(stored, current) if stored and current else None
    # A mirrored counter of 0 means that the counter is disabled.
    return Evidence(expected["valid"], None, unhex(expected["uid"]), expected["ctr"] or None, 1, tamper)


@pytest.mark.parametrize("change", [str, str.lower], ids=["verbatim", "lower-cased"])
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("vector", of("ntag22x_sun"))
def test_ntag22x(vector: Vector, core: str, change: Callable[[str], str]) -> None:
    detects_status = vector["inputs"]["tt"] is not None
    for name in ("ntag22x-sd",) if detects_status else ("ntag223", "ntag224", "ntag22x-sd"):
        scheme = Ntag22xScheme(name, detects_status=name == "ntag22x-sd", core=CORES[core])
        assert read_ntag22x(vector, scheme, change) == expected_ntag22x(vector)


@pytest.mark.parametrize("vector", of("ntag22x_sun"))
def test_no_bit_of_an_ntag22x_message_can_be_changed(vector: Vector) -> None:
    inputs = vector["inputs"]
    scheme = Ntag22xScheme("ntag22x-sd", detects_status=True)
    tt = (inputs["tt"] or "").encode()
    fields = unhex(inputs["uid"]), unhex(inputs["ctr_msb"]), unhex(inputs["mac"])
    for index, field in enumerate(fields):
        for bit in range(8 * len(field)):
            changed = list(fields)
            changed[index] = (int.from_bytes(field) ^ 1 << bit).to_bytes(len(field))
            uid, counter, mac = changed
            assert not scheme.verify(unhex(inputs["key"]), uid, int.from_bytes(counter), tt, mac)


class WithCounterReversed(Ntag22xScheme):
    """Takes the counter with its least significant byte first, as an NTAG 424 DNA does."""

    def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
        return super().verify(file_key, uid, int.from_bytes(counter.to_bytes(3), "little"), window, mac)


class WithSessionKey(Ntag22xScheme):
    """Derives a session key, as an NTAG 424 DNA does."""

    def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
        return _cmac_py.sdm_verify(file_key, uid, counter, b"", mac)


class WithoutTt(Ntag22xScheme):
    """Leaves TT out of the MAC."""

    def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
        return super().verify(file_key, uid, counter, b"", mac)


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (WithCounterReversed, {"ntag22x/an12998-1", "ntag22x/sd-closed-open-ctr"}),
        (WithSessionKey, {v["name"] for v in ALL if v["op"] == "ntag22x_sun"}),
        (WithoutTt, {"ntag22x/sd-closed-open", "ntag22x/sd-hidden-key", "ntag22x/sd-closed-open-ctr"}),
    ],
)
def test_control_a_broken_ntag22x_is_caught(broken: type[Ntag22xScheme], caught_by: set[str]) -> None:
    scheme = broken("ntag22x-sd", detects_status=True)
    vectors = [v for v in ALL if v["op"] == "ntag22x_sun"]
    assert {v["name"] for v in vectors if read_ntag22x(v, scheme) != expected_ntag22x(v)} == caught_by


@pytest.mark.parametrize("nibbles", [{"C": 0xC, "O": 0x0, "I": 0x1, "0": 0x0}, {"C": 0x3, "O": 0xE, "I": 0x9, "0": 0x0}])
def test_control_another_map_of_the_letters_is_caught(nibbles: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tamper, "_TT_NIBBLES", nibbles)
    scheme = Ntag22xScheme("ntag22x-sd", detects_status=True)
    vectors = [v for v in ALL if v["op"] == "ntag22x_sun"]
    wrong = {v["name"] for v in vectors if read_ntag22x(v, scheme) != expected_ntag22x(v)}
    assert wrong == {"ntag22x/sd-closed-open", "ntag22x/sd-closed-open-ctr"}


@pytest.mark.parametrize("vector", [*of("kdf_an10922_aes128"), *of("kdf_an10922_aes192"), *of("kdf_an10922_aes256")])
def test_an10922(vector: Vector) -> None:
    assert an10922(unhex(vector["inputs"]["key"]), unhex(vector["inputs"]["m"])).hex() == vector["expected"]["key"]


@pytest.mark.parametrize("vector", of("kdf_an10922_aes128"))
@pytest.mark.parametrize("core", CORES)
def test_subkeys_of_an10922s_example(vector: Vector, core: str) -> None:
    names = [name for name in ("k0", "k1", "k2") if name in vector["expected"]]
    subkeys = dict(zip(("k0", "k1", "k2"), CORES[core].aes_cmac_subkeys(unhex(vector["inputs"]["key"])), strict=True))  # type: ignore[attr-defined]
    assert {name: subkeys[name].hex() for name in names} == {name: vector["expected"][name] for name in names}


@pytest.mark.parametrize("vector", of("kdf_boltcard"))
def test_boltcard(vector: Vector) -> None:
    inputs, expected = vector["inputs"], vector["expected"]
    issuer_key, uid, version = unhex(inputs["issuer_key"]), unhex(inputs["uid"]), inputs["version"]
    keys = BoltCardKeys(issuer_key, uid, version)
    assert expected
    assert {name: getattr(keys, name).hex() for name in expected} == expected
    derivation = BoltCard(version=version)
    assert derivation.derive_file_key(issuer_key, uid) == keys.k2
    assert derivation.derive_meta_key(issuer_key) == keys.k1


def sdm_backend_key(vector: Vector, kind: type[SdmBackend | SdmBackendLegacy]) -> str:
    inputs = vector["inputs"]
    master, number = unhex(inputs["master_key"]), inputs["key_no"]
    if inputs["kind"] == "meta":
        return kind(meta_key_number=number).derive_meta_key(master).hex()
    return kind(key_number=number).derive_file_key(master, unhex(inputs["uid"])).hex()


@pytest.mark.parametrize("vector", of("kdf_sdm_backend_standard"))
def test_sdm_backend_standard(vector: Vector) -> None:
    assert sdm_backend_key(vector, SdmBackend) == vector["expected"]["key"]


@pytest.mark.parametrize("vector", of("kdf_sdm_backend_legacy"))
def test_sdm_backend_legacy(vector: Vector) -> None:
    assert sdm_backend_key(vector, SdmBackendLegacy) == vector["expected"]["key"]


@pytest.mark.parametrize("vector", of("originality_secp224r1"))
def test_originality(vector: Vector) -> None:
    inputs = vector["inputs"]
    public_key = unhex(inputs["public_key"])
    assert public_key == NTAG424_PUBLIC_KEY
    assert verify_originality(public_key, unhex(inputs["uid"]), unhex(inputs["signature"])) is vector["expected"]["valid"]
