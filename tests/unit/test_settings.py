"""Precedence, checks and their messages, secrets, and docs/reference/settings.md against the declarations."""

import re
from pathlib import Path

import msgspec
import pytest

from ixfast.config.settings import REDACTED, SettingDescription, Settings, describe, dump
from ixfast.config.settings_loader import load
from ixfast.errors import ConfigurationError

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
PASSWORD = "c4nary-p4ssw0rd"
DSN = f"postgresql://ixfast:{PASSWORD}@db.example:5432/ixfast"


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ixfast.toml"
    path.write_text(text)
    return path


def test_defaults() -> None:
    settings = load({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.private_host, settings.private_port) == (
        "127.0.0.1",
        8480,
        "127.0.0.1",
        8481,
    )
    assert settings.dsn is None
    assert settings.worker_count >= 1
    assert load({"workers": 3}, {}).worker_count == 3


def test_flags_outrank_the_environment_which_outranks_the_file(tmp_path: Path) -> None:
    path = config(tmp_path, "port = 1\nworkers = 1\npool_size = 1\n")
    environ = {"IXFAST_PORT": "2", "IXFAST_WORKERS": "2"}
    settings = load({"port": 3, "workers": None}, environ, path)
    assert (settings.port, settings.workers, settings.pool_size, settings.committers) == (3, 2, 1, 1)


def test_the_environment_may_name_the_file_and_a_flag_outranks_it(tmp_path: Path) -> None:
    path = config(tmp_path, "port = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    assert load({}, {"IXFAST_CONFIG": str(path)}).port == 1
    assert load({}, {"IXFAST_CONFIG": str(path)}, other).port == 2


def text_of(setting: SettingDescription) -> tuple[str, object, object]:
    """A value as text, as TOML and as it should arrive, different from the default."""
    if setting.kind in ("integer", "integer or auto"):
        assert setting.maximum is not None
        # The largest batch needs a queue that holds it; one below the largest fits all.
        value = 500 if setting.name == "ledger_batch_max" else setting.maximum - 1
        return str(value), value, value
    if setting.kind == "boolean":
        return "yes", True, True
    if setting.kind == "choice":
        return setting.choices[-1], setting.choices[-1], setting.choices[-1]
    if setting.kind == "path":
        return "/srv/x", "/srv/x", Path("/srv/x")
    return (DSN, DSN, DSN) if setting.name == "dsn" else ("::1", "::1", "::1")


@pytest.mark.parametrize("setting", describe(), ids=lambda setting: setting.name)
def test_every_setting_from_every_source(setting: SettingDescription, tmp_path: Path) -> None:
    text, toml, wanted = text_of(setting)
    pairs = (("tls_cert", "tls_key"), ("private_tls_cert", "private_tls_key"))
    together = dict([*pairs, *((key, cert) for cert, key in pairs)]).get(setting.name)
    more: dict[str, object] = {together: "/srv/y"} if together else {}
    path = config(tmp_path, f"{setting.name} = {msgspec.json.encode(toml).decode()}\n")
    assert getattr(load({setting.name: text, **more}, {}), setting.name) == wanted
    assert getattr(load({setting.name: wanted, **more}, {}), setting.name) == wanted
    assert getattr(load(more, {setting.env: text}), setting.name) == wanted
    assert getattr(load(more, {}, path), setting.name) == wanted


@pytest.mark.parametrize("setting", [each for each in describe() if each.minimum is not None], ids=lambda setting: setting.name)
def test_every_range_is_checked_at_both_ends(setting: SettingDescription, tmp_path: Path) -> None:
    assert setting.minimum is not None
    assert setting.maximum is not None
    widest = {"ledger_queue_max": 1_000_000, "ledger_batch_max": 1}
    for value in (setting.minimum, setting.maximum):
        assert getattr(load({**widest, setting.name: value}, {}), setting.name) == value
    allowed = f"between {setting.minimum} and {setting.maximum}" + (", or `auto`" if setting.kind == "integer or auto" else "")
    for value in (setting.minimum - 1, setting.maximum + 1):
        with pytest.raises(
            ConfigurationError, match=rf"^flag {setting.flag}: `{setting.name}` must be {allowed} \(got {value}\)\.$"
        ):
            load({setting.name: value}, {})
        with pytest.raises(
            ConfigurationError, match=rf"^environment variable {setting.env}: `.*` must be {allowed} \(got {value}\)"
        ):
            load({}, {setting.env: str(value)})
        with pytest.raises(ConfigurationError, match=rf"ixfast.toml: {setting.name}: `.*` must be {allowed} \(got {value}\)"):
            load({}, {}, config(tmp_path, f"{setting.name} = {value}\n"))


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "words"),
    [
        ({"prot": 1}, {}, "", r"flag --prot: unknown setting; did you mean --port\?"),
        ({}, {"IXFAST_PROT": "1"}, "", r"IXFAST_PROT: .* did you mean IXFAST_PORT\?"),
        ({}, {"IXFAST_DEADLINE": "1"}, "", r"did you mean IXFAST_DEADLINE_MS\?"),
        ({}, {"IXFAST_DNS_FILE": "1"}, "", r"did you mean IXFAST_DSN_FILE\?"),
        ({}, {"IXFAST_XYZZY": "1"}, "", r"IXFAST_XYZZY: .*`ixfast settings`"),
        ({}, {}, "prot = 1", r"ixfast.toml: prot: .* did you mean port\?"),
        ({}, {}, "[server]\nport = 1", r"ixfast.toml: server: unknown setting"),
        ({}, {}, "port = '8480'", r"ixfast.toml: port: `port` must be a whole number between 0 and 65535 \(got '8480'\)"),
        ({}, {}, "port = 1.5", r"port: `port` must be a whole number .*got 1.5"),
        ({}, {}, "port = true", r"port: `port` must be a whole number .*got True"),
        ({}, {}, "port = ", r"is not valid TOML"),
        ({}, {"IXFAST_PORT": "http"}, "", r"IXFAST_PORT: `port` must be .*\(got http\)"),
        ({}, {"IXFAST_PORT": "1e3"}, "", r"IXFAST_PORT: `port` must be .*\(got 1e3\)"),
        ({}, {"IXFAST_PORT": "\u0663\u0663"}, "", None),
        ({}, {"IXFAST_TRUST_FORWARDED_FOR": "maybe"}, "", r"`true` or `false`"),
        ({}, {"IXFAST_LOG_LEVEL": "loud"}, "", r"one of `debug`, `info`, `warning`, `error`"),
        ({}, {"IXFAST_WORKERS": "many"}, "", r"`workers` must be a whole number between 1 and 256, or `auto` \(got many\)"),
        ({}, {"IXFAST_HOST": "  "}, "", r"IXFAST_HOST: `host` must be a non-empty string \(got '  '\)"),
        ({"port": "auto"}, {}, "", r"--port: `port` must be .*\(got auto\)"),
        ({"tls_cert": "/c"}, {}, "", r"tls_cert and tls_key must be set together"),
        ({}, {"IXFAST_PRIVATE_TLS_KEY": "/k"}, "", r"private_tls_cert and private_tls_key must be set together"),
        ({"ledger_queue_max": 5}, {}, "", r"ledger_queue_max \(5\) must not be below ledger_batch_max \(1024\)"),
        ({"private_port": 8480}, {}, "", r"port and private_port must differ \(both are 8480"),
    ],
)
def test_mistakes_say_where_and_how_to_mend(
    flags: dict[str, object], environ: dict[str, str], toml: str, words: str | None, tmp_path: Path
) -> None:
    path = config(tmp_path, toml) if toml else None
    if words is None:
        assert load(flags, environ, path).port == 33
        return
    with pytest.raises(ConfigurationError, match=words):
        load(flags, environ, path)


def test_a_settings_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Cannot read the settings file .*absent\.toml: "):
        load({}, {}, tmp_path / "absent.toml")


def test_a_home_that_nobody_knows() -> None:
    with pytest.raises(ConfigurationError, match=r"^flag --data-dir: .*a path without .~"):
        load({"data_dir": "~no-such-user/data"}, {})


@pytest.mark.parametrize(
    "name",
    [
        "IXFAST_FORCE_TWIN",
        "IXFAST_REQUIRE_NATIVE",
        "IXFAST_DIFFERENTIAL_CASES",
        "IXFAST_SANITIZE",
        "IXFAST_NO_EXTENSIONS",
        "IXFAST_TEST_DSN",
        "IXFAST_WORKER_INDEX",
        "IXFAST_SERVICE_HOST",
        "IXFAST_SERVICE_PORT_HTTP",
        "IXFAST_PORT_8480_TCP_ADDR",
        "IXFASTER",
        "PATH",
    ],
)
def test_names_that_are_not_settings_are_tolerated(name: str) -> None:
    assert load({}, {name: "anything"}) == Settings()


def test_what_kubernetes_announces_is_not_a_port() -> None:
    assert load({}, {"IXFAST_PORT": "tcp://10.0.0.1:8480"}).port == 8480


def test_an_empty_variable_is_not_set() -> None:
    assert load({}, {"IXFAST_PORT": "", "IXFAST_DSN": "", "IXFAST_DSN_FILE": "", "IXFAST_CONFIG": ""}) == Settings()


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "dsn"
    secret.write_text(DSN + "\n")
    secret.chmod(0o600)
    assert load({}, {"IXFAST_DSN_FILE": str(secret)}).dsn == DSN
    assert load({"dsn_file": secret}, {}).dsn == DSN
    assert load({}, {}, config(tmp_path, f"dsn_file = '{secret}'")).dsn == DSN
    assert load({"dsn": "postgres://other"}, {"IXFAST_DSN_FILE": str(secret)}).dsn == "postgres://other"
    with pytest.raises(ConfigurationError, match="both directly and by a file"):
        load({}, {"IXFAST_DSN_FILE": str(secret), "IXFAST_DSN": DSN})
    with pytest.raises(ConfigurationError, match=r"IXFAST_DSN_FILE: cannot read .*absent"):
        load({}, {"IXFAST_DSN_FILE": str(tmp_path / "absent")})
    secret.write_text("\n")
    with pytest.raises(ConfigurationError, match="empty"):
        load({}, {"IXFAST_DSN_FILE": str(secret)})


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    settings = load({"dsn": DSN}, {})
    assert settings.dsn == DSN
    assert dump(settings)["dsn"] == REDACTED
    assert dump(Settings())["dsn"] is None
    printed = [repr(settings), str(settings), f"{settings}", str(settings.__rich_repr__()), str(dump(settings))]
    for wrong in (f"mysql://root:{PASSWORD}@db", PASSWORD):
        secret = tmp_path / "dsn"
        secret.write_text(wrong)
        secret.chmod(0o600)
        for flags, environ in (
            ({"dsn": wrong}, {}),
            ({}, {"IXFAST_DSN": wrong}),
            ({}, {"IXFAST_DSN_FILE": str(secret)}),
        ):
            with pytest.raises(ConfigurationError, match="postgresql://") as caught:
                load(flags, environ)
            printed.append(str(caught.value))
    assert not [text for text in printed if PASSWORD in text]


def test_the_dump_can_be_written_as_json() -> None:
    shown = dump(load({"data_dir": "/srv/x"}, {}))
    assert list(shown) == [each.name for each in describe()]
    assert msgspec.json.decode(msgspec.json.encode(shown))["data_dir"] == "/srv/x"


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


def test_every_declaration_is_complete() -> None:
    for each in describe():
        assert each.consequence.endswith("."), each.name
        assert each.kind not in ("integer", "integer or auto") or (each.unit and each.range), each.name
        for suffix in ("ms", "s", "days"):
            assert not each.name.endswith(f"_{suffix}") or each.unit == suffix, each.name


def row(setting: SettingDescription) -> str:
    """The row of a setting, as docs/reference/settings.md has to have it."""
    flag = f"`{setting.flag}`" + (f", `{setting.flag}-file`" if setting.secret else "")
    env = f"`{setting.env}`" + (f", `{setting.env}_FILE`" if setting.secret else "")
    cells = [flag, env, setting.unit, setting.default, setting.range]
    return "| " + " | ".join(cells) + " |"


def test_the_documentation_has_every_setting_and_no_other() -> None:
    """Each has an entry with its row, its consequence and why to change it, in the order of declaration."""
    entries = re.findall(r"^### ([a-z]+(?:_[a-z]+)*)\n(.*?)(?=^#|\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in entries] == [each.name for each in describe()]
    for setting, (_, text) in zip(describe(), entries, strict=True):
        assert [line for line in text.splitlines() if line.startswith("| `")] == [row(setting)]
        before, _, after = text.partition("|---|")
        assert setting.consequence in " ".join(before.split()), setting.name
        assert setting.tuning in " ".join(after.split()), setting.name


def test_every_quantity_says_why_to_raise_or_lower_it() -> None:
    for each in describe():
        if each.kind in ("integer", "integer or auto") and each.unit != "TCP port":
            assert "Raise it" in each.tuning and "Lower it" in each.tuning, each.name


LONGEST = "/" + "s" * 106
UMLAUTS = "/" + "\u00e4" * 54
TOO_LONG = "a path of at most 107 bytes, the limit of the system, and this one has"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("scan.sock", "an absolute path (got scan.sock)"),
        ("./run/scan.sock", "an absolute path (got ./run/scan.sock)"),
        (LONGEST + "s", f"{TOO_LONG} 108 (got {LONGEST}s)"),
        (UMLAUTS, f"{TOO_LONG} 109 (got {UMLAUTS})"),
    ],
    ids=["a name", "relative", "too long", "too long in UTF-8"],
)
def test_what_cannot_be_the_path_of_a_socket(value: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({}, {"IXFAST_UNIX_SOCKET": value})
    assert str(caught.value) == f"environment variable IXFAST_UNIX_SOCKET: `unix_socket` must be {expected}."


def test_a_null_character_in_the_path_of_a_socket(tmp_path: Path) -> None:
    """Only TOML can contain one."""
    with pytest.raises(ConfigurationError, match=r"`unix_socket` must be a path without a null character \(got '/run/a\\x00b'\)"):
        load({}, {}, config(tmp_path, 'unix_socket = "/run/a\\u0000b"\n'))


def test_the_path_of_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load({"unix_socket": LONGEST}, {}).unix_socket == Path(LONGEST)
    assert load({"unix_socket": "~/scan.sock"}, {}).unix_socket == Path("/home/somebody/scan.sock")
    assert load({}, {"IXFAST_UNIX_SOCKET": ""}).unix_socket is None
