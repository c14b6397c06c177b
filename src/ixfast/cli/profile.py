"""`ixfast profile detect`: finds the encoding profile of tapped URLs by trying candidate keys."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from ixfast.chips import PRESETS
from ixfast.chips.detect import KEYS_MAX, Detection, detect
from ixfast.chips.url_fields import is_wrapped
from ixfast.cli.command_group import leave
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.output import json_option, print_json, print_table
from ixfast.cli.standard_streams import standard_input
from ixfast.domain.chip_uids import refuse_reversed_uid
from ixfast.domain.model import Key
from ixfast.domain.tap_readings import WRAPPED
from ixfast.errors import InputError
from ixfast.keys import check_value
from ixfast.keys.diversify import USUAL_DERIVATIONS, An10922, Derivation
from ixfast.limits import UID_BYTES

_KEY_BYTES = 16
_FILE_BYTES_MAX = 64 * 1024
_SOURCE = "HEX|@FILE|-"


def register(main: click.Group) -> None:
    """Add the group. It uses neither server nor database, so it takes no settings."""

    @main.group()
    def profile() -> None:
        """Encoding profiles: how chips mirror their data into a URL."""

    @profile.command("list")
    @json_option
    def profile_list(as_json: bool) -> None:
        """List the presets, which are encoding profiles that have a name."""
        if as_json:
            print_json({"items": list(PRESETS.values())})
            return
        rows = [(preset.name, preset.scheme, preset.template) for preset in PRESETS.values()]
        print_table(("PRESET", "SCHEME", "TEMPLATE"), rows, empty="")

    @profile.command("detect")
    @click.argument("urls", metavar="URL...", nargs=-1, required=True)
    @click.option("--key", "keys", multiple=True, metavar=_SOURCE, help="A file key, meta key or master to try; repeatable.")
    @click.option("--meta-key", "meta_keys", multiple=True, metavar=_SOURCE, help="A key to try as meta key only; repeatable.")
    @click.option("--uid", "uids", multiple=True, metavar="HEX", help="A UID that the MAC may cover although the URL omits it.")
    @click.option("--allow-any-uid", is_flag=True, help="Accept a --uid that ends with 04, as reversed ones do.")
    @click.option("--an10922", "inputs", multiple=True, metavar="INPUT", help="Also derive with this M, such as {uid}3042f5.")
    @click.option("--name", default="detected", show_default=True, help="Name of the profile.")
    @click.option("--json", "as_json", is_flag=True, help="Print all matching profiles and what they explain.")
    def profile_detect(
        urls: tuple[str, ...],
        keys: tuple[str, ...],
        meta_keys: tuple[str, ...],
        uids: tuple[str, ...],
        allow_any_uid: bool,
        inputs: tuple[str, ...],
        name: str,
        as_json: bool,
    ) -> None:
        """Find the encoding profile of tapped URLs and print it as JSON.

        Pass two unmodified taps of each of a few tags. A key is 32 hex digits: @FILE reads one per line, - reads them from
        standard input, and without --key the command asks for one. Other users of this machine can see keys in the
        command line. The all-zero factory key is always tried.
        """
        if not keys and sys.stdin is not None and sys.stdin.isatty():
            keys = _prompt_keys()
        for place, url in enumerate(urls, start=1):
            if is_wrapped(url):
                click.echo(f"URL {place}: {WRAPPED}", err=True)
        found = detect(
            urls,
            _keys(keys, "--key"),
            _keys(meta_keys, "--meta-key"),
            derivations=(*_derivations(inputs), *USUAL_DERIVATIONS),
            uids=[_uid(uid, allow_any_uid=allow_any_uid) for uid in uids],
            name=name,
        )
        if as_json:
            print_json(found)
        else:
            _print_details(found, urls)
        if not found.proposals:
            click.echo("Error: no profile verifies the MAC of any of these URLs", err=True)
            leave(ExitCode.NEGATIVE)
        if as_json:
            return
        click.echo(_as_json(found.proposals[0].profile))


def _print_details(found: Detection, urls: tuple[str, ...]) -> None:
    """Print the proposals to standard error. Standard output gets nothing but the best profile."""
    for rank, proposal in enumerate(found.proposals):
        click.echo(f"{'also' if rank else 'best'}: verifies the MAC of {len(proposal.verified)} of {len(urls)} URLs", err=True)
        click.echo(f"  with {'; '.join(proposal.file_keys)}", err=True)
        if proposal.meta_keys:
            click.echo(f"  mirror decrypted with {'; '.join(proposal.meta_keys)}", err=True)
        if proposal.derivation is not None:
            click.echo(f"  derivation: {msgspec.json.encode(proposal.derivation).decode()}", err=True)
        for note in proposal.notes:
            click.echo(f"  {note}", err=True)
        if rank:
            click.echo(f"  {msgspec.json.encode(proposal.profile).decode()}", err=True)
    for reason in found.reasons:
        click.echo(f"not explained: {reason}", err=True)


def _as_json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _prompt_keys() -> tuple[str, ...]:
    text: str = click.prompt("Key (32 hex digits; empty: factory keys only)", default="", hide_input=True, show_default=False)
    return tuple(text.split())


def _keys(sources: tuple[str, ...], option: str) -> list[Key]:
    values = dict.fromkeys(value for source in sources for value in _values(source, option))
    if len(values) > KEYS_MAX:
        raise click.UsageError(f"{option}: at most {KEYS_MAX} keys.")
    return [Key(version, value, check_value(value)) for version, value in enumerate(values, start=1)]


def _values(source: str, option: str) -> Iterable[bytes]:
    if source == "-":
        text = standard_input().read(_FILE_BYTES_MAX)
    elif source.startswith("@"):
        try:
            with Path(source[1:]).open() as file:
                text = file.read(_FILE_BYTES_MAX)
        except (OSError, UnicodeDecodeError):
            raise click.UsageError(f"{option}: cannot read the file {source[1:]}.") from None
    else:
        text = source
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [_unhex(line, _KEY_BYTES, option) for line in lines if line]


def _unhex(text: str, length: int, option: str) -> bytes:
    """Decode exactly `length` bytes. The error does not show the text: it may be most of a key."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != length:
        raise click.UsageError(f"{option}: must be {2 * length} hex digits.")
    return value


def _uid(text: str, *, allow_any_uid: bool) -> bytes:
    uid = _unhex(text, UID_BYTES, "--uid")
    try:
        if not allow_any_uid:
            refuse_reversed_uid(uid, "--uid", "--allow-any-uid")
    except InputError as error:
        raise click.UsageError(f"--uid: {error}") from None
    return uid


def _derivations(inputs: tuple[str, ...]) -> list[Derivation]:
    try:
        return [An10922(input=text) for text in inputs]
    except ValueError as error:
        raise click.UsageError(f"--an10922: {error}.") from None
