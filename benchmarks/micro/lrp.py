"""What LRP mode costs: a verification, a mirror and file data by the native core and its twin, and two of its decisions.

Prints microseconds an operation (fastest and median of the rounds) and a hash of the results; all rows of one operation
must have the same hash, otherwise the exit status is 1. Rows in C show what native/lrp.h decided: what it costs to select
a plaintext from all 16 instead of looking it up by a secret nibble, and what it would save to keep what a file key
becomes. One message in eight is forged. `--smoke` runs a size that only shows that the benchmark works.
"""

import argparse
import ctypes
import hashlib
import json
import os
import platform
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ixfast import _lrp_py as twin
from ixfast import cmac

HEADERS = Path(__file__).parents[2] / "src" / "ixfast"
SEED = 12304
COUNT, SMOKE_COUNT = 512, 8
ARRAYS = ("keys", "uids", "counters", "windows", "macs")
C_LOOPS = """
#include "native/lrp.h"

typedef struct { const uint8_t *keys, *uids, *counters, *windows, *macs; size_t window_size, count; } taps;

static ix_lrp kept[512]; /* of the file keys */

void keep(const taps *t)
{
    for (size_t i = 0; i < t->count; i++)
        ix_lrp_init_for_cmac(&kept[i], t->keys + 16 * i);
}

void verify(const taps *t, uint8_t *out)
{
    for (size_t i = 0; i < t->count; i++)
        out[i] = (uint8_t)ix_lrp_sdm_verify(t->keys + 16 * i, t->uids + 7 * i, ix_u32(t->counters, i), 3,
                                            t->windows + t->window_size * i, t->window_size, t->macs + 8 * i);
}

void verify_kept(const taps *t, uint8_t *out)
{
    for (size_t i = 0; i < t->count; i++) {
        uint8_t vector[16] = {0, 1, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1e, 0xe1}, block[16], difference = 0;
        ix_lrp session;
        memcpy(vector + 4, t->uids + 7 * i, 7);
        memcpy(vector + 11, t->counters + 4 * i, 3);
        ix_lrp_cmac(&kept[i], vector, 16, block);
        ix_lrp_init_for_cmac(&session, block);
        ix_lrp_cmac(&session, t->windows + t->window_size * i, t->window_size, block);
        for (size_t b = 0; b < 8; b++)
            difference |= (uint8_t)(block[2 * b + 1] ^ t->macs[8 * i + b]);
        out[i] = difference == 0;
        ix_wipe(&session, sizeof session);
    }
}

void selected(const taps *t, uint8_t *out)
{
    for (size_t i = 0; i < t->count; i++)
        ix_lrp_eval(&kept[i], 0, t->keys + 16 * i, 32, 1, out + 16 * i);
}

IX_FUNCTION void eval_by_index(const ix_lrp *lrp, const uint8_t *x, uint8_t *out)
{
    ix1_vec chain = lrp->updated[0];
    for (size_t i = 0; i < 32; i++)
        chain = ix_lrp_once(chain, lrp->plaintext[x[i / 2] >> (i % 2 ? 0 : 4) & 15]);
    ix1_store(out, ix_lrp_once(chain, ix1_zero()));
}

void indexed(const taps *t, uint8_t *out)
{
    for (size_t i = 0; i < t->count; i++)
        eval_by_index(&kept[i], t->keys + 16 * i, out + 16 * i);
}
"""

Row = tuple[str, Callable[[], bytes]]


class Taps(ctypes.Structure):
    """`taps` of the loops in C."""

    _fields_ = (*((name, ctypes.c_char_p) for name in ARRAYS), ("window_size", ctypes.c_size_t), ("count", ctypes.c_size_t))


class Workload:
    """Taps with both mirrors and windows of one size."""

    def __init__(self, count: int, window_size: int) -> None:
        dice = random.Random(SEED)
        self.taps: list[tuple[bytes, bytes, int, bytes, bytes]] = []
        for _ in range(count):
            tap = dice.randbytes(16), dice.randbytes(7), dice.randrange(1 << 24), dice.randbytes(window_size)
            forged = dice.randrange(8) == 0
            self.taps.append((*tap, dice.randbytes(8) if forged else twin.lrp_sdm_mac(*tap)))
        self.mirrors = [dice.randbytes(24) for _ in range(count)]
        self.file_data = [dice.randbytes(16) for _ in range(count)]
        self.window_size = window_size

    def verify(self, core: Any) -> bytes:
        return bytes([core.lrp_sdm_verify(*tap) for tap in self.taps])

    def read_mirror(self, core: Any) -> bytes:
        return b"".join(core.lrp_picc_decrypt(tap[0], picc) for tap, picc in zip(self.taps, self.mirrors, strict=True))

    def decrypt_file(self, core: Any) -> bytes:
        texts = zip(self.taps, self.file_data, strict=True)
        return b"".join(core.lrp_sdm_decrypt_file(key, uid, counter, text) for (key, uid, counter, *_), text in texts)

    def in_c(self, loops: Any, name: str, bytes_each: int) -> Callable[[], bytes]:
        keys, uids, counters, windows, macs = zip(*self.taps, strict=True)
        packed = (*map(b"".join, (keys, uids)), struct.pack(f"<{len(keys)}I", *counters), *map(b"".join, (windows, macs)))
        taps = Taps(*packed, self.window_size, len(keys))
        out = ctypes.create_string_buffer(bytes_each * len(keys))
        loops.keep(ctypes.byref(taps))

        def run() -> bytes:
            getattr(loops, name)(ctypes.byref(taps), out)
            return out.raw

        return run


def compiled(folder: str) -> Any:
    source, library = Path(folder) / "loops.c", Path(folder) / "loops.so"
    source.write_text(C_LOOPS)
    command = [os.environ.get("CC", "cc"), "-O2", "-std=c11", "-shared", "-fPIC", f"-I{HEADERS}", str(source)]
    subprocess.run([*command, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def operations(count: int, loops: Any) -> Iterator[tuple[str, list[Row]]]:
    cores = ([] if cmac.REASON else [("native", import_module("ixfast._lrp"))]) + [("twin", twin)]
    for size in (0, 38):
        workload = Workload(count, size)
        rows: list[Row] = []
        if loops is not None:
            rows += [
                ("C", workload.in_c(loops, "verify", 1)),
                ("C, if what the file key becomes were kept", workload.in_c(loops, "verify_kept", 1)),
            ]
        yield f"verification, window of {size} bytes", rows + [(name, partial(workload.verify, core)) for name, core in cores]
    yield "encrypted mirror", [(name, partial(workload.read_mirror, core)) for name, core in cores]
    yield "file data, one block", [(name, partial(workload.decrypt_file, core)) for name, core in cores]
    if loops is not None:
        yield (
            "evaluation of a block",
            [
                ("C, plaintexts selected", workload.in_c(loops, "selected", 16)),
                ("C, if they were looked up by secret nibbles", workload.in_c(loops, "indexed", 16)),
            ],
        )


def measure(run: Callable[[], bytes], count: int, rounds: int) -> tuple[float, float, str]:
    """Fastest and median microseconds an operation, and the hash of the results."""
    spent_us = []
    for _ in range(rounds):
        start_ns = time.perf_counter_ns()
        results = run()
        spent_us.append((time.perf_counter_ns() - start_ns) / count / 1e3)
    return min(spent_us), statistics.median(spent_us), hashlib.sha256(results).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--json", type=Path, help="a file that the figures go to as well")
    given = parser.parse_args(arguments)
    count, rounds, twin_rounds = (SMOKE_COUNT, 1, 1) if given.smoke else (COUNT, 51, 3)
    reason = f" ({cmac.REASON})" if cmac.REASON else ""
    print(f"{cmac.IMPLEMENTATION}{reason}, {processor()}, Linux {platform.release()}, Python {platform.python_version()},")
    print(f"cryptography {version('cryptography')}, {count} taps, {rounds} rounds (the twin {twin_rounds}), seed {SEED}")
    agree, kept = True, []
    with tempfile.TemporaryDirectory() as folder:
        for operation, rows in operations(count, None if cmac.REASON else compiled(folder)):
            print(f"\n{operation:<45} us fastest  us median  results")
            hashes = set()
            for name, run in rows:
                fastest, median, digest = measure(run, count, twin_rounds if name == "twin" else rounds)
                print(f"{name:<45} {fastest:>10.2f} {median:>10.2f}  {digest}")
                hashes.add(digest)
                kept.append({"operation": operation, "name": name, "us_fastest": fastest, "us_median": median, "digest": digest})
            agree = agree and len(hashes) == 1
    if given.json is not None:
        given.json.write_text(json.dumps(kept))
    if not agree:
        print("the implementations disagree", file=sys.stderr)
    return 0 if agree else 1


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
