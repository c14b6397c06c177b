"""Published and independent vectors of LRP mode over the native core and its twin.

`lrp.json` in this folder holds examples from NXP's application note and from this project; `data/` holds the independent
vectors. test_message_vectors.py reads whole messages from their URLs.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.vectors import Vector, independent_vectors

from ixfast import _lrp_py

HERE = Path(__file__).parent
COUNTS = {
    "lrp_key_material": 2,
    "lrp_eval": 36,
    "lrp_cmac": 31,
    "lricb": 38,
    "sdm_session": 2,
    "sdm_picc": 0,
    "sdm_file": 1,
    "sdm_mac": 1,
    "sdm_message": 30,
}


@pytest.fixture(scope="module", params=["_lrp", "_lrp_py"])
def core(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "_lrp" and os.environ.get("IXFAST_NO_EXTENSIONS") == "1":
        pytest.skip("IXFAST_NO_EXTENSIONS=1: there is no native core to test")
    return import_module(f"ixfast.{request.param}")


def lrp_vectors() -> list[Vector]:
    """The independent vectors of the primitive, and of messages in LRP mode."""
    return [v for v in independent_vectors() if v["op"].startswith("lr") or v["inputs"].get("mode") == "LRP"]


def own_cases() -> list[Vector]:
    return list(json.loads((HERE / "lrp.json").read_text())["cases"])


def unhex(text: str | None) -> bytes:
    return bytes.fromhex(text or "")


def nibbles_of(digits: str) -> bytes:
    return bytes(int(digit, 16) for digit in digits)


def padded(plaintext: bytes, padding: bool) -> bytes:
    """ISO/IEC 9797-1 method 2: one bit, then zeros, at least one byte."""
    return plaintext + b"\x80" + bytes(-(len(plaintext) + 1) % 16) if padding else plaintext


def doubled(block: bytes) -> bytes:
    number = int.from_bytes(block) << 1
    return (number if number < 1 << 128 else number % (1 << 128) ^ 0x87).to_bytes(16)


def blocks_are(joined: bytes, expected: dict[str, str]) -> bool:
    return all(joined[16 * int(place) :][:16].hex() == block for place, block in expected.items())


def holds(core: Any, operation: str, given: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether the core gives the expected result for one vector."""
    key = unhex(given.get("key"))
    match operation:
        case "lrp_key_material":
            plaintexts, updated_keys = core.lrp_key_material(key)
            return blocks_are(plaintexts, expected["plaintexts"]) and blocks_are(updated_keys, expected["updated_keys"])
        case "lrp_eval":
            nibbles = nibbles_of(given["iv_nibbles"])
            return bool(core.lrp_eval(key, given["updated_key"], nibbles, given["final"]).hex() == expected["out"])
        case "lrp_cmac":
            message = unhex(given["msg"])
            subkey = doubled(core.lrp_eval(key, 0, bytes(32), True))
            if not message or len(message) % 16:
                subkey = doubled(subkey)
            return bool((core.lrp_cmac(key, message).hex(), subkey.hex()) == (expected["mac"], expected["kx"]))
        case "lricb":
            plaintext, ciphertext = padded(unhex(given["plaintext"]), given["padding"]), unhex(expected["ciphertext"])
            arguments = key, given["updated_key"], unhex(given["ctr"])
            encrypted = core.lricb_encrypt(*arguments, plaintext)
            return bool((encrypted, core.lricb_decrypt(*arguments, ciphertext)) == (ciphertext, plaintext))
        case _:
            return message_part_holds(core, operation, given, expected)


def message_part_holds(core: Any, operation: str, given: dict[str, Any], expected: dict[str, Any]) -> bool:
    if operation == "sdm_message":
        return message_holds(core, given, expected)
    tap = unhex(given["file_key"]), unhex(given["uid"]), int.from_bytes(unhex(given["ctr_lsb"]), "little")
    match operation:
        case "sdm_session":
            mirrored = unhex("00010080" + given["uid"] + given["ctr_lsb"] + "1ee1")
            return bool((mirrored.hex(), core.lrp_session_master(*tap).hex()) == (expected["sv"], expected["master"]))
        case "sdm_file":
            block = core.lrp_picc_decrypt(unhex(given["meta_key"]), unhex(given["picc_enc"]))
            file_data = core.lrp_sdm_decrypt_file(*tap, unhex(given["enc"]))
            return bool(file_data == unhex(expected["file_data"]) and mirrored_of(block) == tap[1:])
        case "sdm_mac":
            window = given["mac_input_ascii"].encode()
            mac = core.lrp_sdm_mac(*tap, window)
            return bool(mac == unhex(expected["mac"]) and core.lrp_sdm_verify(*tap, window, mac))
        case other:
            pytest.fail(f"unknown operation {other}")


def mirrored_of(block: bytes) -> tuple[bytes, int]:
    """UID and counter of a decrypted PICCData block."""
    uid = block[1:8] if block[0] & 0x80 else b""
    rest = block[1 + len(uid) :]
    return uid, int.from_bytes(rest[:3], "little") if block[0] & 0x40 else -1


def message_holds(core: Any, given: dict[str, Any], expected: dict[str, Any]) -> bool:
    """A whole message as far as the core processes it: UID and counter, the MAC, and the file data once the MAC is valid."""
    if given["picc_mirror"] == "encrypted":
        meta_key, picc_data = unhex(given["meta_key"]), unhex(given["picc_enc"])
        block = core.lrp_picc_decrypt(meta_key, picc_data)
        if core.lrp_picc_encrypt(meta_key, picc_data[:8], block) != picc_data:
            return False
        uid, counter = mirrored_of(block)
    else:
        uid, counter = unhex(given["uid"]), int.from_bytes(unhex(given["ctr_msb"]))
    file_key, window = unhex(given["file_key"]), given["mac_input_ascii"].encode()
    if not core.lrp_sdm_verify(file_key, uid, counter, window, unhex(given["mac"])):
        return expected["valid"] is False
    if not expected["valid"] or (uid, counter) != (unhex(expected["uid"]), expected["ctr"]):
        return False
    if expected.get("file_data") is None:
        return True
    return bool(core.lrp_sdm_decrypt_file(file_key, uid, counter, unhex(given["enc"])) == unhex(expected["file_data"]))


def wrong_ones(core: Any, vectors: Iterable[Vector]) -> list[str]:
    return [v["name"] for v in vectors if not holds(core, v["op"], v["inputs"], v["expected"])]


@pytest.mark.parametrize("case", own_cases(), ids=lambda case: str(case["name"]))
def test_published_examples(core: ModuleType, case: Vector) -> None:
    assert holds(core, case["op"], case["inputs"], case["expected"])


@pytest.mark.parametrize("operation", COUNTS)
def test_independent_vectors(core: ModuleType, operation: str) -> None:
    counted = Counter(v["op"] for v in lrp_vectors())
    assert {name: counted[name] for name in COUNTS} == COUNTS
    assert counted.total() == sum(COUNTS.values())
    assert wrong_ones(core, [v for v in lrp_vectors() if v["op"] == operation]) == []


# --- controls: lrp.json alone catches a broken LRP -----------------------------------------------

Primitive = _lrp_py._Primitive


def without_final(self: Any, updated_key: int, nibbles: Iterable[int], *, final: bool = True) -> bytes:
    return REAL_EVAL(self, updated_key, nibbles, final=False)


def low_nibble_first(block: bytes) -> list[int]:
    return [nibble for byte in block for nibble in (byte & 15, byte >> 4)]


def one_product_too_late(chain: bytes, count: int) -> list[bytes]:
    return REAL_PRODUCTS(chain, count + 1)[1:]


def standing_still(self: Any, updated_key: int, counter: bytes, text: bytes, work: Callable[[bytes, bytes], bytes]) -> bytes:
    return b"".join(REAL_LRICB(self, updated_key, counter, text[i : i + 16], work) for i in range(0, len(text), 16))


REAL_EVAL, REAL_PRODUCTS, REAL_LRICB = Primitive.eval, _lrp_py._products, Primitive.lricb


@pytest.mark.parametrize(
    ("place", "name", "broken", "caught_by"),
    [
        (Primitive, "eval", without_final, "cmac-of-one-block"),
        (Primitive, "lricb", standing_still, "lricb-two-blocks"),
        (_lrp_py, "_nibbles", low_nibble_first, "session"),
        (_lrp_py, "_products", one_product_too_late, "key-material"),
        (_lrp_py, "_MAC", 1, "mac-of-a-tag"),
        (_lrp_py, "_ENC", 0, "file-of-a-tag"),
        (_lrp_py, "_NEXT", b"\xaa" * 16, "key-material"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_control_a_broken_core_is_caught(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, broken: Any, caught_by: str
) -> None:
    assert wrong_ones(_lrp_py, own_cases()) == []
    monkeypatch.setattr(place, name, broken)
    assert caught_by in wrong_ones(_lrp_py, own_cases())
