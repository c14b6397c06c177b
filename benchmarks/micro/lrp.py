"""Cost of LRP mode: verification, encrypted mirror and file data by the native core and its twin, and two of its design
decisions.

Prints microseconds per operation (fastest and median of the rounds) and a hash of the results. Rows in C show the decisions
made in native/lrp.h: the cost of selecting a plaintext from all 16 instead of looking it up by a secret nibble, and what it
would save to cache what is derived from a file key. `--smoke` runs a size that only shows that the benchmark works.
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
from ixfast import _lrp_py as twin
from ixfast import cmac

SEED = 12304
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


class Taps(ctypes.Structure):
    """`taps` of the loops in C."""

    _fields_ = (*((name, ctypes.c_char_p) for name in ARRAYS), ("window_size", ctypes.c_size_t), ("count", ctypes.c_size_t))


class Workload:
    """Taps with both mirrors and windows of one size."""

    def __init__(self, count: int, window_size: int) -> None:
        dice, self.taps = simulated_taps(SEED, count, window_size, twin.lrp_sdm_mac)
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


def operations(count: int, loops: Any) -> Iterator[Operation]:
    cores = ([] if cmac.REASON else [("native", import_module("ixfast._lrp"))]) + [("twin", twin)]

    def operation(title: str, rows: list[Row]) -> Operation:
        return Operation(title, {"operation": title}, rows)

    for size in (0, 38):
        workload = Workload(count, size)
        rows: list[Row] = []
        if loops is not None:
            rows += [
                ("C", workload.in_c(loops, "verify", 1)),
                ("C, if what the file key becomes were kept", workload.in_c(loops, "verify_kept", 1)),
            ]
        rows += [(name, partial(workload.verify, core)) for name, core in cores]
        yield operation(f"verification, window of {size} bytes", rows)
    yield operation("encrypted mirror", [(name, partial(workload.read_mirror, core)) for name, core in cores])
    yield operation("file data, one block", [(name, partial(workload.decrypt_file, core)) for name, core in cores])
    if loops is not None:
        selected, indexed = workload.in_c(loops, "selected", 16), workload.in_c(loops, "indexed", 16)
        decision: list[Row] = [("C, plaintexts selected", selected), ("C, if they were looked up by secret nibbles", indexed)]
        yield operation("evaluation of a block", decision)


def main(arguments: Sequence[str] | None = None) -> int:
    sizes = Rounds(512, 51, 3), Rounds(8, 1, 1)
    return native_loops.main(str(__doc__), C_LOOPS, operations, sizes, SEED, ("us", 1e3, 2), arguments)


if __name__ == "__main__":
    sys.exit(main())
