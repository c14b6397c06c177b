"""How disturbed the machine was during a run: processor time taken by the hypervisor (steal) and by processes that do not belong
to the run, and changes of the clock.

Two readings of /proc make a `Disturbance`. Processor time of the machine (proc_stat(5)), less that of the run's own processes
and of kernel threads, which mostly work for it, was used by others. Own processes are this one, its descendants and those that
ended and were waited for; the private PostgreSQL is among them. Others that lived only for a moment between two readings count
as well, but only those that are alive at both can be named.

Beyond a limit a run is unfit: it does not count. `Watch` collects the readings of a run and its verdict. Speed that a virtual
machine loses without steal or a change of its clock, to a neighbour on the same core for example, cannot be seen here.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STEAL_MAX = 0.02
FOREIGN_MAX = 0.05
CLOCK_MAX = 0.10
UNFIT = 3
"""The exit status of a run without flaws on a disturbed machine."""

_KTHREADD = 2
_NAMED_MAX = 3
_NAMED_SHARE_MIN = 0.005


class Reading(NamedTuple):
    """Clock ticks since the boot, summed over all processors."""

    at_s: float
    total: int
    busy: int
    steal: int
    own: int
    kernel: int
    others: dict[tuple[int, int], tuple[str, int]]  # by pid and start time: the command's name and its ticks
    mhz: float | None  # of the fastest processor


class _Process(NamedTuple):
    pid: int
    name: str
    parent: int
    used: int  # by itself
    waited_for: int  # by its children that ended
    started: int


class Disturbance(NamedTuple):
    """Shares of all processor time between two readings. `clock` is the range of the clock ÷ its highest value, or None where it
    cannot be read; `by` names the other processes that used most."""

    seconds: float
    steal: float
    foreign: float
    clock: float | None
    by: dict[str, float]

    def __str__(self) -> str:
        named = ", ".join(f"{name} {share:.1%}" for name, share in self.by.items())
        clock = "clock not readable" if self.clock is None else f"clock varied by {self.clock:.1%}"
        return f"steal {self.steal:.1%}, other processes {self.foreign:.1%}{f' ({named})' if named else ''}, {clock}"

    @property
    def reasons(self) -> list[str]:
        """Why a run under this disturbance is unfit; empty if it is fit."""
        named = ", ".join(self.by)
        found = [
            (self.steal, STEAL_MAX, "the hypervisor took {0:.1%} of the processor time (steal; limit {1:.0%})"),
            (self.foreign, FOREIGN_MAX, "other processes used {0:.1%} of it (limit {1:.0%}" + (f"): {named}" if named else ")")),
            (self.clock or 0.0, CLOCK_MAX, "the clock varied by {0:.1%} (limit {1:.0%})"),
        ]
        return [text.format(value, limit) for value, limit, text in found if value > limit]


def read(proc: Path = Path("/proc"), pid: int | None = None) -> Reading:
    """A reading for the run whose first process is `pid`, by default this one."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, (proc / "stat").read_text().split()[1:9])
    busy = user + nice + system + irq + softirq
    found = {each.pid: each for each in _processes(proc)}
    own = _with_descendants(os.getpid() if pid is None else pid, found)
    kernel = {each.pid for each in found.values() if _KTHREADD in (each.pid, each.parent)}
    others = {
        (each.pid, each.started): (each.name, each.used)
        for each in found.values()
        if each.pid not in own and each.pid not in kernel
    }
    return Reading(
        time.monotonic(),
        busy + idle + iowait + steal,
        busy,
        steal,
        sum(found[each].used + found[each].waited_for for each in own),
        sum(found[each].used for each in kernel),
        others,
        _mhz(proc),
    )


def _processes(proc: Path) -> list[_Process]:
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            head, _, rest = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it has ended meanwhile
        fields = rest.split()  # from the third field of proc_pid_stat(5) on
        used, waited_for = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        found.append(_Process(int(entry.name), head.partition("(")[2], int(fields[1]), used, waited_for, int(fields[19])))
    return found


def _with_descendants(pid: int, found: dict[int, _Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for each in found.values():
        children.setdefault(each.parent, []).append(each.pid)
    family = [pid] if pid in found else []
    for each_pid in family:  # grows while iterated
        family += children.get(each_pid, [])
    return set(family)


def _mhz(proc: Path) -> float | None:
    try:
        lines = (proc / "cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return max((float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")), default=None)


def between(readings: list[Reading]) -> Disturbance:
    """The disturbance from the first to the last of at least two readings, in the order in which they were made."""
    first, last = readings[0], readings[-1]
    total = max(1, last.total - first.total)
    foreign = (last.busy - first.busy) - (last.own - first.own) - (last.kernel - first.kernel)
    used: dict[str, int] = {}
    for identity, (name, ticks) in last.others.items():
        if identity in first.others:
            used[name] = used.get(name, 0) + ticks - first.others[identity][1]
    by = {name: ticks / total for name, ticks in sorted(used.items(), key=lambda item: -item[1])[:_NAMED_MAX]}
    clocks = [each.mhz for each in readings if each.mhz is not None]
    return Disturbance(
        last.at_s - first.at_s,
        max(0, last.steal - first.steal) / total,
        max(0, foreign) / total,
        (max(clocks) - min(clocks)) / max(clocks) if clocks else None,
        {name: share for name, share in by.items() if share >= _NAMED_SHARE_MIN},
    )


class Watch:
    """The disturbance of a run, and of the laps in it, such as the points of a sweep. `accepted`: the run counts anyway."""

    def __init__(self, accepted: bool, take: Callable[[], Reading] = read) -> None:
        self.accepted = accepted
        self.laps: dict[str, Disturbance] = {}
        self._take = take
        self._readings = [take()]
        self._total: Disturbance | None = None

    def restart(self) -> None:
        """The run begins now: forget what was before."""
        self._readings = [self._take()]

    def lap(self, name: str) -> Disturbance:
        """The disturbance since the last lap, or since the start."""
        self._readings.append(self._take())
        found = between(self._readings[-2:])
        self.laps[name] = found
        return found

    @property
    def total(self) -> Disturbance:
        """The disturbance of the whole run, which ends with the first use of this property."""
        if self._total is None:
            self._readings.append(self._take())
            self._total = between(self._readings)
        return self._total

    @property
    def reasons(self) -> list[str]:
        """Why the run, or a lap of it, is unfit, accepted or not."""
        laps = [f"{name}: {reason}" for name, lap in self.laps.items() for reason in lap.reasons]
        return [*self.total.reasons, *laps]

    @property
    def unfit(self) -> bool:
        return bool(self.reasons) and not self.accepted

    def record(self) -> dict[str, Any]:
        """As it is stored."""
        return as_record(self.total, self.reasons, accepted=self.accepted)

    def summary(self) -> str:
        """Lines that say how disturbed the machine was, and what follows from it."""
        lines = [f"Disturbance of the machine over {self.total.seconds:.0f} s: {self.total}."]
        if self.unfit:
            lines += ["", f"UNFIT: {'; '.join(self.reasons)}. Unfit runs do not count; --accept-disturbed lets them count."]
        elif self.reasons:
            lines += ["", f"Accepted although the machine was disturbed: {'; '.join(self.reasons)}."]
        return "\n".join(lines)

    def status(self, good: bool) -> int:
        """The exit status of a run that is `good` or has flaws."""
        return 1 if not good else UNFIT if self.unfit else 0


def as_record(found: Disturbance, reasons: list[str], *, accepted: bool) -> dict[str, Any]:
    """A disturbance as it is stored in a history; `counts` reads it."""
    return {**found._asdict(), "unfit": reasons, "accepted": accepted}


def counts(record: Any) -> bool:
    """Whether a record of a history counts: the machine was fit, or its state was accepted. Records without a reading count."""
    found = record.get("disturbance") or {}
    return not found.get("unfit") or bool(found.get("accepted"))


def shown(record: Any) -> str:
    """The disturbance of a record as a sentence; empty without a reading."""
    found = record.get("disturbance")
    if not found:
        return ""
    accepted = " Accepted although the machine was disturbed." if found["unfit"] else ""
    return f" Disturbance: {Disturbance(**{name: found[name] for name in Disturbance._fields})}.{accepted}"


def add_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-disturbed", action="store_true", help="let a run count although the machine was disturbed; smoke runs always do"
    )


def watch(given: argparse.Namespace) -> Watch:
    """A watch over the run of a command with the flags `--smoke` and `--accept-disturbed`."""
    return Watch(given.smoke or given.accept_disturbed)
