"""Cross-compiles the core's headers for AArch64 and runs published vectors and generated cases in an emulator.

Run it as a script: `python tests/native/arm.py`, or `--host` for this machine's own compiler. It needs
aarch64-linux-gnu-gcc and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user). The expected
answers come from the vectors and from `_cmac_py`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ixfast import _cmac_py as twin

ROOT = Path(__file__).parents[2]
SEED = 4493
GENERATED_CASES = 1_000


def published() -> Iterator[str]:
    for name in ("aes_cmac", "sdm_aes"):
        for case in json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text())["cases"]:
            match case["operation"]:
                case "aes":
                    yield f"aes {case['key']} {case['plaintext']} {case['ciphertext']}"
                case "cmac":
                    yield f"aes_cmac {case['key']} {case['message'] or '-'} {case['mac']}"
                case "mac":
                    window = case["window"].encode().hex() or "-"
                    yield f"sdm {case['file_key']} {case['uid']} {case['counter']:08x} {window} {case['mac']} 1"


def generated() -> Iterator[str]:
    dice = random.Random(SEED)
    for _ in range(GENERATED_CASES):
        key, uid = dice.randbytes(16), dice.choice((b"", dice.randbytes(7)))
        counter = dice.choice((-1, 0, 0xFFFFFF, dice.randrange(1 << 24)))
        window = dice.randbytes(dice.choice((0, 0, 15, 16, 17, 32, 38, dice.randrange(200))))
        mac = bytearray(twin.sdm_mac(key, uid, counter, window))
        valid = dice.random() < 0.5
        if not valid:
            mac[dice.randrange(8)] ^= 1 << dice.randrange(8)
        sent = f"{counter:08x}" if counter >= 0 else "-"
        yield f"sdm {key.hex()} {uid.hex() or '-'} {sent} {window.hex() or '-'} {mac.hex()} {valid:d}"
        yield f"aes {key.hex()} {(block := dice.randbytes(16)).hex()} {twin.aes_encrypt_block(key, block).hex()}"
        yield f"aes_cmac {key.hex()} {window.hex() or '-'} {twin.aes_cmac(key, window).hex()}"


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
        lines = "\n".join([*published(), *generated()])
        command = [program] if host else ["qemu-aarch64", program]
        return subprocess.run(command, input=lines, text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
