"""Loads settings from flags, environment variables and a TOML file, in this order of precedence, and checks them.

What settings there are is declared in `settings.py`; this module only collects and checks values.

Invariants:
1. Every error is a `ConfigurationError` of one line with the origin of the value, what is allowed, and what was given.
2. An unknown name is an error with a suggestion: a misspelt setting that is silently ignored would be noticed only in production.
3. No message shows a secret. A secret may be read from a file of its own (`dsn_file`, `IXFAST_DSN_FILE`).
"""

import difflib
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ixfast import secret_files
from ixfast.config.addresses import socket_path_mistake
from ixfast.config.dsn_form import dsn_mistake
from ixfast.config.settings import PREFIX, SettingDescription, Settings, describe
from ixfast.errors import ConfigurationError

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

# Environment variables that are not settings. Some are read by the tests and the build. Kubernetes announces a service
# named `ixfast` to every pod of its namespace as IXFAST_SERVICE_HOST, IXFAST_PORT_8480_TCP and so on.
_FOREIGN_NAMES = frozenset(
    PREFIX + name
    for name in ("CONFIG", "FORCE_TWIN", "REQUIRE_NATIVE", "DIFFERENTIAL_CASES", "SANITIZE", "NO_EXTENSIONS", "TRACEBACK")
)  # fmt: skip
_FOREIGN_PREFIXES = tuple(PREFIX + name for name in ("WORKER_", "TEST_", "SERVICE_", "PORT_"))


class _RawValue(typing.NamedTuple):
    """An unchecked value and where it comes from, such as "flag --port"."""

    origin: str
    value: object

    @classmethod
    def from_secret_file(cls, origin: str, value: object) -> Self:
        """Read a secret from the file `value`. Raises ConfigurationError if all users may access it."""
        path = Path(str(value))
        text = secret_files.read_line(path, origin)
        return cls(f"{origin} ({path})", text)


def load(flags: Mapping[str, object], environ: Mapping[str, str], config_path: Path | None = None) -> Settings:
    """Load and check the settings.

    `flags` are keyed by setting name (or `dsn_file`); None means not given. `config_path`, or else `IXFAST_CONFIG`, names a TOML
    file whose keys are setting names. Raises ConfigurationError for an unknown name, an invalid value, a file that cannot be
    read, and settings that contradict each other.
    """
    known = {each.name: each for each in describe()}
    chosen = config_path or (Path(environ[PREFIX + "CONFIG"]) if environ.get(PREFIX + "CONFIG") else None)
    collected: dict[str, _RawValue] = {}
    for source in (_from_file(chosen, known), _from_environ(environ, known), _from_flags(flags, known)):
        collected.update(source)
    values: dict[str, Any] = {name: _convert(known[name], raw) for name, raw in collected.items()}
    settings = Settings(**values)
    _check_together(settings)
    return settings


def _from_flags(flags: Mapping[str, object], known: Mapping[str, SettingDescription]) -> dict[str, _RawValue]:
    given = {name: (f"flag --{name.replace('_', '-')}", value) for name, value in flags.items() if value is not None}
    return _by_setting(given, known, lambda name: "--" + name.replace("_", "-"))


def _from_environ(environ: Mapping[str, str], known: Mapping[str, SettingDescription]) -> dict[str, _RawValue]:
    given: dict[str, tuple[str, object]] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in _FOREIGN_NAMES or name.startswith(_FOREIGN_PREFIXES):
            continue
        # Compose files and shells set a variable to the empty string when they mean "unset". IXFAST_PORT=tcp://10.… comes from
        # Kubernetes, which announces a service named `ixfast`, and not from an operator who chooses a port.
        if value and not (name == PREFIX + "PORT" and value.startswith("tcp://")):
            given[name.removeprefix(PREFIX).lower()] = (f"environment variable {name}", value)
    return _by_setting(given, known, lambda name: PREFIX + name.upper())


def _from_file(path: Path | None, known: Mapping[str, SettingDescription]) -> dict[str, _RawValue]:
    if path is None:
        return {}
    try:
        content = path.read_bytes()
        if (mistake := secret_files.encoding_mistake(content)) is not None:
            raise ConfigurationError(f"The settings file {path} {mistake}.")
        document = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigurationError(f"Cannot read the settings file {path}: {error.strerror}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The settings file {path} is not valid TOML: {error}.") from None
    return _by_setting({name: (f"{path}: {name}", value) for name, value in document.items()}, known, str)


def _by_setting(
    given: Mapping[str, tuple[str, object]],
    known: Mapping[str, SettingDescription],
    spelled: typing.Callable[[str], str],
) -> dict[str, _RawValue]:
    """The values of one source by setting name, with secrets read from their files. Raises for unknown and duplicate names."""
    files = {f"{each.name}_file": each.name for each in known.values() if each.secret}
    found: dict[str, _RawValue] = {}
    for name, (origin, value) in given.items():
        target = files.get(name, name)
        if target not in known:
            close = difflib.get_close_matches(name.lower(), [*known, *files], 1)
            hint = f"did you mean {spelled(close[0])}?" if close else "`ixfast settings` lists all settings."
            raise ConfigurationError(f"{origin}: unknown setting; {hint}")
        if target in found:
            raise ConfigurationError(f"{origin}: {spelled(target)} is set both directly and by a file; remove one of them.")
        found[target] = _RawValue.from_secret_file(origin, value) if name in files else _RawValue(origin, value)
    return found


def _convert(setting: SettingDescription, raw: _RawValue) -> object:
    """Convert a value to the type of its setting and check its range."""
    value = raw.value
    if setting.kind in ("integer", "integer or auto"):
        return _whole_number(setting, raw)
    if setting.kind == "boolean":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUE + _FALSE and not _is_from_toml(raw):
            return value.lower() in _TRUE
        raise _invalid(raw, setting, "`true` or `false`")
    if setting.kind == "choice":
        if value in setting.choices:
            return value
        raise _invalid(raw, setting, "one of " + ", ".join(f"`{choice}`" for choice in setting.choices))
    if setting.kind == "path" and isinstance(value, str | Path) and str(value):
        try:
            path = Path(value).expanduser()
        except RuntimeError:
            raise _invalid(raw, setting, "a path without `~`, because the home directory is unknown") from None
        if setting.name == "unix_socket" and (form := socket_path_mistake(path)) is not None:
            raise _invalid(raw, setting, form)
        return path
    if setting.kind == "text" and isinstance(value, str) and value.strip():
        if setting.name == "dsn" and (form := dsn_mistake(value)) is not None:
            raise _invalid(raw, setting, form)
        value = value.strip()
        # An IPv6 address may be in brackets, as in a URL.
        return value[1:-1] if setting.unit == "address" and value.startswith("[") and value.endswith("]") else value
    raise _invalid(raw, setting, "a path" if setting.kind == "path" else "a non-empty string")


def _whole_number(setting: SettingDescription, raw: _RawValue) -> int | str:
    value = raw.value
    if value == "auto" and setting.kind == "integer or auto":
        return "auto"
    assert setting.minimum is not None and setting.maximum is not None
    allowed = f"between {setting.minimum} and {setting.maximum}" + (", or `auto`" if setting.kind == "integer or auto" else "")
    if isinstance(value, str) and not _is_from_toml(raw) and value.strip().lstrip("+-").isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(raw, setting, f"a whole number {allowed}")
    if not setting.minimum <= value <= setting.maximum:
        raise _invalid(raw, setting, allowed)
    return value


def _is_from_toml(raw: _RawValue) -> bool:
    """Whether a value has a type of its own: in TOML, a number or boolean in quotation marks is a mistake."""
    return not raw.origin.startswith(("flag ", "environment "))


def _invalid(raw: _RawValue, setting: SettingDescription, allowed: str) -> ConfigurationError:
    got = "the value is a secret and not shown" if setting.secret else f"got {_quoted(raw)}"
    return ConfigurationError(f"{raw.origin}: `{setting.name}` must be {allowed} ({got}).")


def _quoted(raw: _RawValue) -> str:
    """The value as the user wrote it. Only TOML distinguishes a number from a string of digits."""
    return repr(raw.value) if _is_from_toml(raw) or str(raw.value) != str(raw.value).strip() else str(raw.value)


def _check_together(settings: Settings) -> None:
    """Check settings against each other."""
    for cert, key in (("tls_cert", "tls_key"), ("private_tls_cert", "private_tls_key")):
        if (getattr(settings, cert) is None) != (getattr(settings, key) is None):
            raise ConfigurationError(f"{cert} and {key} must be set together; set both or neither.")
    if settings.ledger_queue_max < settings.ledger_batch_max:
        raise ConfigurationError(
            f"ledger_queue_max ({settings.ledger_queue_max}) must not be below ledger_batch_max ({settings.ledger_batch_max}): "
            "a full batch could never form. Raise the former or lower the latter."
        )
    if settings.port and (settings.host, settings.port) == (settings.private_host, settings.private_port):
        raise ConfigurationError(
            f"port and private_port must differ (both are {settings.port} on {settings.host}): management must not be "
            "reachable on the scan API's port."
        )
