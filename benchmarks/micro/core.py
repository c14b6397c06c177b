"""What one verification costs: native core, twin, and a C loop over the same headers without Python.

Prints nanoseconds a message (fastest and median of the rounds) and a hash of the verdicts. Every row of a workload must
have the same hash; otherwise the exit status is 1. Workloads: an empty MAC window, and 38 characters (file data and
`&cmac=`). One message in eight is forged. `--smoke` runs a size that only shows that the benchmark works.
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
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ixfast import _cmac_py as twin
from ixfast import cmac

HEADERS = Path(__file__).parents[2] / "src" / "ixfast"
SEED = 1024
ARRAYS = ("file_keys", "uids", "counters", "windows", "offsets", "macs", "forms")
C_LOOP = """
#include "native/sdm.h"

void single(const ix_sdm_messages *m, uint8_t *verdicts)
{
    for (size_t i = 0; i < m->count; i++) {
        uint32_t start = m->offsets ? ix_u32(m->offsets, i) : 0, end = m->offsets ? ix_u32(m->offsets, i + 1) : 0;
        verdicts[i] = (uint8_t)ix_sdm_verify(m->file_keys + 16 * i, m->uids + 7 * i, ix_u32(m->counters, i), m->forms[i],
                                             m->windows + start, end - start, m->macs + 8 * i);
    }
}

void batch(const ix_sdm_messages *m, uint8_t *verdicts)
{
    static ix_variant variants[IX_VARIANTS_MAX]; /* asked for once: CPUID takes microseconds in a virtual machine */
    if (variants[0].name || ix_variants_of_this_cpu(variants))
        variants[0].verify_batch(m, verdicts);
}
"""


class Messages(ctypes.Structure):
    """`ix_sdm_messages` of native/sdm.h."""

    _fields_ = (*((name, ctypes.c_char_p) for name in ARRAYS), ("count", ctypes.c_size_t))


class Workload:
    """Messages with both mirrors and windows of one size, as tuples and packed."""

    def __init__(self, count: int, window_size: int) -> None:
        dice = random.Random(SEED)
        self.singles: list[tuple[bytes, bytes, int, bytes, bytes]] = []
        for _ in range(count):
            tap = dice.randbytes(16), dice.randbytes(7), dice.randrange(1 << 24), dice.randbytes(window_size)
            forged = dice.randrange(8) == 0
            self.singles.append((*tap, dice.randbytes(8) if forged else twin.sdm_mac(*tap)))
        keys, uids, counters, texts, macs = zip(*self.singles, strict=True)
        offsets = struct.pack(f"<{count + 1}I", *(window_size * i for i in range(count + 1)))
        self.packed: dict[str, Any] = {
            "file_keys": b"".join(keys),
            "uids": b"".join(uids),
            "counters": struct.pack(f"<{count}I", *counters),
            "windows": (b"".join(texts), offsets) if window_size else None,
            "macs": b"".join(macs),
            "forms": b"\3" * count,
        }

    def single(self, core: Any) -> bytes:
        verify = core.sdm_verify
        return bytes([verify(key, uid, counter, window, mac) for key, uid, counter, window, mac in self.singles])

    def batch(self, core: Any) -> bytes:
        return bytes(core.sdm_verify_batch(**self.packed))

    def batch_by(self, core: Any, variant: str) -> bytes:
        core.use_variant(variant)
        return self.batch(core)

    def in_c(self, function: Any) -> Callable[[], bytes]:
        text, offsets = self.packed["windows"] or (None, None)
        messages = Messages(**{**self.packed, "windows": text, "offsets": offsets}, count=len(self.singles))
        verdicts = ctypes.create_string_buffer(len(self.singles))

        def run() -> bytes:
            function(ctypes.byref(messages), verdicts)
            return verdicts.raw

        return run


def c_functions(folder: str) -> Any:
    source, library = Path(folder) / "loop.c", Path(folder) / "loop.so"
    source.write_text(C_LOOP)
    command = [os.environ.get("CC", "cc"), "-O2", "-std=c11", "-shared", "-fPIC", f"-I{HEADERS}", str(source)]
    subprocess.run([*command, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def rows(workload: Workload, in_c: Any) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if cmac.REASON is None:
        native: Any = import_module("ixfast._cmac")
        yield "C loop, one at a time", workload.in_c(in_c.single)
        yield "C, batch", workload.in_c(in_c.batch)
        yield "native, one Python call each", partial(workload.single, native)
        for variant in native.VARIANTS:
            yield f"native, batch, {variant}", partial(workload.batch_by, native, variant)
        native.use_variant(native.IMPLEMENTATION)
    yield "twin, one Python call each", partial(workload.single, twin)
    yield "twin, batch", partial(workload.batch, twin)


def measure(run: Callable[[], bytes], count: int, rounds: int) -> tuple[float, float, str]:
    """Fastest and median nanoseconds a message, and the hash of the verdicts."""
    spent_ns = []
    for _ in range(rounds):
        start_ns = time.perf_counter_ns()
        verdicts = run()
        spent_ns.append((time.perf_counter_ns() - start_ns) / count)
    return min(spent_ns), statistics.median(spent_ns), hashlib.sha256(verdicts).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--json", type=Path, help="a file that the figures go to as well")
    given = parser.parse_args()
    count, rounds = (64, 3) if given.smoke else (1024, 201)
    reason = f" ({cmac.REASON})" if cmac.REASON else ""
    print(f"{cmac.IMPLEMENTATION}{reason}, {processor()}, Linux {platform.release()}, Python {platform.python_version()},")
    print(f"cryptography {version('cryptography')}, {count} messages, {rounds} rounds (the twin a tenth), seed {SEED}")
    agree, kept = True, []
    with tempfile.TemporaryDirectory() as folder:
        in_c = c_functions(folder) if cmac.REASON is None else None
        for size in (0, 38):
            print(f"\nwindow of {size} bytes{'':<17}  ns fastest  ns median  verdicts")
            workload, hashes = Workload(count, size), set()
            for name, run in rows(workload, in_c):
                fastest, median, digest = measure(run, count, max(3, rounds // 10) if "twin" in name else rounds)
                print(f"{name:<34} {fastest:>11.1f} {median:>10.1f}  {digest}")
                hashes.add(digest)
                kept.append({"window_bytes": size, "name": name, "ns_fastest": fastest, "ns_median": median, "digest": digest})
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
