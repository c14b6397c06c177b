"""Every command with its arguments and options, read from the command line itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from ixfast.cli import main
from ixfast.config import settings

_SUMMARY_CHARS = 200
SETTING_FLAGS = {"--config"} | {
    flag for each in settings.describe() for flag in ((each.flag, f"{each.flag}-file") if each.secret else (each.flag,))
}


def walk(command: click.Command = main, path: str = "ixfast") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, without the groups."""
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from walk(child, f"{path} {name}")
    else:
        yield path, command


def commands() -> str:
    """A table of all commands, and a section for each."""
    found = list(walk())
    table = ["| Command | Purpose |", "|---|---|"]
    table += [f"| [`{path}`](#{path.replace(' ', '-')}) | {_cell(_summary(command))} |" for path, command in found]
    return "\n\n".join(("\n".join(table), *(_section(path, command) for path, command in found)))


def _section(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path, terminal_width=120, max_content_width=120)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    own: list[click.Option] = []
    setting_flags: list[click.Option] = []
    for each in command.params:
        if isinstance(each, click.Option) and not each.hidden:
            (setting_flags if SETTING_FLAGS & set(each.opts) else own).append(each)
    parts = [f"### `{path}`", _help(command), f"```text\n{usage}\n```"]
    parts += [_option(each, context) for each in own]
    if setting_flags:
        parts.append(_settings(setting_flags))
    return "\n\n".join(parts)


def _help(command: click.Command) -> str:
    """The help text as Markdown: paragraphs that click must not wrap are blocks of text."""
    paragraphs = (command.help or "").replace("\f", "\n\n").strip().split("\n\n")
    texts = []
    for paragraph in paragraphs:
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0].strip() == "\b":
            block = "\n".join(line.rstrip() for line in lines[1:])
            texts.append(f"```text\n{block}\n```")
        else:
            texts.append(_prose(" ".join(line.strip() for line in lines)))
    return "\n\n".join(texts)


def _summary(command: click.Command) -> str:
    return _prose(command.get_short_help_str(limit=_SUMMARY_CHARS))


def _prose(text: str) -> str:
    """Help text is plain: flags become code, and nothing else has a meaning in Markdown."""
    escaped = re.sub(r"([*_<>\[\]{}])", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z0-9-]*)", r"`\1`", escaped)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _option(option: click.Option, context: click.Context) -> str:
    names = ", ".join(option.opts) + (f" / {', '.join(option.secondary_opts)}" if option.secondary_opts else "")
    kind = option.type
    value = "" if option.is_flag or option.count else f" {option.metavar or kind.name.removesuffix(' range').upper()}"
    facts = [_prose(option.help)] if option.help else []
    if isinstance(kind, click.Choice):
        facts.append(f"One of {', '.join(f'`{choice}`' for choice in kind.choices)}.")
    if option.required:
        facts.append("Required.")
    if option.multiple and "repeat" not in (option.help or "").lower():
        facts.append("Repeatable.")
    extra = option.get_help_extra(context)
    if "default" in extra:
        facts.append(f"Default: `{extra['default']}`.")
    if isinstance(kind, click.IntRange | click.FloatRange):
        facts += [f"{word} {bound}." for word, bound in (("At least", kind.min), ("At most", kind.max)) if bound is not None]
    return f"`{names}{value}`\n: {' '.join(facts) or 'See above.'}"


def _settings(options: list[click.Option]) -> str:
    flags = [option.opts[0] for option in options]
    if set(flags) >= SETTING_FLAGS:
        return "Every [setting](settings.md) is a flag of this command, too, and `--config` names a file with settings."
    return f"[Settings](settings.md) that it uses: {', '.join(f'`{flag}`' for flag in flags)}."
