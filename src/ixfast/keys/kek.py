"""Key-encryption keys: 32 random bytes each, which open the envelopes in the database.

They are loaded once at start from a `DataKeyProvider` and then only used. The provider of this module reads a file; one
for a cloud's key service or a vault hands the same 32 bytes out after asking that service to decrypt its stored blob.
Either way nothing leaves the process for a scan, and opening an envelope takes microseconds.

The first key seals and opens, the others only open, so that a key can be retired without re-sealing everything at once.
Keys are named by a fingerprint that is safe to store beside each envelope.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ixfast.errors import ConfigurationError, IxfastError

KEK_BYTES = 32
KEKS_MAX = 16  # More than one in use is a rotation; sixteen are sixteen rotations that were never finished.
_FILE_BYTES_MAX = 64 * 1024
_HEADER = "ixfast-key-encryption-keys 1"
_ID_LABEL = b"ixfast key-encryption key id 1"


class KeyUnavailableError(IxfastError):
    """A key of a tag cannot be read, so its scans cannot be answered; look at the key-encryption keys in use."""


class KeyEnvelopeError(KeyUnavailableError):
    """A key envelope does not open: it was altered, moved or sealed under another key. Restore it or import anew."""


class UnknownKekError(KeyUnavailableError):
    """An envelope names a key-encryption key that is not loaded; add the key to the key file and restart."""


class KekFileError(ConfigurationError):
    """The file of key-encryption keys cannot be used; the message says what to change."""


class KeyEncryptionKey:
    """One AES-256 key with its name. It seals and opens and never shows itself."""

    __slots__ = ("aead", "id")

    def __init__(self, key32: bytes) -> None:
        """Take 32 bytes; `KekFileError` for any other length."""
        if len(key32) != KEK_BYTES:
            raise KekFileError(f"A key-encryption key has {KEK_BYTES} bytes; this one has {len(key32)}.")
        self.id = kek_id(key32)
        self.aead = AESGCM(key32)

    def __repr__(self) -> str:
        return f"KeyEncryptionKey(id={self.id})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A key-encryption key is not to be pickled or copied: it would leave its holder.")


class DataKeyProvider(Protocol):
    """Where key-encryption keys come from. Called at start and at a reload, never for a scan; it may take seconds."""

    def unwrap_data_keys(self) -> Sequence[bytes]:
        """Return the keys, 32 bytes each, the current one first.

        Raises `KeyUnavailableError` when the service behind it does not answer and may answer later,
        `ConfigurationError` when an operator has to change something.
        """
        ...


class FileDataKeyProvider:
    """Keys from a file that only its owner may read."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"FileDataKeyProvider({str(self.path)!r})"

    def unwrap_data_keys(self) -> Sequence[bytes]:
        """Read the file; see `read_file`."""
        return read_file(self.path)


class KeyEncryptionKeys:
    """The loaded keys by id; the first is `current` and the only one that seals."""

    __slots__ = ("_by_id", "current")

    def __init__(self, keys: Sequence[KeyEncryptionKey]) -> None:
        if not keys:
            raise KekFileError("There is no key-encryption key; `create_file` makes a file with one.")
        if len(keys) > KEKS_MAX:
            raise KekFileError(f"{len(keys)} key-encryption keys; at most {KEKS_MAX} may be in use.")
        self.current = keys[0]
        self._by_id = {key.id: key for key in keys}
        if len(self._by_id) != len(keys):
            raise KekFileError("A key-encryption key stands twice in the list; remove one of the two lines.")

    @classmethod
    def from_provider(cls, provider: DataKeyProvider) -> Self:
        """Ask the provider once and keep what it returns."""
        return cls([KeyEncryptionKey(key) for key in provider.unwrap_data_keys()])

    @classmethod
    def load_file(cls, path: Path) -> Self:
        """Load a key file; `KekFileError` when it is missing, readable by others or damaged."""
        return cls.from_provider(FileDataKeyProvider(path))

    @classmethod
    def create_file(cls, path: Path) -> Self:
        """Make a key file with one random key and load it; `KekFileError` when the path exists already."""
        _write_file(path, [secrets.token_bytes(KEK_BYTES)])
        return cls.load_file(path)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the loaded keys, the current one first."""
        return tuple(self._by_id)

    def by_id(self, id_: str) -> KeyEncryptionKey:
        """Find a key by its id (16 hexadecimal digits); `UnknownKekError` when it is not loaded."""
        try:
            return self._by_id[id_]
        except KeyError:
            raise UnknownKekError(
                f"Key-encryption key {id_[:16]} is not loaded (loaded: {', '.join(self.ids)}). "
                "Add its line to the key file below the current key and restart."
            ) from None

    def __repr__(self) -> str:
        return f"KeyEncryptionKeys(current={self.current.id}, ids={list(self.ids)})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("Key-encryption keys are not to be pickled or copied: they would leave their holder.")


def kek_id(key32: bytes) -> str:
    """Name a key: the first 8 bytes of HMAC-SHA256 over a label, keyed with it, as 16 hexadecimal digits.

    One way, and separate from every other use of the key, so that it may be stored and printed.
    """
    return hmac.new(key32, _ID_LABEL, hashlib.sha256).hexdigest()[:16]


def read_file(path: Path) -> list[bytes]:
    """Read the keys of a file, the current one first.

    The first line is a header, then a line a key: its id, a space, its 32 bytes in base64. Lines that are empty or
    begin with `#` are skipped. `KekFileError` for a file that is missing, not regular, readable or writable by others
    than its owner, or in which a line does not carry the key that its id names.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # A FIFO must not block the start.
    except FileNotFoundError:
        raise KekFileError(f"There is no key file at {path}; name the right one in the setting kek_file.") from None
    except OSError as error:
        raise KekFileError(f"The key file {path} cannot be opened ({error.strerror}).") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KekFileError(f"{path} is not a regular file; keys are read from regular files only.")
        if status.st_mode & 0o077:
            raise KekFileError(
                f"The key file {path} is open to its group or to others (mode {stat.S_IMODE(status.st_mode):04o}). "
                f"Close it with: chmod 600 {path}"
            )
        text = os.read(descriptor, _FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(text) > _FILE_BYTES_MAX:
        raise KekFileError(f"{path} is larger than {_FILE_BYTES_MAX} bytes and cannot be a key file.")
    return _parse(path, text)


def _parse(path: Path, text: bytes) -> list[bytes]:
    lines = text.decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != _HEADER:
        raise KekFileError(f"{path} does not begin with the line {_HEADER!r} and is not a key file of ixfast.")
    keys = []
    for number, line in enumerate(lines[1:], start=2):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key = _decode(words[1]) if len(words) == 2 else b""
        if len(key) != KEK_BYTES or not hmac.compare_digest(kek_id(key).encode(), words[0].encode()):
            # Neither the line nor a part of it is shown: it may hold most of a key.
            raise KekFileError(
                f"{path}, line {number}: not an id of 16 hexadecimal digits followed by the base64 of the key that it "
                "names. The line was cut or altered; restore the file from its backup."
            )
        keys.append(key)
    return keys


def _decode(word: str) -> bytes:
    try:
        return base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _write_file(path: Path, keys: Sequence[bytes]) -> None:
    """Write a key file that did not exist, mode 0600, and return only when file and name are on the disk."""
    lines = [_HEADER, "# Whoever has this file and the database has every key of every tag: keep it apart from both."]
    lines += [f"{kek_id(key)} {base64.b64encode(key).decode()}" for key in keys]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise KekFileError(f"{path} exists already and is not overwritten: it may hold the only copy of a key.") from None
    except OSError as error:
        raise KekFileError(f"The key file {path} cannot be created ({error.strerror}).") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fchmod(descriptor, 0o600)  # The umask may have taken the owner's own bits away.
            os.fsync(descriptor)
        _sync_directory(path.absolute().parent)
    except BaseException:
        path.unlink()
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
