"""Files that hold a secret, such as a connection string, a TLS key, a token or a PIN: one rule for who else may have access.

A file that every user of the machine can read is refused: any program that runs there has the secret already. Access by a
group is a warning, because a service and its administrators may share one on purpose, and nothing to mention if the file
belongs to root and the group may only read it: that is how Kubernetes and distributions hand a secret to one service. The key
file has a stricter rule, in `check_owner_only`, since it opens the keys of all tags.

No message contains anything of the content.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from pathlib import Path

from ixfast.errors import ConfigurationError

log = logging.getLogger("ixfast.secrets")

BYTES_MAX = 64 * 1024


def read(path: Path, name: str) -> bytes:
    """The content of a secret file, without surrounding white space, which editors append.

    `name` begins every message: what the file is, or where its path was set. Raises ConfigurationError for a file that cannot
    be read, that others may access, or that is empty or too large.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot read {path}: {error.strerror}.") from None
    check(path, status, name)
    secret = content.strip()
    if not secret or len(content) > BYTES_MAX:
        raise ConfigurationError(f"{name}: {path} is empty or larger than 64 KiB; it must contain only the secret.")
    return secret


def read_line(path: Path, name: str) -> str:
    """The content of a file with a secret of one line, such as a URL, a token or a PIN.

    Raises ConfigurationError as `read` does, for text that is not in UTF-8 or begins with a mark of its encoding, and for several
    lines: a program would otherwise take them for one secret, and its errors could show a part of it.
    """
    content = read(path, name)
    if (mistake := encoding_mistake(content)) is not None:
        raise ConfigurationError(f"{name}: {path} {mistake}.")
    lines = content.decode().splitlines()
    if len(lines) == 1:
        return lines[0]
    comments = sum(line.lstrip().startswith("#") for line in lines)
    what = f"{comments} of them a comment" if comments == 1 else f"{comments} of them comments" if comments else ""
    many = f"has {len(lines)} lines{f', {what}' if what else ''}"
    raise ConfigurationError(f"{name}: {path} {many}; it must contain only the secret, on one line.")


def encoding_mistake(content: bytes) -> str | None:
    """What is wrong with the encoding of a text file, as the end of a sentence; None if it is UTF-8 without a mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:4]:
        return "is in UTF-16; save it as UTF-8"
    if content.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte order mark (BOM); save it as UTF-8 without one"
    try:
        content.decode()
    except UnicodeDecodeError:
        return "is not text in UTF-8"
    return None


def check_path(path: Path, name: str) -> None:
    """`check` for a file that a library reads."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot read {path}: {error.strerror}.") from None
    check(path, status, name)


def check(path: Path, status: os.stat_result, name: str) -> None:
    """Raise ConfigurationError if users outside the file's group may access it; warn if its group may, unless root chose that."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXO:
        raise ConfigurationError(
            f"{name}: {path} is accessible to all users (mode {mode:04o}). Restrict it with: chmod 600 {path} - if a container "
            "engine mounts it, set the mode there, to 0400 or 0440."
        )
    shared_by_root = status.st_uid == 0 != os.geteuid() and not mode & (stat.S_IWGRP | stat.S_IXGRP)
    if mode & stat.S_IRWXG and not shared_by_root:
        log.warning("%s: %s is accessible to its group (mode %04o); change its mode to 0600", name, path, mode)


def check_owner_only(path: Path, status: os.stat_result, name: str) -> None:
    """Raise ConfigurationError unless the file belongs to this process's user and nobody else may access it.

    That applies to root as well: the owner of a file could replace it at any time.
    """
    user = os.geteuid()
    if status.st_uid != user:
        raise ConfigurationError(
            f"{name} {path} belongs to {_user_name(status.st_uid)}, but this process runs as {_user_name(user)}. Run it "
            f"as the file's owner, or change the owner with: chown {user} {path}"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"{name} {path} is accessible to its group or to others (mode {stat.S_IMODE(status.st_mode):04o}). "
            f"Restrict it with: chmod 600 {path}"
        )


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"user {uid}"
