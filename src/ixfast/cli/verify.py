"""`ixfast verify`: explains step by step what a tap proves. It consumes nothing, and prints neither keys nor expected MACs."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import click

from ixfast import meters
from ixfast.api.evidence import Evidence
from ixfast.api.key_material import opened_keys
from ixfast.api.tap_verification import explain
from ixfast.api.tap_verification import verify as verify_tap
from ixfast.chips import CompiledProfile, Message, Missing, Step
from ixfast.chips.tap_text import parameters_in, read_tap
from ixfast.cli.command_group import leave
from ixfast.cli.database import CommandEnvironment, resolve
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.options import DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import cell_text, coloured, json_option, print_json
from ixfast.domain import references, tap_readings, tap_url
from ixfast.domain.chip_uids import REVERSED_UID, is_reversed
from ixfast.domain.protocols import TapProfile
from ixfast.domain.records import TagRecord
from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, Extras, Scan
from ixfast.errors import InputError
from ixfast.keys import check_value
from ixfast.pipeline.identify import account_in_path, identify
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.connections import session
from ixfast.store.queries import load

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.;-]{0,23}")
_LONG_HEX = re.compile(r"[0-9A-Fa-f]{12}")
_OF_NO_TAG = "the URL is a tap, but of no tag of this account"
_NOT_OPENED = (
    "no meta key of the account decrypts the mirror; a tag with a meta key of its own is found only if the profile names the tag "
    "by {xuid} or {cuid}"
)


def register(main: click.Group) -> None:
    @main.command()
    @click.argument("url")
    @click.option(
        "--account", "aid", metavar="AID", help="The tag's account; required unless the URL has the tag code as x or xuid."
    )
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def verify(url: str, aid: str | None, as_json: bool, config: Path | None, **flags: object) -> None:
        """Show step by step what the tapped URL proves. The tap is not consumed and can still pass.

        The exit status is 0 only if the tap is authentic and a scan of the URL would pass now: 3 if it is not authentic, 6 if the
        URL is not a complete tap, 7 if there is no such tag, 8 if the tap has been used, 9 if the tag is inactive.
        """
        environment = resolve(flags, config)
        with environment.database() as dsn:
            explanation = asyncio.run(_explain(environment, dsn, url, aid))
        if as_json:
            passes = explanation.status is ExitCode.OK
            result = _RESULTS[explanation.status]
            print_json({"passes": passes, "result": result, "steps": [step._asdict() for step in explanation.steps]})
        else:
            for step in explanation.steps:
                click.echo(f"{coloured(f'{step.name:18}', bold=True)} {cell_text(step.finding)}")
        if explanation.status is not ExitCode.OK:
            leave(explanation.status)


class _Explanation(NamedTuple):
    steps: list[Step]
    status: ExitCode


_RESULTS = {
    ExitCode.OK: "passes",
    ExitCode.FAILED: "undecided",
    ExitCode.NEGATIVE: "not_authentic",
    ExitCode.UNREADABLE: "unreadable",
    ExitCode.NO_TAG: "unknown",
    ExitCode.USED: "used",
    ExitCode.INACTIVE: "inactive",
}


def _ended(outcome: str, status: ExitCode, *before: Step) -> _Explanation:
    return _Explanation([*before, Step("result", outcome.removesuffix("."))], status)


async def _explain(environment: CommandEnvironment, dsn: str, url: str, aid: str | None) -> _Explanation:
    pool = await session.make_pool(dsn, 1)
    try:
        catalogue = Catalogue(pool, await environment.keys(pool), meters.Meters(), tags_max=100, absent_max=100, deadline_s=10.0)
        kept: _Explanation | None = None
        given = tap_url.trimmed(url)
        for text in tap_readings.readings(url):
            explanation = await _explain_reading(pool, catalogue, text, aid)
            if explanation is None:
                continue
            if text != given:
                explanation.steps.insert(0, Step("URL", tap_readings.WRAPPED))
            if explanation.status not in (ExitCode.UNREADABLE, ExitCode.NO_TAG):
                return explanation
            if kept is None or kept.status is not ExitCode.NO_TAG:
                kept = explanation
        if kept is None:
            raise click.UsageError("The URL has no tag code; add --account AID.")
        return kept
    finally:
        await pool.close()


async def _explain_reading(pool: Any, catalogue: Catalogue, url: str, aid: str | None) -> _Explanation | None:
    """Explain one of the readings of the URL; None if it names neither a tag nor an account."""
    code = references.code_in(url)
    aid = aid or references.aid_in(url) or await account_in_path(catalogue, url)
    if aid is None and code is None:
        mistake = tap_url.mistake(url)
        return _ended(mistake, ExitCode.UNREADABLE) if mistake is not None else None
    try:
        record = await _find(catalogue, url, code, aid)
    except InputError as error:
        if error.code not in ("invalid_parameter", "missing_parameter"):
            raise
        return _ended(f"malformed: {error}", ExitCode.UNREADABLE)
    if record is None:
        return await _not_found(catalogue, url, aid)
    return await _steps(pool, record, url)


async def _find(catalogue: Catalogue, url: str, code: str | None, aid: str | None) -> TagRecord | None:
    """Find the tag by the tag code in the URL, else by what the account's profiles read from it."""
    sent = code.encode() if code is not None else b""
    record = await _fetch(catalogue, sent) if sent else None
    if record is not None or aid is None:
        return record
    for ref in await identify(catalogue, aid, Extras(url=url), is_owner=True, sent=sent):
        record = await _fetch(catalogue, ref)
        if record is not None:
            return record
    return None


async def _not_found(catalogue: Catalogue, url: str, aid: str | None) -> _Explanation:
    """Why there is no tag: the account, or none of its profiles reads the URL, or the tag is not registered."""
    if aid is None:
        return _ended("tag not found: no tag has the code in the URL", ExitCode.NO_TAG)
    known = await catalogue.account(aid)
    if known is None:
        return _ended("tag not found: there is no account of this AID", ExitCode.NO_TAG)
    profiles = {group.profile.profile: group.profile for group in known[1] if group.profile is not None}
    if not profiles:
        return _ended(
            f"no profile of the account reads this URL: the account has no group with an encoding profile; create one with "
            f"`ixfast group create {aid} NAME --folder FOLDER --profile PROFILE`",
            ExitCode.UNREADABLE,
        )
    parameters = parameters_in(url)
    read = {profile: _read(profile, url, parameters) for profile in profiles.values()}
    if any(isinstance(message, Message) for message in read.values()):
        claims = await identify(catalogue, aid, Extras(url=url), is_owner=True)
        whole = [profile for profile, message in read.items() if isinstance(message, Message)]
        if not claims and not any(profile.encrypted for profile in whole):
            return _ended(_nameless(whole), ExitCode.UNREADABLE)
        reason = _OF_NO_TAG if claims else _NOT_OPENED
        if any(isinstance(each, Message) and each.uid is not None and is_reversed(each.uid) for each in read.values()):
            reason += f". {REVERSED_UID}"
        return _ended(f"tag not found: {reason}", ExitCode.NO_TAG)
    incomplete = [
        (profile.fit(parameters, url), message, profile) for profile, message in read.items() if isinstance(message, Missing)
    ]
    if incomplete:
        _, message, profile = max(incomplete, key=lambda each: each[0])
        return _ended(f"incomplete: the profile {profile.name} also needs {' and '.join(message.names)}", ExitCode.UNREADABLE)
    templates = "; ".join(f"{profile.name}: {profile.profile.template}" for profile in profiles.values())
    are = "profiles are" if len(profiles) > 1 else "profile is"
    return _ended(
        f"no profile of the account reads this URL: it has {_parameters_shown(parameters)}; the account's {are} {templates}",
        ExitCode.UNREADABLE,
    )


def _nameless(profiles: list[TapProfile]) -> str:
    """What is wrong with a complete tap that names no tag, read by these profiles without an encrypted mirror."""
    for profile in profiles:
        for slot in ("uid", "xuid", "cuid"):
            if slot in profile.template.slots:
                own = next((piece.name for piece in profile.template.query if slot in piece.slots), None)
                return f"incomplete: the URL names no tag: the profile {profile.name} also needs {own or slot}"
    return f"the URL names no tag, and neither does the profile {profiles[0].name}: add the tag code as x"


def _read(profile: TapProfile, url: str, parameters: dict[str, str]) -> Any:
    """What a profile reads of the URL, or what it lacks if it has anything of the profile at all."""
    with contextlib.suppress(InputError):  # malformed under this profile
        message = profile.read_url(url)
        if message is not None or profile.fit(parameters, url)[-1] == 0:
            return message
        lacking = profile.read_parameters(parameters)
        return lacking if isinstance(lacking, Missing) else None
    return None


def _parameters_shown(parameters: dict[str, str]) -> str:
    names = [_shown(name) for name in parameters if name]
    if names:
        return f"the parameter{'' if len(names) == 1 else 's'} {', '.join(names)}"
    return "text, but no parameters such as name=value" if parameters else "no parameters"


def _shown(name: str) -> str:
    """The name of a parameter, unless it may be a key in the wrong place."""
    return name if _NAME.fullmatch(name) and not _LONG_HEX.search(name) else f"one of {len(name)} characters"


async def _fetch(catalogue: Catalogue, ref: bytes) -> TagRecord | None:
    future: asyncio.Future[tuple[Scan, TagRecord | None]] = asyncio.get_running_loop().create_future()
    probe = Scan(lambda _scan: None, ref, -1, None, None, 0, asyncio.get_running_loop().time())
    catalogue.fetch(probe, ref, lambda scan, record: future.set_result((scan, record)))
    scan, record = await future
    if scan.error is not None:
        raise InputError(scan.error, f"The tag could not be looked up: {scan.error_detail}.")
    return record


async def _steps(pool: Any, record: TagRecord, url: str) -> _Explanation:
    group = record.group
    steps = [Step("tag", f"{record.xuid.decode()} in {group.account.aid} / {group.folder_name} / {group.name}")]
    level = record.inactive_level()
    if level is not None:
        steps.append(Step("status", f"{level}: scans get this result and consume nothing"))
    profile = group.profile
    if profile is None:
        return _ended("a standard tag: nothing to authenticate", ExitCode.NEGATIVE, *steps)
    assert isinstance(profile, CompiledProfile)
    known: dict[str, Any] = {
        "profile": profile.profile,
        "keys": opened_keys(record.file_keys(check_value(record.single_key()) if record.has_key else b""), record.meta_keys),
        "uid": record.uid,
        "statics": record.statics(),
        "allow_any_uid": True,  # the UID that the tag was added with
    }
    try:
        read_tap(profile, url)  # `explain` would go on to the readings that follow this one
        steps += explain(url, **known)
    except InputError as error:
        return _ended(tap_url.mistake(url) or str(error), ExitCode.UNREADABLE, *steps)
    evidence = verify_tap(url, **known)
    if not evidence.authentic:
        return _Explanation(steps, ExitCode.NEGATIVE)
    step, status = await _ledger_step(pool, record, evidence)
    return _Explanation([*steps, step], ExitCode.INACTIVE if level is not None else status)


async def _ledger_step(pool: Any, record: TagRecord, evidence: Evidence) -> tuple[Step, ExitCode]:
    """What the ledger has of the tag, and whether the counter is fresh."""
    if evidence.position is None:
        return Step("ledger", "no counter is mirrored: the same tap passes every time"), ExitCode.OK
    row = await pool.fetchrow(load("management")["counter"], record.tag_id)
    if row is None:
        return Step("ledger", "the tag has no counter row: scans get 503"), ExitCode.FAILED
    last = row["last_position"]
    newest = f"{last & POSITION_COUNTER_MASK} of key version {last >> POSITION_COUNTER_BITS}" if last else "none yet"
    fresh = evidence.position > last
    state = "new, a scan would pass" if fresh else "used, a scan is refused"
    step = Step("ledger", f"counter {evidence.counter} is {state}; newest accepted: {newest}")
    return step, ExitCode.OK if fresh else ExitCode.USED
