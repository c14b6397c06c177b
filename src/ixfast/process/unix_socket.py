"""The Unix socket of the scan API, as the supervisor sees it: one listening socket for all workers, and its file.

Unlike a port, the file outlives the process that made it. What a killed server left behind is replaced at the next start, and
what belongs to a running server, or is not a socket, is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from ixfast.errors import ConfigurationError

_MODE = 0o666  # As on the loopback interface, every local user may connect, unless the mode of the directory prevents it.
_SETTING = "unix_socket"


class UnixSocket:
    """A bound socket and its file. Nobody can connect until a worker listens."""

    def __init__(self, path: Path) -> None:
        """Bind it. Raises ConfigurationError that names the setting."""
        self._path = path
        self.listener = _bind(path)
        # Keeps the inode number from being given to another file, so that `remove` knows its own.
        self._file = os.open(path, os.O_PATH | os.O_NOFOLLOW)

    def close(self) -> None:
        """Close this process's descriptor of the listening socket. The workers have their own."""
        self.listener.close()

    def remove(self) -> None:
        """Remove the file, unless another one is at its path by now."""
        self.close()
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file), self._path.lstat()):
                self._path.unlink()
        os.close(self._file)
        self._file = -1


def check(path: Path) -> None:
    """Raise ConfigurationError if a server could not bind the path. Nothing is created or removed."""
    folder = path.parent
    if not _is_left_behind(path) and not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EACCES if folder.exists() else errno.ENOENT
        raise _refusal(path, OSError(reason, os.strerror(reason)))


def _bind(path: Path) -> socket.socket:
    left_behind = _is_left_behind(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(~_MODE & 0o777)  # not chmod, which would follow a link that someone put there in the meantime
    try:
        if left_behind:
            path.unlink(missing_ok=True)
        listener.bind(os.fsencode(path))
    except OSError as error:
        listener.close()
        raise _refusal(path, error) from None
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def _is_left_behind(path: Path) -> bool:
    """Whether there is a socket that no process has open. Raises ConfigurationError for everything else at that path."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISSOCK(mode):
            raise ConfigurationError(f"{_SETTING}: {path} exists and is not a socket; choose another path.")
        if _is_open(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refusal(path, error) from None
    return True


def _is_open(path: Path) -> bool:
    """Whether a process has the socket open. Connecting a datagram socket shows it without disturbing a server, and even if that
    does not listen yet: a stream socket then has the wrong type, while nobody at all refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            return False
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    return True


def _refusal(path: Path, error: OSError) -> ConfigurationError:
    folder, reason = path.parent, error.strerror
    if error.errno == errno.ENOENT and not folder.exists():
        reason, remedy = f"there is no directory {folder}", "create it or choose another path"
    elif error.errno == errno.EADDRINUSE:
        reason, remedy = "another server uses it", "stop the other server or choose another path"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = f"make {folder} writable for this user, remove what another user left there, or choose another path"
    else:
        remedy = "choose another path"
    return ConfigurationError(f"{_SETTING}: cannot bind {path} ({reason}); {remedy}.")
