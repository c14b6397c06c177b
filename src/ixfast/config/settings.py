"""Every setting of a server, declared once, as a field of `Settings` with its default and its `Rule`.

Everything else follows from that declaration: flags and environment variables, the checks in `settings_loader.py`, `ixfast
settings`, the help of `ixfast serve`, and the table in docs/reference/settings.md. Values are loaded and checked
in `settings_loader.py`, not here.

Secrets are never shown, neither by `repr` nor by `dump`.
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
    """Documentation and limits of a setting.

    `consequence` is the sentence that documentation and help show. `minimum` and `maximum` are inclusive. `default` is the text
    to show as the default where the value itself says too little.
    """

    consequence: str
    unit: str = ""
    minimum: int | None = None
    maximum: int | None = None
    secret: bool = False
    default: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The checked settings of a server. Create it with `settings_loader.load`, which is what checks them."""

    dsn: Annotated[
        str | None,
        Rule(
            "The PostgreSQL database that stores everything. If unset, a private server is started in data_dir.",
            "URL",
            secret=True,
            default="a private server",
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        Rule(
            "Directory of the private PostgreSQL server and the generated key file. Unused if both dsn and kek_file are set.",
            "directory",
            default="/var/lib/ixfast for root, else $XDG_DATA_HOME/ixfast",
        ),
    ] = None
    kek_file: Annotated[
        Path | None,
        Rule(
            "File with the key-encryption keys, mode 0600. If it is lost, every key is lost; keep it apart from database "
            "backups.",
            "file",
            default="kek in data_dir",
        ),
    ] = None
    host: Annotated[
        str, Rule("Address that the scan API listens on. 0.0.0.0 or :: exposes it on every network interface.", "address")
    ] = "127.0.0.1"
    port: Annotated[int, Rule("Port of the scan API. 0 lets the kernel choose a free one.", "TCP port", 0, 65535)] = 8480
    private_host: Annotated[
        str,
        Rule("Address that management, metrics and health checks listen on. Do not expose it to a public network.", "address"),
    ] = "127.0.0.1"
    private_port: Annotated[
        int, Rule("Port of management, metrics and health checks. 0 lets the kernel choose a free one.", "TCP port", 0, 65535)
    ] = 8481
    tls_cert: Annotated[
        Path | None,
        Rule("Certificate chain in PEM format. With tls_key it makes the scan API serve HTTPS.", "file", default="no TLS"),
    ] = None
    tls_key: Annotated[Path | None, Rule("Private key for tls_cert, in PEM format, unencrypted.", "file", default="no TLS")] = (
        None
    )
    workers: Annotated[
        int | Literal["auto"],
        Rule(
            "Number of worker processes. More than there are CPUs increases tail latency.",
            "processes",
            1,
            256,
        ),
    ] = "auto"
    deadline_ms: Annotated[
        int, Rule("Time limit of one scan. A scan that is not durable by then gets 503, never a refusal.", "ms", 50, 60_000)
    ] = 1500
    committers: Annotated[
        int,
        Rule(
            "Ledger connections per worker. Tags are divided among them; each connection has one batch in flight.",
            "connections",
            1,
            64,
        ),
    ] = 1
    ledger_batch_max: Annotated[
        int,
        Rule("Maximum number of scans that one statement commits. Above 1024, throughput hardly increases.", "scans", 1, 8192),
    ] = 1024
    ledger_queue_max: Annotated[
        int,
        Rule(
            "Maximum number of scans per worker that wait for a commit; further scans get 503 at once. At least "
            "ledger_batch_max.",
            "scans",
            1,
            1_000_000,
        ),
    ] = 20_000
    ledger_wait_max_ms: Annotated[
        int,
        Rule(
            "Limits the queue to the number of scans that the worker recently committed in this time, or to 256 or what a slow "
            "database commits in a quarter of deadline_ms, if that is more. Further scans get 503 at once.",
            "ms",
            1,
            60_000,
        ),
    ] = 100
    pool_size: Annotated[
        int, Rule("Connections per worker for look-ups and management, in addition to its committers.", "connections", 1, 256)
    ] = 4
    cache_tags: Annotated[
        int,
        Rule(
            "Maximum number of tag records with decrypted keys that a worker caches. A scan of any other tag costs a look-up.",
            "tags",
            1,
            50_000_000,
        ),
    ] = 500_000
    negative_cache: Annotated[
        int,
        Rule(
            "Maximum number of unknown tag references that are cached for a few seconds, so that guesses do not reach the "
            "database.",
            "references",
            1,
            10_000_000,
        ),
    ] = 100_000
    poll_interval_ms: Annotated[
        int,
        Rule(
            "How often to poll for catalogue changes if no notification arrives. A deactivated tag may keep passing for up "
            "to this long.",
            "ms",
            10,
            5_000,
        ),
    ] = 1000
    max_connections: Annotated[
        int,
        Rule(
            "Maximum number of client connections per worker; further ones are closed. Each needs a file descriptor.",
            "connections",
            1,
            1_000_000,
        ),
    ] = 10_000
    congestion_control: Annotated[
        Literal["cubic", "reno", "system"],
        Rule(
            "TCP congestion control of the scan API. Responses are too short for it to matter, but bbr would cost a timer "
            "for each. system uses the kernel's default.",
        ),
    ] = "cubic"
    rate_limit_key: Annotated[
        int,
        Rule(
            "Scans per second, and burst size, allowed to one API key on this host; further scans get 429. 0 disables the limit.",
            "scans/s",
            0,
            10_000_000,
        ),
    ] = 0
    rate_limit_address: Annotated[
        int,
        Rule(
            "The same limit for one client address. Behind a load balancer it requires trust_forwarded_for. 0 disables the "
            "limit.",
            "scans/s",
            0,
            10_000_000,
        ),
    ] = 0
    trace_every: Annotated[
        int,
        Rule(
            "Time every Nth scan stage by stage and export the result as metrics. 0 disables tracing.",
            "scans",
            0,
            1_000_000,
        ),
    ] = 0
    trust_forwarded_for: Annotated[
        bool,
        Rule(
            "Take the client's address from the last entry of X-Forwarded-For. "
            "Use it only behind a load balancer that sets the header."
        ),
    ] = False
    idle_timeout_s: Annotated[
        int,
        Rule(
            "Close a connection that has been idle for this long. Keep it above the load balancer's own idle timeout.",
            "s",
            1,
            86_400,
        ),
    ] = 75
    drain_delay_ms: Annotated[
        int,
        Rule(
            "After SIGTERM, keep accepting scans for this long while health checks fail, so that a load balancer can react.",
            "ms",
            0,
            600_000,
        ),
    ] = 0
    drain_timeout_ms: Annotated[
        int,
        Rule(
            "After drain_delay_ms, wait this long for scans in flight before closing their connections.",
            "ms",
            0,
            600_000,
        ),
    ] = 10_000
    scan_log_retention_days: Annotated[
        int, Rule("Partitions of the scan log older than this are dropped permanently.", "days", 1, 36_500)
    ] = 400
    addresses_file: Annotated[
        Path | None,
        Rule(
            "MaxMind DB file that gives rules and responses a visitor's country and time zone. Requires ixfast[visitors]. "
            "To update it, rename the new file over it and send SIGHUP.",
            "file",
            default="no country or time zone",
        ),
    ] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Rule("Messages below this level are not logged.")] = "info"
    log_format: Annotated[Literal["text", "json"], Rule("text is for people, json (one object per line) for log collectors.")] = (
        "text"
    )

    @property
    def worker_count(self) -> int:
        """The number of workers; `auto` means the number of CPUs that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in dump(self).items())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(dump(self).items())


class SettingDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as documentation shows it; every text is ready to print."""

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
    """All settings, in the order of declaration."""
    descriptions = []
    for field in msgspec.structs.fields(Settings):
        base, rule = typing.get_args(field.type)
        kind, choices = _kind_of(base)
        descriptions.append(
            SettingDescription(
                name=field.name,
                flag="--" + field.name.replace("_", "-"),
                env=PREFIX + field.name.upper(),
                kind=kind,
                unit=rule.unit,
                default=rule.default or _shown_default(field.default),
                range=_range_of(kind, rule, choices),
                consequence=rule.consequence,
                secret=rule.secret,
                minimum=rule.minimum,
                maximum=rule.maximum,
                choices=choices,
            )
        )
    return descriptions


def dump(settings: Settings) -> dict[str, object]:
    """The settings as plain values, in the order of declaration, with secrets redacted."""
    shown: dict[str, object] = {}
    for each in describe():
        value = getattr(settings, each.name)
        hidden = each.secret and value is not None
        shown[each.name] = REDACTED if hidden else str(value) if isinstance(value, Path) else value
    return shown


def _kind_of(base: Any) -> tuple[Any, tuple[str, ...]]:
    """The kind of a field, from its annotation, and the choices if it is a choice."""
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


def _shown_default(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
