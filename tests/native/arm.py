"""Cross-compiles the core's headers for AArch64 and runs published vectors and generated cases in an emulator.

Run it as a script: `python tests/native/arm.py`, or `--host` for this machine's own compiler. It needs
aarch64-linux-gnu-gcc and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user). The expected
results come from the vectors and from the twins, `_cmac_py` and `_lrp_py`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ixfast import _cmac_py as twin
from ixfast import _lrp_py as lrp_twin

ROOT = Path(__file__).parents[2]
SEED = 4493
GENERATED_CASES = 1_000
LRP_CASES = 100  # the twin computes 300 of these a second


def published() -> Iterator[str]:
    for name in ("aes_cmac", "sdm_aes"):
        for case in json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text())["cases"]:
            match case["operation"]:
                case "aes":
                    yield f"aes {case['key']} {case['plaintext']} {case['ciphertext']}"
                case "cmac":
                    yield f"aes_cmac {case['key']} {case['message'] or '-'} {case['mac']}"
                    truncated = bytes.fromhex(case["mac"])[1::2].hex()
                    yield f"mact {case['key']} {case['message'] or '-'} {truncated} 1"
                case "mac":
                    window = case["window"].encode().hex() or "-"
                    yield f"sdm {case['file_key']} {case['uid']} {case['counter']:08x} {window} {case['mac']} 1"


def published_lrp() -> Iterator[str]:
    for case in json.loads((ROOT / "tests" / "vectors" / "lrp.json").read_text())["cases"]:
        given, expected = case["inputs"], case["expected"]
        match case["op"]:
            case "lrp_cmac":
                yield f"lrp_cmac {given['key']} {given['msg'] or '-'} {expected['mac']}"
            case "lricb":
                padded = given["plaintext"] + "80" + "00" * 15
                text = padded[: len(expected["ciphertext"])]
                yield f"lricb {given['key']} {given['updated_key']} {given['ctr']} {text} {expected['ciphertext']}"
            case "sdm_mac":
                counter = int.from_bytes(bytes.fromhex(given["ctr_lsb"]), "little")
                yield f"lrp_sdm {given['file_key']} {given['uid']} {counter:08x} - {expected['mac']} 1"


def sent(dice: random.Random, right: bytes) -> tuple[bytes, bool]:
    """A MAC (8 bytes) as a message carries it, half of them with one wrong bit, and whether it is right."""
    mac, valid = bytearray(right), dice.random() < 0.5
    if not valid:
        mac[dice.randrange(8)] ^= 1 << dice.randrange(8)
    return bytes(mac), valid


def generated_tap(dice: random.Random, operation: str, mac_of: Callable[[bytes, bytes, int, bytes], bytes]) -> str:
    key, uid = dice.randbytes(16), dice.choice((b"", dice.randbytes(7)))
    counter = dice.choice((-1, 0, 0xFFFFFF, dice.randrange(1 << 24)))
    window = dice.randbytes(dice.choice((0, 0, 15, 16, 17, 32, 38, dice.randrange(200))))
    mac, valid = sent(dice, mac_of(key, uid, counter, window))
    mirrored = f"{counter:08x}" if counter >= 0 else "-"
    return f"{operation} {key.hex()} {uid.hex() or '-'} {mirrored} {window.hex() or '-'} {mac.hex()} {valid:d}"


def generated_mact(dice: random.Random, key: bytes, message: bytes) -> str:
    mac, valid = sent(dice, twin.mact(key, message))
    return f"mact {key.hex()} {message.hex() or '-'} {mac.hex()} {valid:d}"


def generated() -> Iterator[str]:
    dice = random.Random(SEED)
    for _ in range(GENERATED_CASES):
        yield generated_tap(dice, "sdm", twin.sdm_mac)
        key, window = dice.randbytes(16), dice.randbytes(dice.choice((0, 0, 15, 16, 17, 32, 38, dice.randrange(200))))
        yield f"aes {key.hex()} {(block := dice.randbytes(16)).hex()} {twin.aes_encrypt_block(key, block).hex()}"
        yield f"aes_cmac {key.hex()} {window.hex() or '-'} {twin.aes_cmac(key, window).hex()}"
        yield generated_mact(dice, key, window)
    for _ in range(LRP_CASES):
        yield generated_tap(dice, "lrp_sdm", lrp_twin.lrp_sdm_mac)
        key, counter, text = dice.randbytes(16), dice.randbytes(dice.randrange(1, 17)), dice.randbytes(48)
        updated_key = dice.randrange(4)
        encrypted = lrp_twin.lricb_encrypt(key, updated_key, counter, text)
        yield f"lricb {key.hex()} {updated_key} {counter.hex()} {text.hex()} {encrypted.hex()}"
    # The last cases, whose stacks are searched for keys: these are random and have all fields.
    yield generated_mact(dice, dice.randbytes(16), dice.randbytes(15))
    key, uid = dice.randbytes(16), dice.randbytes(7)
    yield f"lrp_sdm {key.hex()} {uid.hex()} 00abcdef {b'A1&cmac='.hex() * 3} {'00' * 8} 0"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", action="store_true", help="use this machine's compiler and no emulator")
    host = parser.parse_args().host
    compiler = os.environ.get("CC", "cc") if host else "aarch64-linux-gnu-gcc"
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "core_check")
        flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static", f"-I{ROOT / 'src' / 'ixfast'}"]
        source = str(ROOT / "tests" / "native" / "core_check.c")
        subprocess.run([compiler, *flags, source, "-o", program], check=True)
        lines = "\n".join([*published(), *published_lrp(), *generated()])
        command = [program] if host else ["qemu-aarch64", program]
        return subprocess.run(command, input=lines, text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
