"""Reads the key file of an audit: the same files as `ixfast import`, with three more columns.

    xuid,uid,file_key,meta_key,profile
    q8w3sbcz,04A1B2C3D4E5F6,<32 hex digits>,<32 hex digits>,encrypted

`profile`, `version` (of the key, 1 if absent), `aid` and `batch` are not known to an import, where they belong to the group.
Columns that say nothing about a tap's authenticity are not read. The first 16 different meta keys are tried on the mirrors of
all tags, whichever line has them. Any further one is tried on taps that name the tag of its line, or with `batch` the batch, and
on others unless there are very many. A tag with several live keys has one line for each, distinguished by `version`.

Messages name line and column, but never quote the value, which may be most of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import CompiledProfile, compile_profile
from ixfast.domain import references
from ixfast.domain.chip_uids import is_reversed
from ixfast.domain.model import EncodingProfile, Key
from ixfast.errors import InputError, ProfileError
from ixfast.limits import KEY_VERSIONS_MAX
from ixfast.tag_files import PRESETS, Layout, Problems, TagRow, read_tags
from ixfast.tag_files.columns import IGNORED, SLOTS, Cell, shown

OWN_COLUMNS = ("profile", "version", "aid", "batch")
"""The columns that only an audit knows."""

_READ = frozenset(("XUID", "UID", "CUID", "KEY", "META_KEY", "KEY_CHECK_VALUE"))
_FACTORY_KEY = bytes(16)
_KEY_SLOT = SLOTS.index("KEY")
_NO_CHECK_VALUE = bytes(3)  # An audit never shows check values.


def read_keys(
    pieces: Iterable[bytes],
    profile_of: Callable[[str], EncodingProfile],
    *,
    default_profile: str | None = None,
    preset: str | None = None,
    ignored: Collection[str] = (),
    unread: list[str] | None = None,
    allow_any_uid: bool = False,
) -> TagCatalogue:
    """Read a key file, in pieces of any size, into a catalogue. `profile_of` finds a profile by its notation.

    `default_profile` applies to lines that name none; `preset` and `ignored` are those of an import. The names of columns that
    are not read are added to `unread`. UIDs whose bytes are in reverse order are refused without `allow_any_uid`. Raises
    InputError with the line, the column and what is wrong.
    """
    problems, layout = Problems(), _KeyLayout(preset, ignored, [] if unread is None else unread)
    reader = _Reader(profile_of, default_profile)
    for row in read_tags(pieces, layout, problems):
        if row.uid is not None and not allow_any_uid and is_reversed(row.uid):
            problems.add(row.line, "UID", "uid_reversed")
            continue
        try:
            reader.take(row)
        except (InputError, ProfileError) as error:
            if problems and problems.by_line()[0].line < row.line:
                break
            field = getattr(error, "field", None)
            raise _refused(row.line, field, str(error)) from None
    if problems:
        first = problems.by_line()[0]
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise _refused(first.line, first.column, f"{first.message} {first.remedy}{more}")
    if not reader.has_keys:
        raise InputError("invalid_parameter", f"The key file contains no keys.{layout.hint}", "keys")
    return reader.catalogue


def _refused(line: int, field: str | None, text: str) -> InputError:
    where = f"key file, line {line}" + (f", {field}" if field else "")
    return InputError("invalid_parameter", f"{where}: {text}", field)


class _KeyLayout(Layout):
    """The columns of an import and an audit's own. Unknown ones are not an error: an import may know them as extended fields."""

    def __init__(self, preset: str | None, ignored: Collection[str], unread: list[str]) -> None:
        super().__init__(preset=preset, ignored=ignored, fields=OWN_COLUMNS, allow_zero_keys=True)
        self._unread = unread
        self.hint = ""

    def cells(self, names: Sequence[str], line: int, problems: Problems, *, is_header: bool = True) -> tuple[Cell, ...]:
        found = super().cells(names, line, problems, is_header=is_header)
        if not problems and not any(cell.slot == _KEY_SLOT for cell in found):
            self.hint = _key_hint(names)
        return found

    def prepared(self, members: dict[str, Any]) -> dict[str, Any]:
        """Accept the version as a number, too."""
        return {
            name: str(value) if type(value) is int and self._meaning(name)[1] == "version" else value
            for name, value in members.items()
        }

    def _meaning(self, name: str) -> tuple[str | None, str | None]:
        meaning, field = super()._meaning(name)
        if meaning == IGNORED and name.strip().upper().replace(" ", "_") == "KEY_VERSION":
            return None, "version"
        if meaning is None and field is None:
            text = shown(name)
            if text is not None and text not in self._unread:
                self._unread.append(text)
        return (meaning, None) if meaning in _READ else (IGNORED if field is None else None, field)


def _key_hint(names: Sequence[str]) -> str:
    """How to name the columns of a file in which none has the keys."""
    own = {name.strip().upper() for name in names}
    for preset, description in PRESETS.items():
        if any(meaning == "KEY" and name in own for name, meaning in description.columns.items()):
            return f" Its columns are those of --preset {preset}."
    return " Call the column with the file keys KEY."


class _Reader:
    def __init__(self, profile_of: Callable[[str], EncodingProfile], default_profile: str | None) -> None:
        self.catalogue = TagCatalogue()
        self.has_keys = False
        self._profile_of = profile_of
        self._default = default_profile
        self._compiled: dict[str, CompiledProfile] = {}

    def take(self, row: TagRow) -> None:
        """Add the tag or the key of a row; a tag without a key is known, but its taps prove nothing."""
        catalogue = self.catalogue
        uid = row.uid or b""
        # A tag without a code is reported by its UID.
        code = row.xuid or uid.hex().upper()
        if not references.CODE.fullmatch(code):
            raise InputError("invalid_parameter", "is missing; give the tag code or the UID of the tag.", "xuid")
        keys = (Key(_version(row), row.key, _NO_CHECK_VALUE),) if row.key is not None else ()
        self.has_keys = self.has_keys or bool(keys)
        catalogue.factory_keys += row.key == _FACTORY_KEY
        profile = self._profile(row.fields.get("profile") or self._default)
        own_meta_key = self._own_meta_key(row)
        batch = row.fields.get("batch") or ""
        tag = catalogue.by_code.get(code)
        if tag is None:
            tag = catalogue.add(code, profile, uid=uid, keys=keys, cuid=row.cuid, aid=row.fields.get("aid"), batch=batch)
        elif catalogue.uids[tag] != uid or catalogue.profile(tag) is not profile:
            raise InputError("invalid_parameter", "an earlier line has a different UID or profile for this tag.", "xuid")
        elif not keys:
            raise InputError("invalid_parameter", "is missing, and an earlier line has the same tag.", "file_key")
        else:
            catalogue.add_key(tag, *keys)
        if own_meta_key is not None:
            catalogue.add_own_meta_key(tag, own_meta_key)
            if batch:
                catalogue.add_batch_meta_keys(batch, (own_meta_key,))

    def _own_meta_key(self, row: TagRow) -> Key | None:
        """The meta key of a row, unless it is tried on all mirrors, as the first ones are."""
        if row.meta_key is None:
            return None
        key = Key(len(self.catalogue.meta_keys) + 1, row.meta_key, _NO_CHECK_VALUE)
        if not self.catalogue.takes_meta_key(row.meta_key):
            return key
        self.catalogue.add_meta_keys([key])
        return None

    def _profile(self, notation: str | None) -> CompiledProfile:
        if notation is None:
            raise InputError("invalid_parameter", "is missing; name a profile here or with --profile.", "profile")
        notation = notation.strip()
        compiled = self._compiled.get(notation)
        if compiled is None:
            compiled = self._compiled[notation] = compile_profile(self._profile_of(notation))
        return compiled


def _version(row: TagRow) -> int:
    text = row.fields.get("version", "1").strip()
    version = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(KEY_VERSIONS_MAX)) else 0
    if not 0 < version <= KEY_VERSIONS_MAX:
        raise InputError("invalid_parameter", f"must be between 1 and {KEY_VERSIONS_MAX}.", "version")
    return version
