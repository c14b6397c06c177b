"""What was given for the settings: flags, then the environment, then a TOML file, checked and frozen into `Settings`.

A name that nobody knows is an error with a suggestion, because a misspelt setting that is silently ignored is found in
production. Secrets may stand in files of their own (`dsn_file`, `IXFAST_DSN_FILE`); no message shows one.
"""

import difflib
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ixfast.config.settings import PREFIX, SettingDescription, Settings, describe
from ixfast.errors import ConfigurationError

_FILE_BYTES_MAX = 64 * 1024
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

# Names of the environment that are not settings. The tests and the build read some. Kubernetes announces a service
# called `ixfast` to every pod of its namespace as IXFAST_SERVICE_HOST, IXFAST_PORT_8480_TCP and so on.
_FOREIGN_NAMES = frozenset(
    PREFIX + name
    for name in ("CONFIG", "FORCE_TWIN", "REQUIRE_NATIVE", "DIFFERENTIAL_CASES", "SANITIZE", "NO_EXTENSIONS")
)  # fmt: skip
_FOREIGN_PREFIXES = tuple(PREFIX + name for name in ("WORKER_", "TEST_", "SERVICE_", "PORT_"))


class _Given(typing.NamedTuple):
    """A value as it was found: where, and what."""

    origin: str
    value: object

    @classmethod
    def in_file(cls, origin: str, value: object) -> Self:
        """The content of a secret's own file; a newline at its end is the editor's."""
        path = Path(str(value))
        try:
            content = path.read_bytes()[: _FILE_BYTES_MAX + 1]
        except OSError as error:
            raise ConfigurationError(f"{origin}: {path} cannot be read ({error.strerror}).") from None
        text = content.decode("utf-8", "replace").strip()
        if not text or len(content) > _FILE_BYTES_MAX:
            raise ConfigurationError(f"{origin}: {path} is empty or too large; it has to hold the secret alone.")
        return cls(f"{origin} ({path})", text)


def load(flags: Mapping[str, object], environ: Mapping[str, str], config_path: Path | None = None) -> Settings:
    """Collect, check and freeze the settings.

    `flags` are by setting name (`dsn_file` too), None for what was not given. `config_path`, or else
    `IXFAST_CONFIG`, names a TOML file whose keys are setting names. `ConfigurationError` says where a wrong name or
    value stands and what may stand there instead.
    """
    known = {each.name: each for each in describe()}
    chosen = config_path or (Path(environ[PREFIX + "CONFIG"]) if environ.get(PREFIX + "CONFIG") else None)
    found: dict[str, _Given] = {}
    for source in (_from_file(chosen, known), _from_environ(environ, known), _from_flags(flags, known)):
        found.update(source)
    values: dict[str, Any] = {name: _checked(known[name], given) for name, given in found.items()}
    settings = Settings(**values)
    _check_together(settings)
    return settings


def _from_flags(flags: Mapping[str, object], known: Mapping[str, SettingDescription]) -> dict[str, _Given]:
    given = {name: (f"flag --{name.replace('_', '-')}", value) for name, value in flags.items() if value is not None}
    return _gathered(given, known, lambda name: "--" + name.replace("_", "-"))


def _from_environ(environ: Mapping[str, str], known: Mapping[str, SettingDescription]) -> dict[str, _Given]:
    given: dict[str, tuple[str, object]] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in _FOREIGN_NAMES or name.startswith(_FOREIGN_PREFIXES):
            continue
        # An empty variable is how compose files and shells say "not set". And IXFAST_PORT=tcp://10.… is Kubernetes
        # announcing a service called `ixfast`, not an operator choosing a port.
        if value and not (name == PREFIX + "PORT" and value.startswith("tcp://")):
            given[name.removeprefix(PREFIX).lower()] = (f"environment variable {name}", value)
    return _gathered(given, known, lambda name: PREFIX + name.upper())


def _from_file(path: Path | None, known: Mapping[str, SettingDescription]) -> dict[str, _Given]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"The settings file {path} cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The settings file {path} is not TOML: {error}.") from None
    return _gathered({name: (f"{path}: {name}", value) for name, value in document.items()}, known, str)


def _gathered(
    given: Mapping[str, tuple[str, object]],
    known: Mapping[str, SettingDescription],
    spelled: typing.Callable[[str], str],
) -> dict[str, _Given]:
    """Values of one source by setting name, with secrets read from their files; unknown names are refused."""
    files = {f"{each.name}_file": each.name for each in known.values() if each.secret}
    found: dict[str, _Given] = {}
    for name, (origin, value) in given.items():
        target = files.get(name, name)
        if target not in known:
            close = difflib.get_close_matches(name.lower(), [*known, *files], 1)
            hint = f"did you mean {spelled(close[0])}?" if close else "`ixfast settings` lists them all."
            raise ConfigurationError(f"{origin}: there is no such setting; {hint}")
        if target in found:
            raise ConfigurationError(f"{origin}: {spelled(target)} is given directly and by a file; remove one.")
        found[target] = _Given.in_file(origin, value) if name in files else _Given(origin, value)
    return found


def _checked(setting: SettingDescription, given: _Given) -> object:
    """The value in its type, within its range."""
    value = given.value
    if setting.kind in ("integer", "integer or auto"):
        return _whole_number(setting, given)
    if setting.kind == "boolean":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUE + _FALSE and not _is_from_file(given):
            return value.lower() in _TRUE
        raise _refused(given, setting, "true or false")
    if setting.kind == "choice":
        if value in setting.choices:
            return value
        raise _refused(given, setting, "one of " + ", ".join(setting.choices))
    if setting.kind == "path" and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    if setting.kind == "text" and isinstance(value, str) and value.strip():
        if setting.name == "dsn" and not value.startswith(("postgresql://", "postgres://")):
            raise _refused(given, setting, "postgresql://user:password@host:port/database")
        return value.strip()
    raise _refused(given, setting, f"a {setting.kind} ({setting.unit})")


def _whole_number(setting: SettingDescription, given: _Given) -> int | str:
    value = given.value
    if value == "auto" and setting.kind == "integer or auto":
        return "auto"
    wanted = f"a whole number ({setting.unit}), {setting.range}"
    if isinstance(value, str) and not _is_from_file(given) and value.strip().lstrip("+-").isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refused(given, setting, wanted)
    assert setting.minimum is not None and setting.maximum is not None
    if not setting.minimum <= value <= setting.maximum:
        raise _refused(given, setting, wanted)
    return value


def _is_from_file(given: _Given) -> bool:
    """TOML has types of its own: a number or a truth value in quotes there is a mistake, not a spelling."""
    return not given.origin.startswith(("flag ", "environment "))


def _refused(given: _Given, setting: SettingDescription, wanted: str) -> ConfigurationError:
    shown = "the value (not shown)" if setting.secret else repr(given.value)
    return ConfigurationError(f"{given.origin}: {shown} cannot be; write {wanted}.")


def _check_together(settings: Settings) -> None:
    """Rules between settings."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigurationError("tls_cert and tls_key belong together; set both or neither.")
    if settings.ledger_queue_max < settings.ledger_batch_max:
        raise ConfigurationError(
            f"ledger_queue_max ({settings.ledger_queue_max}) is below ledger_batch_max ({settings.ledger_batch_max}); "
            "a full batch could never form. Raise the one or lower the other."
        )
    if settings.port and (settings.host, settings.port) == (settings.private_host, settings.private_port):
        raise ConfigurationError(
            f"port and private_port are both {settings.port} of {settings.host}; management must not be reachable "
            "through the scan API's port. Change one."
        )
