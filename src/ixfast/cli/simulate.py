"""`ixfast simulate`: generates taps of simulated tags and their keys, to try an audit or an integration.

Nothing here is secret, because the keys follow from the seed. The key file still gets mode 0600, to set a good example.
"""

from __future__ import annotations

import csv
import io
import math
import os
import random
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import click
import orjson

from ixfast.audit import find_profile, read_profile_file
from ixfast.chips import PRESETS, CompiledProfile, compile_profile
from ixfast.cli.options import beginnings
from ixfast.keys.diversify import DEFAULT_DERIVATIONS, scheme_of
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_ACCOUNT = "simulated"
_BATCH = "simulated-batch"
_GAP_MAX = 5  # consecutive taps that a phone reads but never sends
_SENT_KEPT = 8  # earlier taps of a tag that may be replayed
_SHUFFLE_WITHIN = 1000  # lines by which the merged logs of many hosts may be out of order
_MICROSECOND = timedelta(microseconds=1)
_FLUSH_LINES = 500
_EVERY_S_MAX = 31_536_000  # a year
_LONGEST_PAUSE = 37  # averages: `expovariate` takes the logarithm of a number that is at least 2**-53


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN, for which every comparison is false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Mix(NamedTuple):
    """Fractions of all taps, 0 to 1. A gap is a genuine tap whose counter increased by more than one."""

    replayed: float
    forged: float
    gaps: float


class Tap(NamedTuple):
    at: datetime
    url: str
    expected: str  # the verdict that an audit must find


_OUTPUT_OPTIONS: tuple[Decorator, ...] = (
    click.option("--format", "form", type=click.Choice(["csv", "jsonl", "urls"]), default="csv", show_default=True),
    click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl."),
    click.option("--start", type=click.DateTime(), default="2026-01-01", show_default=True, help="Time of the first tap, UTC."),
    click.option(
        "--every", type=FiniteRange(0, _EVERY_S_MAX), default=1.0, show_default=True, help="Average seconds between taps."
    ),
    click.option("--shuffle", is_flag=True, help="Print taps out of order, as in the merged logs of many hosts."),
    click.option("--labels", is_flag=True, help="Also print the expected verdict, as `expected`."),
    click.option("--masters-out", type=click.Path(path_type=Path), help="Write the masters to this CSV file, mode 0600."),
    click.option("--keys-out", type=click.Path(path_type=Path), help="Write the tags and keys to this CSV file, mode 0600."),
)


def _with_output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OUTPUT_OPTIONS):
        command = option(command)
    return command


def register(main: click.Group) -> None:
    """Add the command. It uses neither server nor database, so it takes no settings."""

    @main.command()
    @click.option(
        "--profile",
        "profiles",
        multiple=True,
        metavar="NAME|@FILE",
        shell_complete=beginnings((*PRESETS, "all")),
        help="A preset, preset/scheme, @FILE, or all; repeatable.",
    )
    @click.option("--tags", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="Tags per profile.")
    @click.option("--taps", type=click.IntRange(0), default=100, show_default=True, help="Total number of taps.")
    @click.option(
        "--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed gives the same taps and keys."
    )
    @click.option(
        "--replayed",
        type=FiniteRange(0, 1),
        default=0.05,
        show_default=True,
        help="Fraction of taps that repeat an earlier one.",
    )
    @click.option("--forged", type=FiniteRange(0, 1), default=0.05, show_default=True, help="Fraction of taps with a wrong MAC.")
    @click.option(
        "--gaps", type=FiniteRange(0, 1), default=0.05, show_default=True, help="Fraction of taps that follow unsent ones."
    )
    @click.option(
        "--derivation", type=click.Choice(list(DEFAULT_DERIVATIONS)), help="Derive all keys of a profile's tags from one master."
    )
    @click.option("--own-meta-keys", is_flag=True, help="Give each tag a meta key of its own; the profile must name the tag.")
    @_with_output_options
    def simulate(
        profiles: tuple[str, ...],
        tags: int,
        taps: int,
        seed: int,
        replayed: float,
        forged: float,
        gaps: float,
        derivation: str | None,
        own_meta_keys: bool,
        form: str,
        as_json: bool,
        start: datetime,
        every: float,
        shuffle: bool,
        labels: bool,
        masters_out: Path | None,
        keys_out: Path | None,
    ) -> None:
        """Print genuine and other taps of simulated tags, and write the keys of the tags.

        The key file is complete before the first tap is printed, so that `ixfast audit -` can read both through a pipe.
        """
        form = "jsonl" if as_json else form
        if replayed + forged > 1:
            raise click.UsageError("--replayed and --forged must not add up to more than 1.")
        if shuffle and form == "urls":
            raise click.UsageError("--shuffle needs times, which --format urls does not print.")
        if not _ends_in_time(start, taps, every):
            raise click.UsageError(
                "The taps may go beyond the year 9999: use fewer --taps, a shorter --every or an earlier --start."
            )
        fleets = _fleets(profiles or ("ixkio-plain",), tags, seed, derivation, own_meta_keys=own_meta_keys)
        if masters_out is not None:
            if derivation is None:
                raise click.UsageError("--masters-out requires --derivation.")
            _write_rows(masters_out, "--masters-out", ["profile", "scheme", "master"], (_master_row(fleet) for fleet in fleets))
        if keys_out is not None:
            _write_keys(keys_out, fleets)
        dice = random.Random(seed)  # noqa: S311 - must be reproducible
        made = make_taps(fleets, taps, dice, Mix(replayed, forged, gaps), start.replace(tzinfo=UTC), every)
        counts: Counter[str] = Counter()
        lines = _lines(_shuffled(made, dice) if shuffle else made, form, counts, labels=labels)
        _print(lines)
        summary = ", ".join(f"{verdict} {count}" for verdict, count in sorted(counts.items())) or "none"
        click.echo(f"simulated {taps} taps of {sum(map(len, fleets))} tags: {summary}", err=True)


def _ends_in_time(start: datetime, taps: int, every_s: float) -> bool:
    """Whether the latest possible time of the last tap can be represented."""
    try:
        start + taps * (_MICROSECOND + timedelta(seconds=_LONGEST_PAUSE * every_s))
    except OverflowError:
        return False
    return True


def _fleets(profiles: Sequence[str], tags: int, seed: int, derivation: str | None, *, own_meta_keys: bool) -> list[VirtualFleet]:
    own = DEFAULT_DERIVATIONS.get(derivation or "")
    return [
        VirtualFleet(
            seed * len(PRESETS) + index,
            tags,
            profile,
            account=_ACCOUNT,
            derivation=own,
            own_meta_keys=own_meta_keys and _names_its_tag(profile),
            batch=_BATCH if "batch" in profile.template.slots else None,
        )
        for index, profile in enumerate(_profiles(profiles))
    ]


def _names_its_tag(profile: CompiledProfile) -> bool:
    """Whether an encrypted mirror stands beside the tag's name. Raises UsageError if nothing says which meta key reads it."""
    if not profile.encrypted:
        return False
    if {"xuid", "cuid"} & profile.template.slots.keys():
        return True
    raise click.UsageError(
        f"--own-meta-keys: the template of the profile {profile.name} must name the tag by {{xuid}} or {{cuid}}."
    )


def make_taps(
    fleets: Sequence[VirtualFleet], count: int, dice: random.Random, mix: Mix, start: datetime, every_s: float
) -> Iterator[Tap]:
    """`count` taps in chronological order, with distinct times. Tags are created when they are first tapped."""
    tags: dict[tuple[int, int], VirtualTag] = {}
    sent: dict[tuple[int, int], list[int]] = {}
    at = start
    for _ in range(count):
        fleet = dice.randrange(len(fleets))
        index = dice.randrange(len(fleets[fleet]))
        tag = tags.get((fleet, index))
        if tag is None:
            tag = tags[fleet, index] = fleets[fleet][index]
            tag.cuid = f"own-{index}"
        url, expected = _tap(tag, sent.setdefault((fleet, index), []), dice, mix)
        yield Tap(at, url, expected)
        at += _MICROSECOND + timedelta(seconds=dice.expovariate(1 / every_s) if every_s else 0)


def _tap(tag: VirtualTag, sent: list[int], dice: random.Random, mix: Mix) -> tuple[str, str]:
    fate = dice.random()
    if fate < mix.replayed and sent:
        # A tap without a counter is the same every time, so a replay is indistinguishable.
        return tag.tap_at(dice.choice(sent)), "replayed" if tag.profile.counter_expected else "genuine"
    if mix.replayed <= fate < mix.replayed + mix.forged:
        return tag.forged(dice.choice(("flipped_bit", "wrong_key"))), "forged"
    if dice.random() < mix.gaps:
        tag.counter += dice.randint(1, _GAP_MAX)
    url = tag.tap()
    sent.append(tag.counter)
    del sent[:-_SENT_KEPT]
    return url, "genuine"


def _shuffled(taps: Iterator[Tap], dice: random.Random) -> Iterator[Tap]:
    """The taps, shuffled within a sliding window of `_SHUFFLE_WITHIN`."""
    window: list[Tap] = []
    for tap in taps:
        window.append(tap)
        if len(window) == _SHUFFLE_WITHIN:
            yield window.pop(dice.randrange(len(window)))
    dice.shuffle(window)
    yield from window


def _lines(taps: Iterator[Tap], form: str, counts: Counter[str], *, labels: bool) -> Iterator[str]:
    names = ["at", "url", *(["expected"] if labels else [])]
    if form == "csv":
        yield _csv(names)
    for tap in taps:
        counts[tap.expected] += 1
        if form == "urls":
            yield f"{tap.url}\n"
            continue
        at = tap.at.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
        values = [at, tap.url, tap.expected][: len(names)]
        yield _csv(values) if form == "csv" else orjson.dumps(dict(zip(names, values, strict=True))).decode() + "\n"


def _csv(values: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _print(lines: Iterator[str]) -> None:
    waiting: list[str] = []
    for line in lines:
        waiting.append(line)
        if len(waiting) == _FLUSH_LINES:
            sys.stdout.write("".join(waiting))
            waiting.clear()
    sys.stdout.write("".join(waiting))
    sys.stdout.flush()


def _profiles(notations: Sequence[str]) -> list[CompiledProfile]:
    names = dict.fromkeys(name for notation in notations for name in (PRESETS if notation == "all" else (notation,)))
    return [compile_profile(read_profile_file(Path(name[1:])) if name.startswith("@") else find_profile(name)) for name in names]


def _write_keys(path: Path, fleets: Sequence[VirtualFleet]) -> None:
    slots = {slot for fleet in fleets for slot in fleet.profile.template.slots}
    more = [name for name in ("cuid", "aid", "batch") if name in slots]
    rows = (_key_row(fleet, index, more) for fleet in fleets for index in range(len(fleet)))
    _write_rows(path, "--keys-out", ["xuid", "uid", "file_key", "meta_key", "profile", *more], rows)


def _key_row(fleet: VirtualFleet, index: int, more: Sequence[str]) -> list[str]:
    meta_key = fleet.meta_key_of(index).hex() if fleet.profile.encrypted else ""
    own = {"cuid": f"own-{index}", "aid": fleet.account, "batch": fleet.batch or ""}
    key = fleet.file_key(index).hex()
    return [fleet.xuid(index), fleet.uid(index).hex().upper(), key, meta_key, fleet.profile.name, *(own[name] for name in more)]


def _master_row(fleet: VirtualFleet) -> list[str]:
    assert fleet.derivation is not None
    return [fleet.profile.name, scheme_of(fleet.derivation), fleet.master.hex()]


def _write_rows(path: Path, option: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file of mode 0600. An existing file gets this mode before anything is written to it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise click.UsageError(f"{option}: cannot write {path}: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", newline="") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise click.UsageError(f"{option}: {path} is not a regular file.")
        os.fchmod(descriptor, 0o600)
        file.truncate()
        written = csv.writer(file, lineterminator="\n")
        written.writerow(names)
        written.writerows(rows)
