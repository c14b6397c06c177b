"""Published vectors over the native core and its twin.

`aes_cmac.json` and `sdm_aes.json` in this folder hold the examples of the standards and of NXP's application notes;
`data/` holds the independent vectors. All of them run over both cores.
"""

import json
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.vectors import Vector, independent_vectors

HERE = Path(__file__).parent
OPERATIONS = (
    "aes_cmac",
    "aes_cmac_subkeys",
    "aes_cmac_verify",
    "sdm_session",
    "sdm_picc",
    "sdm_file",
    "sdm_mac",
    "sdm_message",
)


@pytest.fixture(scope="module", params=["_cmac", "_cmac_py"])
def core(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "_cmac" and os.environ.get("IXFAST_NO_EXTENSIONS") == "1":
        pytest.skip("IXFAST_NO_EXTENSIONS=1: there is no native core to test")
    return import_module(f"ixfast.{request.param}")


def own_cases(name: str) -> list[Any]:
    cases = json.loads((HERE / f"{name}.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


def aes_vectors() -> list[Vector]:
    """The independent vectors of the operations that the core has, in AES mode."""
    return [v for v in independent_vectors() if v["op"] in OPERATIONS and v["inputs"].get("mode", "AES") == "AES"]


def unhex(text: str | None) -> bytes:
    return bytes.fromhex(text or "")


def counter_of(hexadecimal: str | None, order: str) -> int:
    return int.from_bytes(bytes.fromhex(hexadecimal), order) if hexadecimal else -1  # type: ignore[arg-type]


@pytest.mark.parametrize("case", own_cases("aes_cmac"))
def test_aes_and_cmac(core: ModuleType, case: dict[str, str]) -> None:
    key = unhex(case["key"])
    match case["operation"]:
        case "aes":
            assert core.aes_encrypt_block(key, unhex(case["plaintext"])).hex() == case["ciphertext"]
            assert core.aes_decrypt_block(key, unhex(case["ciphertext"])).hex() == case["plaintext"]
        case "subkeys":
            assert [part.hex() for part in core.aes_cmac_subkeys(key)] == [case["l"], case["k1"], case["k2"]]
        case "cmac":
            assert core.aes_cmac(key, unhex(case["message"])).hex() == case["mac"]
            assert core.aes_cmac_verify(key, unhex(case["message"]), unhex(case["mac"])) is True
        case other:
            pytest.fail(f"unknown operation {other}")


@pytest.mark.parametrize("case", own_cases("sdm_aes"))
def test_sdm(core: ModuleType, case: dict[str, Any]) -> None:
    if case["operation"] == "picc":
        assert core.picc_decrypt(unhex(case["meta_key"]), unhex(case["picc_data"])).hex() == case["block"]
        return
    tap = unhex(case["file_key"]), unhex(case["uid"]), case["counter"]
    match case["operation"]:
        case "session_keys":
            assert [key.hex() for key in core.sdm_session_keys(*tap)] == [case["k_enc"], case["k_mac"]]
        case "file":
            assert core.sdm_decrypt_file(*tap, unhex(case["ciphertext"])).hex() == case["plaintext"]
            assert core.sdm_encrypt_file(*tap, unhex(case["plaintext"])).hex() == case["ciphertext"]
        case "mac":
            assert core.sdm_mac(*tap, case["window"].encode()).hex() == case["mac"]
            assert core.sdm_verify(*tap, case["window"].encode(), unhex(case["mac"])) is True
        case other:
            pytest.fail(f"unknown operation {other}")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_independent_vectors(core: ModuleType, operation: str) -> None:
    vectors = [vector for vector in aes_vectors() if vector["op"] == operation]
    assert vectors or operation == "sdm_mac", f"no vector of operation {operation}"  # sdm_mac has LRP vectors only
    wrong = [vector["name"] for vector in vectors if not holds(core, operation, vector["inputs"], vector["expected"])]
    assert not wrong


def holds(core: ModuleType, operation: str, given: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether the core answers one independent vector as expected."""
    tap = unhex(given.get("file_key")), unhex(given.get("uid")), counter_of(given.get("ctr_lsb"), "little")
    match operation:
        case "aes_cmac":
            return bool(core.aes_cmac(unhex(given["key"]), unhex(given["msg"])) == unhex(expected["mac"]))
        case "aes_cmac_subkeys":
            subkeys = core.aes_cmac_subkeys(unhex(given["key"]))
            return bool(subkeys == (unhex(expected["l"]), unhex(expected["k1"]), unhex(expected["k2"])))
        case "aes_cmac_verify":
            return bool(cmac_is_valid(core, given) == expected["valid"])
        case "sdm_session":
            return bool(core.sdm_session_keys(*tap) == (unhex(expected["k_enc"]), unhex(expected["k_mac"])))
        case "sdm_picc":
            block = core.picc_decrypt(unhex(given["meta_key"]), unhex(given["picc_enc"]))
            plain = expected.get("plaintext") or block.hex()
            uid, counter = mirrored(block)
            known = expected["ctr"] if expected["ctr"] is not None else -1
            return bool((block.hex(), uid, counter) == (plain, unhex(expected["uid"]), known))
        case "sdm_file":
            plaintext = core.sdm_decrypt_file(*tap, unhex(given["enc"]))
            return bool(plaintext == unhex(expected["file_data"]))
        case "sdm_mac":
            return bool(core.sdm_mac(*tap, given["mac_input_ascii"].encode()) == unhex(expected["mac"]))
        case _:
            return message_holds(core, given, expected)


def cmac_is_valid(core: ModuleType, given: dict[str, Any]) -> bool:
    try:
        return bool(core.aes_cmac_verify(unhex(given["key"]), unhex(given["msg"]), unhex(given["tag"])))
    except ValueError:
        return False


def mirrored(block: bytes) -> tuple[bytes, int]:
    """UID and counter of a decrypted PICCData block; chips proper parse it in `ixfast.chips`."""
    uid = block[1:8] if block[0] & 0x80 else b""
    rest = block[1 + len(uid) :]
    return uid, int.from_bytes(rest[:3], "little") if block[0] & 0x40 else -1


def message_holds(core: ModuleType, given: dict[str, Any], expected: dict[str, Any]) -> bool:
    """A whole message as far as the core carries it: who, the MAC, and the file data once the MAC holds."""
    if given["picc_mirror"] == "encrypted":
        uid, counter = mirrored(core.picc_decrypt(unhex(given["meta_key"]), unhex(given["picc_enc"])))
    else:
        uid, counter = unhex(given["uid"]), counter_of(given["ctr_msb"], "big")
    file_key, window = unhex(given["file_key"]), given["mac_input_ascii"].encode()
    if not core.sdm_verify(file_key, uid, counter, window, unhex(given["mac"])):
        return expected["valid"] is False
    if not expected["valid"] or (uid, counter) != (
        unhex(expected["uid"]),
        -1 if expected["ctr"] is None else expected["ctr"],
    ):
        return False
    if expected.get("file_data") is None:
        return True
    return bool(core.sdm_decrypt_file(file_key, uid, counter, unhex(given["enc"])) == unhex(expected["file_data"]))
