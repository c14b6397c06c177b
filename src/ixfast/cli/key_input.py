"""What commands that store keys share: reading keys from files, adding meta keys, and showing versions of keys."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ixfast.cli.management_client import ManagementClient
from ixfast.cli.output import print_json
from ixfast.cli.standard_streams import standard_input
from ixfast.keys import check_value
from ixfast.limits import RULE_SET_BYTES_MAX

FILE_BYTES_MAX = max(RULE_SET_BYTES_MAX, 64 * 1024)
KEY_SOURCE = "FILE|-"


def read_text(source: str, option: str) -> str:
    """The content of a file, or of standard input."""
    try:
        with contextlib.ExitStack() as stack:
            file = standard_input() if source == "-" else stack.enter_context(Path(source).open(encoding="utf-8"))
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise click.UsageError(f"{option}: cannot read {source}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        in_utf_16 = isinstance(error.object, bytes) and error.object.startswith((b"\xff\xfe", b"\xfe\xff"))
        mistake = "is in UTF-16; save it as UTF-8" if in_utf_16 else "is not text in UTF-8"
        raise click.UsageError(f"{option}: {source} {mistake}.") from None
    if len(text) > FILE_BYTES_MAX:
        raise click.UsageError(f"{option}: {source} is larger than {FILE_BYTES_MAX} bytes.")
    return text.removeprefix("\ufeff")  # a byte order mark


def read_key(source: str) -> bytes:
    """An AES-128 key from a file or standard input, so that other users do not see it in the list of processes.

    No error shows the text: it may be most of a key.
    """
    lines: Sequence[str] = [line.partition("#")[0].strip() for line in read_text(source, "key").splitlines()]
    words = [line for line in lines if line]
    with contextlib.suppress(ValueError):
        if len(words) == 1 and len(words[0]) == 32:
            return bytes.fromhex(words[0])
    raise click.UsageError(f"{'standard input' if source == '-' else source} must contain one key of 32 hex digits.")


async def add_meta_key(
    client: ManagementClient, value: bytes, path: str = "/v2/meta-keys", *, retire_others: bool = False, **members: object
) -> Any:
    """Add a meta key to the account, or to the owner at `path`, unless it is one of the live ones. Returns its version."""
    same = check_value(value).hex().upper()
    for key in await client.all(path, **members):
        if key.live and key.check_value == same and not retire_others:
            return key
    return await client.post(path, {"key": value.hex(), "retire_others": retire_others}, **members)


def key_text(key: Any) -> str:
    """A version of a key, without the key."""
    return f"version {key.version} ({key.check_value}{'' if key.live else ', retired'})"


def print_added_key(kind: str, key: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(key)
    else:
        click.echo(f"the {kind} is version {key.version}; its check value is {key.check_value}")
