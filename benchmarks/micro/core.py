"""Cost of one verification: native core, its twin in plain Python, and a C loop over the same headers without Python.

Prints nanoseconds per message (fastest and median of the rounds) and a hash of the verdicts. Workloads: an empty MAC window,
and 38 characters (file data and `&cmac=`). `--smoke` runs a size that only shows that the benchmark works.
"""

import ctypes
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.micro import native_loops
from benchmarks.micro.native_loops import Operation, Rounds, Row, simulated_taps
from ixfast import _cmac_py as twin
from ixfast import cmac

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
        _, self.singles = simulated_taps(SEED, count, window_size, twin.sdm_mac)
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


def rows(workload: Workload, in_c: Any) -> Iterator[Row]:
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


def operations(count: int, loops: Any) -> Iterator[Operation]:
    for size in (0, 38):
        yield Operation(f"window of {size} bytes", {"window_bytes": size}, rows(Workload(count, size), loops))


def main(arguments: Sequence[str] | None = None) -> int:
    sizes = Rounds(1024, 201, 20), Rounds(64, 3, 3)
    return native_loops.main(str(__doc__), C_LOOP, operations, sizes, SEED, ("ns", 1.0, 1), arguments)


if __name__ == "__main__":
    sys.exit(main())
