"""The key file, which lists the key-encryption keys, their order, and how each is opened.

    ixfast-key-encryption-keys 1
    # Lines that are empty or begin with # are skipped.
    <id> <base64 of the 32 bytes>
    <id> <provider> <reference> <base64 of what the provider returned>
    # next:
    <id> <base64 of the 32 bytes>

A line of two words contains a key in the clear (provider `file`). A line of four contains a key that a key service has sealed,
and reveals nothing but its id. The first key is the current one. The id is a fingerprint of the opened key, so a line that
opens to anything else is detected. The comment `# next:` marks the key after it as one that a rotation is to make current: a
key without it that seals nothing has been replaced.

Invariants:
1. The file is replaced atomically or not at all.
2. It is read only if it belongs to the user that reads it and nobody else may read or write it (`secret_files`).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hmac
import os
import re
import stat
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from ixfast import secret_files
from ixfast.errors import ConfigurationError
from ixfast.keys.kek import KEK_BYTES, KekFileError, check_ids, kek_id

FILE = "file"
"""The provider of keys that the file itself contains in the clear."""

_FILE_BYTES_MAX = 64 * 1024
_HEADER = "ixfast-key-encryption-keys 1"
_NEXT = "# next:"
_WARNING = "# Anyone who has these keys and the database has the key of every tag: keep the two apart."
_ID = re.compile(r"[0-9a-f]{16}")
_PROVIDER = re.compile(r"[a-z][a-z0-9-]{0,31}")


class KeyLine:
    """One key of the file. `sealed` is what the provider opens.

    For the provider `file` it is the key itself, so never show it.
    """

    __slots__ = ("id", "provider", "reference", "sealed")

    def __init__(self, id_: str, provider: str, reference: str, sealed: bytes) -> None:
        self.id = id_
        self.provider = provider
        self.reference = reference
        self.sealed = sealed

    @property
    def text(self) -> str:
        """The line as written in the file."""
        words = (self.id,) if self.provider == FILE else (self.id, self.provider, self.reference)
        return " ".join((*words, base64.b64encode(self.sealed).decode()))

    def __repr__(self) -> str:
        return f"KeyLine(id={self.id}, provider={self.provider!r}, reference={self.reference!r})"


class KeyFile:
    """The content of a key file. `signature` differs once the file has been replaced or written to."""

    __slots__ = ("_texts", "lines", "path", "signature")

    def __init__(self, path: Path, content: bytes, signature: Signature) -> None:
        self.path = path
        self.signature = signature
        if (mistake := secret_files.encoding_mistake(content)) is not None:
            raise KekFileError(f"{path} is not an ixfast key file: it {mistake}.")
        self._texts = content.decode().splitlines()
        if not self._texts or self._texts[0].strip() != _HEADER:
            raise KekFileError(f"{path} is not an ixfast key file: it does not begin with the line {_HEADER!r}.")
        parsed = [_parse(path, number, text) for number, text in enumerate(self._texts[1:], start=2)]
        self.lines = [line for line in parsed if line is not None]
        check_ids([line.id for line in self.lines])

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read and check a file without opening its keys.

        Raises KekFileError for a file that is missing, not a regular file, owned by another user, or accessible to others than
        its owner, and for a malformed line or a key in the clear that does not match its id.
        """
        content, signature = _read(path)
        return cls(path, content, signature)

    @property
    def next_id(self) -> str | None:
        """The id of the key that a rotation is to make current, if one was added for that."""
        ids = {line.id for line in self.lines[1:]}
        for mark, text in pairwise(self._texts):
            if mark.strip() == _NEXT and text.split()[:1] and text.split()[0] in ids:
                return text.split()[0]
        return None

    def with_line(self, line: KeyLine, *, current: bool) -> list[str]:
        """The lines of the file with another key added, as the current one or as the last, which is then the next one."""
        check_ids([*(known.id for known in self.lines), line.id])
        if not current:
            return [*self._without_mark(), _NEXT, line.text]
        at = self._index_of(self.lines[0].id)
        return [*self._texts[:at], line.text, *self._texts[at:]]

    def _without_mark(self) -> list[str]:
        return [text for text in self._texts if text.strip() != _NEXT]

    def without(self, id_: str) -> list[str]:
        """The lines of the file without a key. Raises KekFileError if no key has this id or it is the current one."""
        at = self._index_of(id_)
        if id_ == self.lines[0].id:
            raise KekFileError(f"{id_} is the current key; first make another key current with `ixfast keys rotate`.")
        if self.next_id == id_:
            return [*self._texts[: at - 1], *self._texts[at + 1 :]]
        return [*self._texts[:at], *self._texts[at + 1 :]]

    def with_current(self, id_: str) -> list[str]:
        """The lines of the file with this key as the current one. It is not the next one any more."""
        chosen, first = self._texts[self._index_of(id_)], self._texts[self._index_of(self.lines[0].id)]
        texts = self._without_mark() if self.next_id == id_ else self._texts
        rest = [text for text in texts if text != chosen or text == first]
        at = rest.index(first)
        return rest if chosen == first else [*rest[:at], chosen, *rest[at:]]

    def _index_of(self, id_: str) -> int:
        for number, text in enumerate(self._texts[1:], start=1):
            if text.split()[:1] == [id_]:
                return number
        raise KekFileError(f"{self.path} has no key {id_}; `ixfast keys status` lists its keys.")


Signature = tuple[int, int, int, int]


def signature_of(path: Path) -> Signature | None:
    """A value that changes when the file does; None if the file does not exist."""
    try:
        return _signature(path.stat())
    except OSError:
        return None


def plain_line(key32: bytes) -> KeyLine:
    """A line that contains a key in the clear."""
    return KeyLine(kek_id(key32), FILE, "", key32)


def create(path: Path, line: KeyLine) -> None:
    """Create a key file with mode 0600. Returns once both the file and its directory entry are on disk."""
    try:
        _write(path, [_HEADER, _WARNING, line.text])
    except FileExistsError:
        raise KekFileError(f"{path} already exists and will not be overwritten: it may hold the only copy of a key.") from None
    except OSError as error:
        raise KekFileError(f"Cannot create the key file {path}: {error.strerror}.") from None
    _sync_directory(path.absolute().parent)


def edit(path: Path, change: Callable[[KeyFile], list[str]]) -> None:
    """Atomically and durably replace the file with the lines that `change` returns. Only one process edits at a time."""
    path = path.resolve()  # so that a symbolic link stays one
    try:
        with _locked(path.parent):
            texts = change(KeyFile.read(path))
            owner = path.stat()
            successor = path.with_name(f".{path.name}.new")
            successor.unlink(missing_ok=True)  # left behind by an edit that was killed
            _write(successor, texts, owner=(owner.st_uid, owner.st_gid))
            KeyFile.read(successor)
            successor.replace(path)
            _sync_directory(path.parent)
    except OSError as error:
        raise KekFileError(
            f"Cannot replace the key file {path}: {error.strerror}. If it is mounted read-only, edit a copy with --kek-file "
            "and mount the copy."
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[bytes, Signature]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # A FIFO must not block the start.
    except FileNotFoundError:
        raise KekFileError(f"There is no key file at {path}; correct the setting kek_file.") from None
    except OSError as error:
        with contextlib.suppress(OSError):  # raised by stat if this user may not search the directory
            _check_access(path, path.stat())
        raise KekFileError(f"Cannot open the key file {path}: {error.strerror}.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KekFileError(f"{path} is not a regular file; keys are read from regular files only.")
        _check_access(path, status)
        content = os.read(descriptor, _FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > _FILE_BYTES_MAX:
        raise KekFileError(f"{path} is larger than {_FILE_BYTES_MAX} bytes and cannot be a key file.")
    return content, _signature(status)


def _check_access(path: Path, status: os.stat_result) -> None:
    try:
        secret_files.check_owner_only(path, status, "The key file")
    except ConfigurationError as error:
        raise KekFileError(str(error)) from None


def _signature(status: os.stat_result) -> Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _parse(path: Path, number: int, text: str) -> KeyLine | None:
    words = text.split()
    if not words or words[0].startswith("#"):
        return None
    sealed = _decode(words[-1])
    if len(words) == 2 and len(sealed) == KEK_BYTES and hmac.compare_digest(kek_id(sealed).encode(), words[0].encode()):
        return plain_line(sealed)
    if len(words) == 4 and sealed and _ID.fullmatch(words[0]) and _PROVIDER.fullmatch(words[1]) and words[1] != FILE:
        return KeyLine(words[0], words[1], words[2], sealed)
    # No part of the line is shown: it may contain most of a key.
    raise KekFileError(
        f"{path}, line {number}: must be an id of 16 hexadecimal digits and the matching key in base64, or an id, a provider, a "
        "reference and a sealed key in base64. The line was truncated or altered; restore the file from its backup."
    )


def _decode(word: str) -> bytes:
    try:
        return base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _write(path: Path, texts: list[str], *, owner: tuple[int, int] | None = None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(texts) + "\n")
            file.flush()
            os.fchmod(descriptor, 0o600)  # The umask may have cleared the owner's own bits.
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, *owner)
            os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
