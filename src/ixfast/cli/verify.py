"""`ixfast verify`: explains step by step what a tap proves. It consumes nothing, and prints neither keys nor expected MACs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from ixfast import meters
from ixfast.api.evidence import Evidence
from ixfast.api.key_material import opened_keys
from ixfast.api.tap_verification import explain
from ixfast.api.tap_verification import verify as verify_tap
from ixfast.chips import CompiledProfile, Step
from ixfast.cli.command_group import leave
from ixfast.cli.database import CommandEnvironment, resolve
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.options import DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import cell_text, coloured, json_option, print_json
from ixfast.domain import references
from ixfast.domain.records import TagRecord
from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, Extras, Scan
from ixfast.errors import InputError
from ixfast.http.v1_query import parse_parameters
from ixfast.keys import check_value
from ixfast.pipeline.identify import identify
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.connections import session
from ixfast.store.queries import load


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

        The exit status is 0 if a scan of the URL would pass now, and 3 if not.
        """
        environment = resolve(flags, config)
        with environment.database() as dsn:
            explanation = asyncio.run(_explain(environment, dsn, url, aid))
        if as_json:
            print_json({"passes": explanation.passes, "steps": [step._asdict() for step in explanation.steps]})
        else:
            for step in explanation.steps:
                click.echo(f"{coloured(f'{step.name:18}', bold=True)} {cell_text(step.finding)}")
        if not explanation.passes:
            leave(ExitCode.NEGATIVE)


class _Explanation(NamedTuple):
    steps: list[Step]
    passes: bool = False  # whether a scan would pass now


async def _explain(environment: CommandEnvironment, dsn: str, url: str, aid: str | None) -> _Explanation:
    pool = await session.make_pool(dsn, 1)
    try:
        catalogue = Catalogue(pool, await environment.keys(pool), meters.Meters(), tags_max=100, absent_max=100, deadline_s=10.0)
        record = await _find(catalogue, url, aid)
        if record is None:
            if aid is None and _code_of(url) is None:
                raise click.UsageError("The URL has no tag code; add --account AID.")
            return _Explanation([Step("result", "tag not found: check the account and whether the URL identifies the tag")])
        return await _steps(pool, record, url)
    finally:
        await pool.close()


async def _find(catalogue: Catalogue, url: str, aid: str | None) -> TagRecord | None:
    """Find the tag by the tag code in the URL, else by what the account's profiles read from it."""
    candidates = []
    code = _code_of(url)
    if code is not None:
        candidates.append(code.encode())
    if aid is not None:
        candidates += await identify(catalogue, aid, Extras(url=url), is_owner=True)
    for ref in candidates:
        record = await _fetch(catalogue, ref)
        if record is not None:
            return record
    return None


def _code_of(url: str) -> str | None:
    """The tag code in the URL."""
    parameters = parse_parameters(urlsplit(url).query)
    code = parameters.get("x") or parameters.get("xuid")
    return code if code is not None and references.CODE.fullmatch(code) else None


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
        return _Explanation([*steps, Step("result", "a standard tag: nothing to authenticate")])
    assert isinstance(profile, CompiledProfile)
    known: dict[str, Any] = {
        "profile": profile.profile,
        "keys": opened_keys(record.file_keys(check_value(record.key) if record.key is not None else b""), group.meta_keys),
        "uid": record.uid,
        "statics": record.statics(),
    }
    try:
        steps += explain(url, **known)
    except InputError as error:
        if error.code != "missing_parameter":
            raise
        return _Explanation([*steps, Step("result", str(error))])
    evidence = verify_tap(url, **known)
    if not evidence.authentic:
        return _Explanation(steps)
    step, fresh = await _ledger_step(pool, record, evidence)
    return _Explanation([*steps, step], passes=fresh and level is None)


async def _ledger_step(pool: Any, record: TagRecord, evidence: Evidence) -> tuple[Step, bool]:
    """What the ledger has of the tag, and whether the counter is fresh."""
    if evidence.position is None:
        return Step("ledger", "no counter is mirrored: the same tap passes every time"), True
    row = await pool.fetchrow(load("management")["counter"], record.tag_id)
    if row is None:
        return Step("ledger", "the tag has no counter row: scans get 503"), False
    last = row["last_position"]
    newest = f"{last & POSITION_COUNTER_MASK} of key version {last >> POSITION_COUNTER_BITS}" if last else "none yet"
    fresh = evidence.position > last
    state = "new, a scan would pass" if fresh else "used, a scan is refused"
    return Step("ledger", f"counter {evidence.counter} is {state}; newest accepted: {newest}"), fresh
