"""Settings of a server: flags, then the environment, then a TOML file, then defaults, in one frozen record.

Each setting is declared once, as a field of `Settings` with its `Rule`; names of flags and environment variables, the
checks (`given.py`), `ixfast settings` and docs/settings.md all follow from that declaration. Secrets are never shown: not by
`repr`, not by `dump`.
"""

import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

PREFIX = "IXFAST_"
REDACTED = "<redacted>"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting means. `minimum` and `maximum` are inclusive; `default` replaces the printed default."""

    consequence: str
    unit: str = ""
    minimum: int | None = None
    maximum: int | None = None
    secret: bool = False
    default: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of a server, checked. Made by `load`."""

    dsn: Annotated[
        str | None,
        Rule(
            "The PostgreSQL that holds everything. Unset: a private one is started in data_dir.",
            "URL",
            secret=True,
            default="a private server",
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        Rule(
            "Where the private PostgreSQL and a generated key file live; not used when dsn and kek_file are set.",
            "directory",
            default="/var/lib/ixfast for root, else $XDG_DATA_HOME/ixfast",
        ),
    ] = None
    kek_file: Annotated[
        Path | None,
        Rule(
            "Key-encryption keys, mode 0600. Losing it loses every key; keep it apart from the database's backups.",
            "file",
            default="kek in data_dir",
        ),
    ] = None
    host: Annotated[str, Rule("Address of the scan API. 0.0.0.0 or :: opens it to every network of the machine.", "address")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Rule("Port of the scan API; 0 lets the kernel choose one.", "TCP port", 0, 65535)] = 8480
    private_host: Annotated[
        str, Rule("Address of management, metrics and health. It is not meant for a public network.", "address")
    ] = "127.0.0.1"
    private_port: Annotated[
        int, Rule("Port of management, metrics and health; 0 lets the kernel choose.", "TCP port", 0, 65535)
    ] = 8481
    tls_cert: Annotated[
        Path | None,
        Rule("Certificate chain, PEM; with it and tls_key the scan API speaks HTTPS.", "file", default="no TLS"),
    ] = None
    tls_key: Annotated[Path | None, Rule("Private key of tls_cert, PEM, not encrypted.", "file", default="no TLS")] = None
    workers: Annotated[
        int | Literal["auto"],
        Rule(
            "Processes that answer scans. More than there are CPUs makes the slowest answers slower.",
            "processes",
            1,
            256,
        ),
    ] = "auto"
    deadline_ms: Annotated[
        int, Rule("Time for one scan; what is not durable by then is answered 503, never refused.", "ms", 50, 60_000)
    ] = 1500
    committers: Annotated[
        int,
        Rule(
            "Ledger connections of a worker; the tags are split among them, each with one batch under way.",
            "connections",
            1,
            64,
        ),
    ] = 1
    ledger_batch_max: Annotated[
        int, Rule("Scans committed by one statement; beyond 1024 the rate hardly rises.", "scans", 1, 8192)
    ] = 1024
    ledger_queue_max: Annotated[
        int,
        Rule(
            "Scans of a worker waiting for a commit; more are answered 503 at once. At least ledger_batch_max.",
            "scans",
            1,
            1_000_000,
        ),
    ] = 20_000
    ledger_wait_max_ms: Annotated[
        int,
        Rule(
            "As many scans may wait as the worker has lately committed in this time, or 256, or what a slow database commits in "
            "a quarter of deadline_ms; more are answered 503 at once.",
            "ms",
            1,
            60_000,
        ),
    ] = 100
    pool_size: Annotated[
        int, Rule("Connections of a worker for look-ups and management, beside its committers.", "connections", 1, 256)
    ] = 4
    cache_tags: Annotated[
        int,
        Rule(
            "Tag records with opened keys that a worker holds in memory; a tag that is not held costs one look-up.",
            "tags",
            1,
            50_000_000,
        ),
    ] = 500_000
    negative_cache: Annotated[
        int,
        Rule(
            "Unknown tag references remembered for a few seconds, so that guessing does not reach the database.",
            "references",
            1,
            10_000_000,
        ),
    ] = 100_000
    poll_interval_ms: Annotated[
        int,
        Rule(
            "How often changes of the catalogue are asked for when no notification came; a deactivated tag may pass as long.",
            "ms",
            10,
            5_000,
        ),
    ] = 1000
    max_connections: Annotated[
        int,
        Rule(
            "Open client connections of a worker; beyond it new ones are closed. Needs as many file descriptors.",
            "connections",
            1,
            1_000_000,
        ),
    ] = 10_000
    congestion_control: Annotated[
        Literal["cubic", "reno", "system"],
        Rule(
            "How TCP of the scan API paces its answers, which are too short for any to matter; bbr would cost a timer for each. "
            "system: as the kernel is set.",
        ),
    ] = "cubic"
    rate_limit_key: Annotated[
        int,
        Rule(
            "Scans a second that one API key may ask of this host, in bursts as large; more are answered 429. 0: no limit.",
            "scans/s",
            0,
            10_000_000,
        ),
    ] = 0
    rate_limit_address: Annotated[
        int,
        Rule(
            "The same for one client address. Behind a balancer it needs trust_forwarded_for. 0: no limit.",
            "scans/s",
            0,
            10_000_000,
        ),
    ] = 0
    trace_every: Annotated[
        int,
        Rule(
            "Of every so-many-th scan the time of each stage is measured and told by the metrics. 0: of none.",
            "scans",
            0,
            1_000_000,
        ),
    ] = 0
    trust_forwarded_for: Annotated[
        bool, Rule("Take the client's address from the last entry of X-Forwarded-For. Only behind a balancer that sets it.")
    ] = False
    idle_timeout_s: Annotated[
        int,
        Rule(
            "A connection without a request is closed after this; keep it above the balancer's own idle time.",
            "s",
            1,
            86_400,
        ),
    ] = 75
    drain_delay_ms: Annotated[
        int,
        Rule(
            "After SIGTERM, scans are still accepted for this long while health says no; the time a balancer needs.",
            "ms",
            0,
            600_000,
        ),
    ] = 0
    drain_timeout_ms: Annotated[
        int,
        Rule(
            "After the delay, scans under way get this long to finish before their connections are cut.",
            "ms",
            0,
            600_000,
        ),
    ] = 10_000
    scan_log_retention_days: Annotated[
        int, Rule("Partitions of the scan log older than this are dropped for good.", "days", 1, 36_500)
    ] = 400
    addresses_file: Annotated[
        Path | None,
        Rule(
            "MaxMind DB file by which rules and responses know a visitor's country and time zone; needs ixfast[visitors]. "
            "Replace it by renaming another one over it, then SIGHUP.",
            "file",
            default="country never known",
        ),
    ] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Rule("Messages below this level are not written.")] = (
        "info"
    )
    log_format: Annotated[Literal["text", "json"], Rule("text for people, json (one object a line) for collectors.")] = "text"

    @property
    def worker_count(self) -> int:
        """`workers`, where "auto" is the number of CPUs that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in dump(self).items())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(dump(self).items())


class SettingDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as documentation shows it; all texts are ready to print."""

    name: str
    flag: str
    env: str
    kind: Literal["integer", "integer or auto", "boolean", "text", "path", "choice"]
    unit: str
    default: str
    range: str
    consequence: str
    secret: bool
    minimum: int | None
    maximum: int | None
    choices: tuple[str, ...]


def describe() -> list[SettingDescription]:
    """Every setting in the order of its declaration."""
    described = []
    for field in msgspec.structs.fields(Settings):
        base, rule = typing.get_args(field.type)
        kind, choices = _kind_of(base)
        described.append(
            SettingDescription(
                name=field.name,
                flag="--" + field.name.replace("_", "-"),
                env=PREFIX + field.name.upper(),
                kind=kind,
                unit=rule.unit,
                default=rule.default or _printed(field.default),
                range=_range_of(kind, rule, choices),
                consequence=rule.consequence,
                secret=rule.secret,
                minimum=rule.minimum,
                maximum=rule.maximum,
                choices=choices,
            )
        )
    return described


def dump(settings: Settings) -> dict[str, object]:
    """The settings in effect as plain values, in the order of their declaration, secrets hidden."""
    shown: dict[str, object] = {}
    for each in describe():
        value = getattr(settings, each.name)
        hidden = each.secret and value is not None
        shown[each.name] = REDACTED if hidden else str(value) if isinstance(value, Path) else value
    return shown


def _kind_of(base: Any) -> tuple[Any, tuple[str, ...]]:
    """The kind of a field by its annotation, and its choices."""
    simple = {int: "integer", bool: "boolean", str: "text", Path: "path"}
    if base in simple:
        return simple[base], ()
    if typing.get_origin(base) is Literal:
        return "choice", typing.get_args(base)
    parts = [part for part in typing.get_args(base) if part is not types.NoneType]
    return ("integer or auto", ()) if len(parts) > 1 else (simple[parts[0]], ())


def _range_of(kind: str, rule: Rule, choices: tuple[str, ...]) -> str:
    if choices:
        return ", ".join(choices)
    if rule.minimum is None:
        return "true, false" if kind == "boolean" else ""
    return f"{rule.minimum} to {rule.maximum}" + (" or auto" if kind == "integer or auto" else "")


def _printed(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
