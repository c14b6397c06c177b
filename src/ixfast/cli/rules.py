"""`ixfast rules`: tests and explains rule sets before they are used."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from ixfast import rules
from ixfast.cli.output import json_option, print_json
from ixfast.cli.standard_streams import InputFile
from ixfast.limits import RULE_SET_BYTES_MAX
from ixfast.responses import response_text
from ixfast.rules import RuleError, Rules, RuleStep, visitors
from ixfast.rules.comparison import check_fact, check_value
from ixfast.rules.facts import Kind
from ixfast.rules.line_notation import print_line

_WORDS = {True: "true", False: "false", None: "unknown"}
_TRUTHS = {"true": True, "false": False}
_with_addresses = click.option(
    "--addresses-file",
    "addresses",
    type=click.Path(path_type=Path),
    envvar="IXFAST_ADDRESSES_FILE",
    help="The server's file of addresses. Without it, the command warns about facts that need it.",
)


def register(main: click.Group) -> None:
    """Add the group. It uses neither server nor database, so it takes no settings."""

    @main.group("rules")
    def group() -> None:
        """Test and explain rule sets."""

    @group.command("test")
    @click.argument("file", type=InputFile("rb"))
    @click.option("--fact", "assignments", multiple=True, metavar="NAME=VALUE", help="A fact of the scan; repeatable.")
    @_with_addresses
    @json_option
    def test_command(file: BinaryIO, assignments: tuple[str, ...], addresses: Path | None, as_json: bool) -> None:
        """Show which group of the rule set in FILE a scan with these facts matches, and why.

        Facts that are not passed are unknown. Time of day, date and weekday are the current ones, unless they are passed
        or another time is, as now=2026-01-31T09:30:00+01:00. Warns about facts that no scan can ever have.
        """
        checked = _read(file)
        facts = _facts(assignments)
        steps, index = rules.explain(checked, facts), rules.decide(checked, facts)
        name = checked.groups[index].name if index >= 0 else "default"
        response = checked.groups[index].response if index >= 0 else checked.default
        if as_json:
            members = {"group": name, "response": response, "steps": [step._asdict() for step in steps]}
            print_json({**members, "warnings": _warnings(checked, addresses)})
            return
        click.echo("\n".join(_step_lines(steps)))
        click.echo(f"response ({name}): {response}")
        _warn(checked, addresses)

    @group.command("explain")
    @click.argument("file", type=InputFile("rb"))
    @_with_addresses
    @json_option
    def explain_command(file: BinaryIO, addresses: Path | None, as_json: bool) -> None:
        """Show how the rule set in FILE is interpreted and which facts it uses. Warns about facts that no scan can ever have."""
        checked = _read(file)
        if as_json:
            print_json(_explanation(checked, addresses))
            return
        width = max([len("default"), *(len(member.name) for member in checked.groups)])
        for member in checked.groups:
            click.echo(f"{member.name:{width}}  if {print_line(member.when)}: {member.response}")
        click.echo(f"{'default':{width}}  {checked.default}")
        click.echo(f"facts: {', '.join(sorted(checked.facts)) or 'none'}; time zone: {checked.time_zone}")
        _warn(checked, addresses)

    @group.command("schema")
    def schema_command() -> None:
        """Print the JSON schema of rule sets."""
        click.echo(json.dumps(rules.schema(), indent=2))


def _read(file: BinaryIO) -> Rules:
    """Read and check the rule set of a file, including its response texts."""
    checked = rules.read_rules(file.read(RULE_SET_BYTES_MAX + 1))
    for response in (*(group.response for group in checked.groups), checked.default):
        response_text.compile_response(response)
    return checked


def _warn(checked: Rules, addresses: Path | None) -> None:
    """Print a warning for facts that no scan can have with this file of addresses."""
    for warning in _warnings(checked, addresses):
        click.echo(f"warning: {warning}")


def _warnings(checked: Rules, addresses: Path | None) -> list[str]:
    visitors.open_addresses(addresses)
    try:
        return [str(warning) for warning in response_text.never_known(checked)]
    finally:
        visitors.open_addresses(None)


def _explanation(checked: Rules, addresses: Path | None) -> dict[str, Any]:
    return {
        "groups": [{"name": each.name, "when": print_line(each.when), "response": each.response} for each in checked.groups],
        "default": checked.default,
        "facts": sorted(checked.facts),
        "time_zone": str(checked.time_zone),
        "warnings": _warnings(checked, addresses),
    }


def _facts(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Facts by name, each checked like a value in a rule."""
    facts: dict[str, Any] = {"now": time.time()}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise click.UsageError(f"--fact {assignment}: expected NAME=VALUE.")
        if name == "now":
            facts["now"] = _moment(text)
            continue
        try:
            fact = check_fact(name)
            value: object = text
            if fact.kind is Kind.NUMBER and text.isascii() and text.isdigit():
                value = int(text[:20])  # longer numbers are out of range in any case
            elif fact.kind is Kind.TRUTH:
                value = _TRUTHS.get(text.lower(), text)
            facts[fact.name] = check_value(fact, "==", value)
        except RuleError as error:
            hint = f" Did you mean {error.suggestion}?" if error.suggestion is not None else ""
            raise click.UsageError(f"--fact {assignment}: {error.reason}{hint}") from None
    if "scan_count" in facts:  # first_scan follows from it
        facts.setdefault("first_scan", facts["scan_count"] == 1)
    return facts


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--fact now={text}: expected a time such as 2026-01-31T09:30:00+01:00.") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _step_lines(steps: list[RuleStep]) -> list[str]:
    lines = []
    for step in steps:
        if step.depth == 0:
            lines.append(f"{step.name}: {'matches' if step.holds else 'does not match'}")
        else:
            found = f", it is {step.found}" if step.found not in ("", "unknown") else ""
            lines.append(f"{'  ' * step.depth}{_WORDS[step.holds]:8} {step.name}{found}")
    return lines
