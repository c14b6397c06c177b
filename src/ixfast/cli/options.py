"""Settings as options of commands: each command takes those that it uses, and its help lists only them.

`with_settings(*names)` adds the options. A command that does not offer a setting as an option still takes it from the environment
and from the settings file, because all of them are loaded together (`ixfast.cli.database.resolve`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from ixfast.config.settings import SettingDescription, describe

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

# The topics of the settings, in the order in which `ixfast serve --help` shows them. A test compares them with the settings.
TOPICS: dict[str, tuple[str, ...]] = {
    "Database and keys": ("dsn", "data_dir", "kek_file", "pool_size"),
    "Network": (
        "host",
        "port",
        "unix_socket",
        "private_host",
        "private_port",
        "tls_cert",
        "tls_key",
        "private_tls_cert",
        "private_tls_key",
        "max_connections",
        "idle_timeout_s",
        "congestion_control",
        "trust_forwarded_for",
    ),
    "Processes": ("workers", "deadline_ms", "drain_delay_ms", "drain_timeout_ms"),
    "Ledger": ("committers", "ledger_batch_max", "ledger_queue_max", "ledger_wait_max_ms", "scan_log_retention_days"),
    "Catalogue": ("cache_tags", "negative_cache", "poll_interval_ms"),
    "Limits": ("rate_limit_key", "rate_limit_address"),
    "Visitors": ("addresses_file",),
    "Logging": ("log_level", "log_format", "trace_every"),
}

DATABASE = ("dsn", "data_dir")
DATABASE_AND_KEYS = ("dsn", "data_dir", "kek_file")
ALL = tuple(name for names in TOPICS.values() for name in names)

_METAVARS = {"integer": "INTEGER", "integer or auto": "INTEGER|auto", "boolean": "true|false"}


class SettingOption(click.Option):
    """An option that is a setting. `topic` is the section of the help in which a command with every setting shows it."""

    def __init__(self, *arguments: Any, topic: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.topic = topic


def with_settings(*names: str, demo: bool | None = None) -> Decorator:
    """Add `--config` and an option for each of these settings, and a `-file` variant for each secret.

    The function gets `config` (a path or None) and, by the names of the settings, unchecked strings or None, `dsn_file` included.
    `ixfast.cli.database.resolve` checks them.

    `demo` adds `--demo`, which lets the command create a private database in the default data directory. By default the commands
    have it that take the settings of the database and not all settings.
    """
    with_demo = {"dsn", "data_dir"} <= set(names) < set(ALL) if demo is None else demo
    known = {each.name: each for each in describe()}
    topics = {name: topic for topic, members in TOPICS.items() for name in members}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed([known[name] for name in names]):
            topic = topics[setting.name]
            if setting.secret:
                command = click.option(
                    f"{setting.flag}-file",
                    f"{setting.name}_file",
                    cls=SettingOption,
                    topic=topic,
                    metavar="FILE",
                    help=f"File that contains the value of {setting.flag}, which other users could otherwise see.",
                )(command)
            command = click.option(
                setting.flag, setting.name, cls=SettingOption, topic=topic, metavar=_metavar(setting), help=_help(setting)
            )(command)
        if with_demo:
            command = click.option(
                "--demo",
                is_flag=True,
                help="If there is no database, create a private one in the default data directory, to try things out.",
            )(command)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            envvar="IXFAST_CONFIG",
            metavar="FILE",
            help="TOML file with settings. Options and environment variables take precedence over it.",
        )(command)

    return decorate


def beginnings(values: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """The completion of an option that takes one of these values or something else."""
    known = tuple(values)
    return lambda _ctx, _parameter, incomplete: [value for value in known if value.startswith(incomplete)]


def setting_of_flag(flag: str) -> SettingDescription | None:
    """The setting whose option is this flag or, for a secret, its `-file` variant; None if there is none."""
    names = {each.flag: each for each in describe()} | {f"{each.flag}-file": each for each in describe() if each.secret}
    return names.get(flag)


def _metavar(setting: SettingDescription) -> str:
    if setting.choices:
        return f"[{'|'.join(setting.choices)}]"
    return _METAVARS.get(setting.kind) or setting.unit.upper() or "TEXT"


def _help(setting: SettingDescription) -> str:
    """The consequence of a setting, its default and its range. The name of the setting has the unit, the metavar the choices."""
    default = "" if setting.default == "None" else f"default: {setting.default}"
    limits = "" if setting.minimum is None else f"range: {setting.minimum} to {setting.maximum}"
    extra = "; ".join(filter(None, (default, limits)))
    return f"{setting.consequence}  [{extra}]" if extra else setting.consequence
