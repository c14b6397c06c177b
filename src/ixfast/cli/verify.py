"""`ixfast verify`: explains step by step what a tap proves. It consumes nothing, and prints neither keys nor expected MACs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from ixfast import meters
from ixfast.api.evidence import Evidence
from ixfast.api.key_material import opened_keys
from ixfast.api.tap_verification import explain, verify
from ixfast.chips import CompiledProfile, Step
from ixfast.cli.database import CommandEnvironment, resolve
from ixfast.domain import references
from ixfast.domain.records import TagRecord
from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, Extras, Scan
from ixfast.errors import InputError
from ixfast.http.v1_query import parse_parameters
from ixfast.keys import check_value
from ixfast.pipeline.identify import identify
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.connections import session
from ixfast.store.migrate import migrate
from ixfast.store.queries import load

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def register(main: click.Group, with_settings: Decorator) -> None:
    @main.command("verify")
    @click.argument("url")
    @click.option("--account", "aid", help="The tag's account (AID); required unless the URL has the tag code as x or xuid.")
    @with_settings
    def command(url: str, aid: str | None, config: Path | None, **flags: object) -> None:
        """Show step by step what the tapped URL proves. The tap is not consumed and can still pass."""
        environment = resolve(flags, config)
        with environment.database() as dsn:
            steps = asyncio.run(_explain(environment, dsn, url, aid))
        for step in steps:
            click.echo(f"{step.name:18} {step.outcome}")


async def _explain(environment: CommandEnvironment, dsn: str, url: str, aid: str | None) -> list[Step]:
    await migrate(dsn)
    pool = await session.make_pool(dsn, 1)
    try:
        catalogue = Catalogue(pool, environment.keys(), meters.Meters(), tags_max=100, absent_max=100, deadline_s=10.0)
        record = await _find(catalogue, url, aid)
        if record is None:
            return [Step("result", "tag not found: check the account and whether the URL identifies the tag")]
        return await _steps(pool, record, url)
    finally:
        await pool.close()


async def _find(catalogue: Catalogue, url: str, aid: str | None) -> TagRecord | None:
    """Find the tag by the tag code in the URL, else by what the account's profiles read from it."""
    candidates = []
    parameters = parse_parameters(urlsplit(url).query)
    code = parameters.get("x") or parameters.get("xuid")
    if code is not None and references.CODE.fullmatch(code):
        candidates.append(code.encode())
    if aid is not None:
        candidates += await identify(catalogue, aid, Extras(url=url), is_owner=True)
    for ref in candidates:
        record = await _fetch(catalogue, ref)
        if record is not None:
            return record
    return None


async def _fetch(catalogue: Catalogue, ref: bytes) -> TagRecord | None:
    future: asyncio.Future[tuple[Scan, TagRecord | None]] = asyncio.get_running_loop().create_future()
    probe = Scan(lambda _scan: None, ref, -1, None, None, 0, asyncio.get_running_loop().time())
    catalogue.fetch(probe, ref, lambda scan, record: future.set_result((scan, record)))
    scan, record = await future
    if scan.error is not None:
        raise InputError(scan.error, f"The tag could not be looked up: {scan.error_detail}.")
    return record


async def _steps(pool: Any, record: TagRecord, url: str) -> list[Step]:
    group = record.group
    steps = [Step("tag", f"{record.xuid.decode()} in {group.account.aid} / {group.folder_name} / {group.name}")]
    level = record.inactive_level()
    if level is not None:
        steps.append(Step("status", f"{level}: scans get this result and consume nothing"))
    profile = group.profile
    if profile is None:
        return [*steps, Step("result", "a standard tag: nothing to authenticate")]
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
        return [*steps, Step("result", str(error))]
    evidence = verify(url, **known)
    if evidence.authentic:
        steps.append(await _ledger_step(pool, record, evidence))
    return steps


async def _ledger_step(pool: Any, record: TagRecord, evidence: Evidence) -> Step:
    if evidence.position is None:
        return Step("ledger", "no counter is mirrored: the same tap passes every time")
    row = await pool.fetchrow(load("ledger")["states"], [record.tag_id])
    if row is None:
        return Step("ledger", "the tag has no counter row: scans get 503")
    last = row["last_position"]
    newest = f"{last & POSITION_COUNTER_MASK} of key version {last >> POSITION_COUNTER_BITS}" if last else "none yet"
    state = "new, a scan would pass" if evidence.position > last else "used, a scan is refused"
    return Step("ledger", f"counter {evidence.counter} is {state}; newest accepted: {newest}")
