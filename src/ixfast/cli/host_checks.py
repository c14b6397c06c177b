"""Checks of a host by `ixfast doctor`: the installation, files, limits and ports. They change nothing.

A check returns a `Check`, and raises IxfastError or OSError for what it finds broken, which `checked` turns into a failure.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import shutil
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509

from ixfast.cli.database import CommandEnvironment, ServerAddresses
from ixfast.config.addresses import is_every_interface
from ixfast.config.settings import Settings
from ixfast.embedded.binaries import ServerUser
from ixfast.errors import ConfigurationError, IxfastError
from ixfast.keys.key_file import KeyFile, KeyLine
from ixfast.keys.sealing import open_line
from ixfast.process import tls, unix_socket
from ixfast.process.supervisor import bind_listener
from ixfast.versions import versions

Status = Literal["OK", "WARN", "FAIL"]

_SPACE_WARN = 4 << 30  # Twice max_wal_size of the private PostgreSQL.
_SPACE_FAIL = 512 << 20
_EXPIRY_WARN = dt.timedelta(days=30)
_OPEN_FILES_SPARE = 200  # Of a worker, besides its clients.
_HTTP_S = 3.0
_SEVERITY: tuple[Status, ...] = ("OK", "WARN", "FAIL")


class Check(NamedTuple):
    """The result of one check. `text` says what is the case and, unless it is OK, how to fix it."""

    name: str
    status: Status
    text: str


def checked(name: str, check: Callable[[], Check]) -> Check:
    """Run a check. What it raises is a failure; the text of an unexpected error is not shown, because it may have a secret."""
    try:
        return check()
    except IxfastError as error:
        return Check(name, "FAIL", str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        remedy = " Run this command as the user that runs the server." if isinstance(error, PermissionError) else ""
        return Check(name, "FAIL", f"{place}{error.strerror or type(error).__name__}.{remedy}")
    except Exception as error:  # a broken check must not hide the others
        return Check(name, "FAIL", f"This could not be checked: {type(error).__name__}. Please report it.")


def check_installation() -> Check:
    """The interpreter, the core and the form of the compiled modules."""
    running = versions()
    reasons = {each: running[each] for each in ("core_reason", "path_reason") if running[each] is not None}
    text = f"ixfast {running['ixfast']} on Python {running['python']}, {running['machine']}; core {running['core']}"
    if not reasons:
        return Check("installation", "OK", f"{text}, compiled modules")
    slow = "core" if "core_reason" in reasons else "form of the modules"
    remedy = "install a wheel of ixfast for this platform"
    if "IXFAST_FORCE_TWIN" in " ".join(map(str, reasons.values())):
        remedy = "unset IXFAST_FORCE_TWIN"
    return Check(
        "installation", "WARN", f"{text}. The slow pure-Python {slow} is in use ({next(iter(reasons.values()))}); {remedy}."
    )


def check_data_dir(environment: CommandEnvironment) -> Check:
    """The directory of the private PostgreSQL and of the generated key file: permissions and space."""
    settings, folder = environment.settings, environment.data_dir
    if settings.dsn is not None and settings.kek_file is not None:
        return Check("data directory", "OK", "not used, because dsn and kek_file are set")
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ConfigurationError(f"{place} is not a directory; set data_dir to one.")
    if not os.access(place, os.W_OK | os.X_OK):
        owner, user = place.stat().st_uid, os.geteuid()
        remedy = f"run ixfast as user {owner}" if owner != user else f"change that with: chmod u+wx {place}"
        raise ConfigurationError(f"{place} is not writable for user {user}: {remedy}, or set data_dir to another directory.")
    problems: list[tuple[Status, str]] = []
    free = shutil.disk_usage(place).free
    if settings.dsn is None and free < _SPACE_WARN:
        text = (
            f"{place} has {_size(free)} of free space, and the private PostgreSQL needs up to {_size(_SPACE_WARN)} besides its "
            "tables: free some, or set data_dir to a directory on another disk."
        )
        problems.append(("FAIL" if free < _SPACE_FAIL else "WARN", text))
    if settings.dsn is None and not (server_user := ServerUser.choose()).can_enter(place):
        text = (
            f"PostgreSQL runs as user {server_user.name}, which cannot enter {place}: set data_dir to a directory that this user "
            "can enter, such as one in /var/lib."
        )
        problems.append(("FAIL", text))
    if place == folder and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problems.append(("WARN", f"Other users can write to {folder}; restrict it with: chmod go-w {folder}"))
    if problems:
        problems.sort(key=lambda problem: problem[0])  # FAIL before WARN
        return Check("data directory", problems[0][0], " ".join(text for _, text in problems))
    missing = "" if place == folder else " does not exist yet and will be created;"
    return Check("data directory", "OK", f"{folder}{missing or ','} {_size(free)} free")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def check_key_file(environment: CommandEnvironment) -> Check:
    """The key file, its permissions, and whether the providers open every key."""
    path, settings = environment.kek_file, environment.settings
    if not path.exists() and settings.kek_file is None:
        if settings.dsn is None and environment.has_private_database():
            raise ConfigurationError(
                f"{path} is missing, so that no key of the private database can be opened; restore it from its backup."
            )
        if settings.dsn is None:
            return Check("key file", "OK", f"{path} does not exist yet; `ixfast serve` creates it")
        raise ConfigurationError(f"There is no key file at {path}; set kek_file, or create the file with `ixfast keys init`.")
    owner = path.parent.stat().st_uid if settings.kek_file is None and path.parent.exists() else os.geteuid()
    if owner != os.geteuid() and path.stat().st_uid == owner:
        raise ConfigurationError(f"{path.parent} belongs to user {owner}: run ixfast as user {owner}.")
    lines = KeyFile.read(path).lines
    problems = [problem for line in lines if (problem := _problem_of(line)) is not None]
    if problems:
        return Check("key file", "FAIL", f"{path}: {'; '.join(problems)}")
    providers = ", ".join(dict.fromkeys(line.provider for line in lines))
    return Check("key file", "OK", f"{path}: {len(lines)} key{'s' * (len(lines) > 1)} ({providers}), current {lines[0].id}")


def _problem_of(line: KeyLine) -> str | None:
    try:
        open_line(line)
    except IxfastError as error:
        return f"key {line.id} cannot be opened: {error}"
    return None


def check_tls(settings: Settings) -> Check:
    """The certificates and their keys: readable, matching and not about to expire."""
    certificates = [each for each in (tls.Certificate.public(settings), tls.Certificate.private(settings)) if each is not None]
    if not certificates:
        return Check("TLS", "OK", "not configured: ixfast serves HTTP")
    results = [_check_certificate(each.cert) for each in certificates]
    return Check("TLS", max((each.status for each in results), key=_SEVERITY.index), "; ".join(each.text for each in results))


def _check_certificate(path: Path) -> Check:
    now = dt.datetime.now(dt.UTC)
    chain = x509.load_pem_x509_certificates(path.read_bytes())
    end = min(each.not_valid_after_utc for each in chain)
    text = f"{path} is valid until {end:%Y-%m-%d}"
    if end <= now or chain[0].not_valid_before_utc > now:
        began = f"{chain[0].not_valid_before_utc:%Y-%m-%d} to {end:%Y-%m-%d}"
        raise ConfigurationError(f"{path} is valid from {began}, not now: renew it and send SIGHUP to `ixfast serve`.")
    if end - now < _EXPIRY_WARN:
        return Check("TLS", "WARN", f"{text}: renew it and send SIGHUP to `ixfast serve`.")
    return Check("TLS", "OK", text)


def check_addresses(environment: CommandEnvironment) -> Check:
    """The file of addresses for the countries of visitors."""
    environment.check_addresses()
    path = environment.settings.addresses_file
    return Check("addresses file", "OK", str(path) if path is not None else "not configured: rules have no country or time zone")


def check_limits(settings: Settings) -> Check:
    """Open files, and whether keys in memory can reach the disk."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _OPEN_FILES_SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        return Check(
            "limits",
            "WARN",
            f"A process may open {soft} files, and max_connections of {settings.max_connections} needs {wanted}: raise the limit "
            f"(ulimit -n {wanted}, or LimitNOFILE= of systemd), or lower max_connections.",
        )
    if _swap_is_on():
        return Check(
            "limits",
            "WARN",
            "Swap is on, so that keys in memory may reach the disk: turn it off, or set MemorySwapMax=0 in systemd.",
        )
    return Check("limits", "OK", f"{'unlimited' if soft == resource.RLIM_INFINITY else soft} open files, no core dumps, no swap")


def _swap_is_on() -> bool:
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    except OSError:
        return False


def check_server(environment: CommandEnvironment) -> Check:
    """A server that uses the data directory or the ports, and whether it is ready; without one, whether the ports are free."""
    settings, running_at = environment.settings, environment.server_addresses()
    port = settings.private_port
    base = (running_at or ServerAddresses.of(settings, settings.port, port)).private
    found = _fetch(f"{base}/readyz") if port or running_at else None
    if found is not None:
        problems = found.get("problems")
        if not isinstance(problems, dict):
            raise ConfigurationError(f"Another program answers at {base}: stop it, or choose another private_port.")
        if problems:
            reasons = ", ".join(f"{part}: {reason}" for part, reason in problems.items())
            raise ConfigurationError(
                f'The server at {base} is not ready ({reasons}); see "What a 503 says" in docs/how-to/operate.md.'
            )
        running = (_fetch(f"{base}/versions") or {}).get("ixfast")
        if running != versions()["ixfast"]:
            return Check("server", "WARN", f"The server at {base} runs ixfast {running}: restart it to use this release.")
        return _exposed(settings) or Check("server", "OK", f"runs at {base} and is ready")
    for setting, address, number in (
        ("port", settings.host, settings.port),
        ("private_port", settings.private_host, settings.private_port),
    ):
        bind_listener(address, number, setting, shared=False).close()
    if settings.unix_socket is not None:
        unix_socket.check(settings.unix_socket)
    return _exposed(settings) or Check(
        "server", "OK", f"does not run; ports {settings.port} and {settings.private_port} are free"
    )


def _exposed(settings: Settings) -> Check | None:
    """A warning if management listens on every network interface."""
    if not is_every_interface(settings.private_host):
        return None
    text = f"private_host is {settings.private_host}, which exposes management on all network interfaces: set a private one."
    return Check("server", "WARN", text)


def _fetch(url: str) -> dict[str, object] | None:
    """The JSON object at a URL of the private listener, whatever its status; an empty one for anything else, and None if nothing
    answers."""
    # Nothing secret is sent, and the listener's certificate need not name the address at which this host reaches it.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified))
    try:
        with opener.open(url, timeout=_HTTP_S) as response:
            content = response.read(1 << 16)
    except urllib.error.HTTPError as error:
        content = error.read(1 << 16)
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ConnectionRefusedError) else {}
    except (OSError, ValueError):
        return {}
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
