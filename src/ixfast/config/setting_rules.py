"""What a setting's declaration says about it, and how documentation, help and checks see it."""

import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Rule:
    """Documentation and limits of a setting.

    `consequence` is what documentation and help show, and `tuning` what the documentation adds: why to raise or lower the value.
    `minimum` and `maximum` are inclusive. `default` is the text to show as the default if the value itself is not descriptive.
    """

    consequence: str
    unit: str = ""
    minimum: int | None = None
    maximum: int | None = None
    secret: bool = False
    default: str = ""
    tuning: str = ""


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
    tuning: str
    secret: bool
    minimum: int | None
    maximum: int | None
    choices: tuple[str, ...]


def describe_field(field: Any, prefix: str) -> SettingDescription:
    """The description of a field of `Settings`. Environment variables begin with `prefix`."""
    base, rule = typing.get_args(field.type)
    kind, choices = _kind_of(base)
    return SettingDescription(
        name=field.name,
        flag="--" + field.name.replace("_", "-"),
        env=prefix + field.name.upper(),
        kind=kind,
        unit=rule.unit,
        default=rule.default or _shown_default(field.default),
        range=_range_of(kind, rule, choices),
        consequence=rule.consequence,
        tuning=rule.tuning,
        secret=rule.secret,
        minimum=rule.minimum,
        maximum=rule.maximum,
        choices=choices,
    )


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
