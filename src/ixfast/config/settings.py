"""Every setting of a server, declared once, as a field of `Settings` with its default and its `Rule`.

Everything else follows from that declaration: flags and environment variables, the checks in `settings_loader.py`, `ixfast
settings`, the help of `ixfast serve`, and the table in docs/reference/settings.md. Values are loaded and checked
in `settings_loader.py`, not here.

Secrets are never shown, neither by `repr` nor by `dump`.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ixfast.config.setting_rules import Rule, SettingDescription, describe_field

__all__ = ["PREFIX", "REDACTED", "SettingDescription", "Settings", "describe", "dump"]

PREFIX = "IXFAST_"
REDACTED = "<redacted>"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The checked settings of a server. Create it with `settings_loader.load`, which is what checks them."""

    dsn: Annotated[
        str | None,
        Rule(
            "PostgreSQL database that stores everything. If unset, ixfast starts a private server in data_dir.",
            "URL",
            secret=True,
            default="a private server",
            tuning="Name several hosts, separated by commas, to follow a failover. Special characters in the user name and "
            "password must be percent-encoded.",
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        Rule(
            "Directory of the private PostgreSQL server and the generated key file. Unused if both dsn and kek_file are set.",
            "directory",
            default="/var/lib/ixfast for root, else $XDG_DATA_HOME/ixfast",
            tuning="With the private server, back it up and never delete it: it holds the counters of every tag.",
        ),
    ] = None
    kek_file: Annotated[
        Path | None,
        Rule(
            "File with the key-encryption keys, mode 0600. Without it no stored key can be opened; back it up apart "
            "from the database.",
            "file",
            default="kek in data_dir",
        ),
    ] = None
    host: Annotated[
        str,
        Rule(
            "Address that the scan API listens on. 0.0.0.0 or :: exposes it on every network interface.",
            "address",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Rule(
            "Port of the scan API. 0 lets the kernel choose a free one.",
            "TCP port",
            0,
            65535,
        ),
    ] = 8480
    unix_socket: Annotated[
        Path | None,
        Rule(
            "Unix socket at which the scan API is served as well, by plain HTTP, for a web server or balancer on this host.",
            "file",
            default="none",
            tuning="A request needs less CPU time of server and client than through TCP. An absolute path of at most 107 bytes. "
            "Every user whom its directory lets in may connect, as on the loopback interface: restrict the directory.",
        ),
    ] = None
    private_host: Annotated[
        str,
        Rule(
            "Address that management, metrics and health checks listen on. Do not expose it to a public network.",
            "address",
        ),
    ] = "127.0.0.1"
    private_port: Annotated[
        int,
        Rule(
            "Port of management, metrics and health checks. 0 lets the kernel choose a free one.",
            "TCP port",
            0,
            65535,
        ),
    ] = 8481
    tls_cert: Annotated[
        Path | None,
        Rule(
            "Certificate chain in PEM format. Together with tls_key it makes the scan API serve HTTPS.",
            "file",
            default="no TLS",
            tuning="After it is renewed, send SIGHUP: new connections get the new certificate.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Rule(
            "Private key for tls_cert, in PEM format, unencrypted, not readable by all users.",
            "file",
            default="no TLS",
        ),
    ] = None
    private_tls_cert: Annotated[
        Path | None,
        Rule(
            "Certificate chain in PEM format. Together with private_tls_key it makes the private listener serve HTTPS.",
            "file",
            default="no TLS",
            tuning="Use it if keys are uploaded, or API keys sent, from another machine. It may be the file of tls_cert. After "
            "it is renewed, send SIGHUP.",
        ),
    ] = None
    private_tls_key: Annotated[
        Path | None,
        Rule(
            "Private key for private_tls_cert, in PEM format, unencrypted, not readable by all users.",
            "file",
            default="no TLS",
        ),
    ] = None
    workers: Annotated[
        int | Literal["auto"],
        Rule(
            "Number of worker processes; auto starts one per CPU.",
            "processes",
            1,
            256,
            tuning="Raise it while workers are at 100 % CPU and other CPUs are idle; beyond the number of CPUs, batches shrink"
            " and the slowest responses become slower. Lower it to leave CPUs to a database on the same host.",
        ),
    ] = "auto"
    deadline_ms: Annotated[
        int,
        Rule(
            "Time limit of one scan. A scan that is not durable by then gets 503, never a refusal.",
            "ms",
            50,
            60_000,
            tuning="Raise it if callers prefer waiting to a 503 while the database is slow. Lower it to fail faster; below the"
            " time of a commit, no scan can pass.",
        ),
    ] = 1500
    committers: Annotated[
        int,
        Rule(
            "Ledger connections per worker. Tags are divided among them; each connection has one batch in flight.",
            "connections",
            1,
            64,
            tuning="Raise it if the database is more than 1 ms away, so that more statements are in flight. Lower it again for"
            " a nearby database, where more connections only make batches smaller and each scan costlier.",
        ),
    ] = 1
    ledger_batch_max: Annotated[
        int,
        Rule(
            "Maximum number of scans that one statement commits.",
            "scans",
            1,
            8192,
            tuning="Raise it only if most batches reach it; above 1024, throughput hardly increases. Lower it to hold row "
            "locks for a shorter time; below the batch size that the load produces by itself, throughput falls.",
        ),
    ] = 1024
    ledger_queue_max: Annotated[
        int,
        Rule(
            "Maximum number of scans per worker that wait for a commit; further scans get 503 at once. At least "
            "ledger_batch_max.",
            "scans",
            1,
            1_000_000,
            tuning="Raise it to absorb longer bursts, at the price of memory and of scans that wait until their deadline. "
            "Lower it to answer 503 earlier. The longest wait is this number divided by the throughput of the database.",
        ),
    ] = 20_000
    ledger_wait_max_ms: Annotated[
        int,
        Rule(
            "Time that a scan may wait for a commit, estimated from recent throughput; scans that would wait longer get"
            " 503 at once.",
            "ms",
            1,
            60_000,
            tuning="The queue is limited to what the worker recently committed in this time, or to 256 scans, or to what a "
            "slow database commits in a quarter of deadline_ms, whichever is most. Raise it if callers prefer waiting "
            "to an early 503. Lower it to keep latency low under overload.",
        ),
    ] = 100
    pool_size: Annotated[
        int,
        Rule(
            "Database connections per worker for look-ups and management, in addition to its committers.",
            "connections",
            1,
            256,
            tuning="Raise it if look-ups or management requests queue for a connection; management uses at most half of them. "
            "Lower it if PostgreSQL runs out of connections.",
        ),
    ] = 4
    cache_tags: Annotated[
        int,
        Rule(
            "Maximum number of tag records with decrypted keys that a worker caches. A scan of any other tag costs a look-up.",
            "tags",
            1,
            50_000_000,
            tuning="Raise it above the number of tags that are active within an hour. Lower it to save memory in each worker.",
        ),
    ] = 500_000
    negative_cache: Annotated[
        int,
        Rule(
            "Maximum number of unknown tag references that are cached for a few seconds, so that guesses do not reach "
            "the database.",
            "references",
            1,
            10_000_000,
            tuning="Raise it if someone guesses more codes than that in a few seconds. Lower it to save memory in each worker.",
        ),
    ] = 100_000
    poll_interval_ms: Annotated[
        int,
        Rule(
            "How often to poll for catalogue changes if no notification arrives. A deactivated tag may keep passing for"
            " up to this long.",
            "ms",
            10,
            5000,
            tuning="Raise it to poll the database less often. Lower it to apply changes sooner while notifications fail.",
        ),
    ] = 1000
    max_connections: Annotated[
        int,
        Rule(
            "Maximum number of client connections per worker; further ones are closed. Each needs a file descriptor.",
            "connections",
            1,
            1_000_000,
            tuning="Raise it for many clients without a load balancer, together with the limit on open files. Lower it to "
            "bound memory.",
        ),
    ] = 10_000
    congestion_control: Annotated[
        Literal["cubic", "reno", "system"],
        Rule(
            "TCP congestion control of the scan API; system uses the kernel's default.",
            tuning="Responses are too short for the algorithm to matter, but bbr, the default of some hosts, would cost a "
            "timer for each.",
        ),
    ] = "cubic"
    idle_timeout_s: Annotated[
        int,
        Rule(
            "Close a client connection that has been idle for this long.",
            "s",
            1,
            86_400,
            tuning="Raise it above the load balancer's own idle timeout; otherwise the balancer may send a scan on a "
            "connection that is closing. Lower it to free the connections of clients that have gone.",
        ),
    ] = 75
    trust_forwarded_for: Annotated[
        bool,
        Rule(
            "Take the client's address from the last entry of X-Forwarded-For.",
            tuning="Enable it only behind a load balancer that sets the header; without one, callers could claim any address. "
            "rate_limit_address and the Idempotency-Keys of callers without an API key depend on the address.",
        ),
    ] = False
    rate_limit_key: Annotated[
        int,
        Rule(
            "Scans per second, and burst size, allowed to one API key on this host; further scans get 429. 0 disables the limit.",
            "scans/s",
            0,
            10_000_000,
            tuning="Raise it if a legitimate caller gets 429. Lower it to protect the other callers from one that uses all "
            "capacity.",
        ),
    ] = 0
    rate_limit_address: Annotated[
        int,
        Rule(
            "Scans per second, and burst size, allowed to one client address on this host; further scans get 429. 0 "
            "disables the limit.",
            "scans/s",
            0,
            10_000_000,
            tuning="Raise it if many visitors share an address, such as a company's proxy. Lower it to slow down guessing. "
            "Behind a load balancer it requires trust_forwarded_for, or all callers share one limit.",
        ),
    ] = 0
    drain_delay_ms: Annotated[
        int,
        Rule(
            "After SIGTERM, keep accepting scans for this long while health checks fail, so that a load balancer can react.",
            "ms",
            0,
            600_000,
            tuning="Raise it above the time in which the load balancer notices a failing health check; otherwise it sends "
            "scans to a closed port. Lower it to restart faster.",
        ),
    ] = 0
    drain_timeout_ms: Annotated[
        int,
        Rule(
            "After drain_delay_ms, wait this long for scans in flight before closing their connections.",
            "ms",
            0,
            600_000,
            tuning="Raise it above deadline_ms, so that every scan gets its response. Lower it to restart faster; scans that "
            "are cut off get 503 with the reason stopped, or no response.",
        ),
    ] = 10_000
    scan_log_retention_days: Annotated[
        int,
        Rule(
            "Partitions of the scan log older than this are dropped permanently.",
            "days",
            1,
            36_500,
            tuning="Raise it to keep history longer, at the price of disk space. Lower it to save space or to delete personal "
            "data earlier; what is dropped can be restored only from a backup.",
        ),
    ] = 400
    addresses_file: Annotated[
        Path | None,
        Rule(
            "MaxMind DB file that gives rules and responses a visitor's country and time zone. Requires ixfast[visitors].",
            "file",
            default="no country or time zone",
            tuning="To update it, rename the new file over it and send SIGHUP.",
        ),
    ] = None
    trace_every: Annotated[
        int,
        Rule(
            "Time every Nth scan stage by stage and export the result as metrics. 0 disables tracing.",
            "scans",
            0,
            1_000_000,
            tuning="Raise it to trace fewer scans. Lower it, down to 1 for every scan, for a more exact picture; each traced "
            "scan reads the clock at every stage.",
        ),
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Rule(
            "Messages below this level are not logged.",
        ),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        Rule(
            "Format of log lines: text for people, json (one object per line) for log collectors.",
        ),
    ] = "text"

    @property
    def worker_count(self) -> int:
        """The number of workers; `auto` means the number of CPUs that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    @property
    def scheme(self) -> str:
        """The scheme of the scan API's URLs."""
        return "http" if self.tls_cert is None else "https"

    @property
    def private_scheme(self) -> str:
        """The scheme of the private listener's URLs."""
        return "http" if self.private_tls_cert is None else "https"

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in dump(self).items())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(dump(self).items())


def describe() -> list[SettingDescription]:
    """All settings, in the order of declaration."""
    return [describe_field(field, PREFIX) for field in msgspec.structs.fields(Settings)]


def dump(settings: Settings) -> dict[str, object]:
    """The settings as plain values, in the order of declaration, with secrets redacted."""
    shown: dict[str, object] = {}
    for each in describe():
        value = getattr(settings, each.name)
        hidden = each.secret and value is not None
        shown[each.name] = REDACTED if hidden else str(value) if isinstance(value, Path) else value
    return shown
