"""The file of the Unix socket: what is refused, what is replaced, and what is removed at the end."""

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ixfast.errors import ConfigurationError
from ixfast.process.unix_socket import UnixSocket, check

NOBODY = 65534
SOURCE = Path(__file__).parents[2] / "src"
AS_NOBODY = f"""
import os, sys
from pathlib import Path
from ixfast.errors import ConfigurationError
from ixfast.process.unix_socket import UnixSocket, check
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
try:
    UnixSocket(Path(sys.argv[1]))
except ConfigurationError as error:
    print(error)
try:
    check(Path(sys.argv[1]))
except ConfigurationError as error:
    print("checked:", error)
"""


@pytest.fixture
def path(open_scratch: Path, tmp_path: Path) -> Iterator[Path]:
    """A path in an empty directory, short enough for a socket."""
    folder = open_scratch / tmp_path.name[-12:]
    folder.mkdir()
    yield folder / "scan.sock"
    for each in folder.iterdir():
        each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
    folder.rmdir()


def listening(path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
    other = socket.socket(socket.AF_UNIX, kind)
    other.bind(str(path))
    if kind == socket.SOCK_STREAM:
        other.listen()
    return other


def left_behind(path: Path) -> None:
    """What a killed server leaves."""
    listening(path).close()
    assert stat.S_ISSOCK(path.lstat().st_mode)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def refusal(path: Path) -> str:
    """What a server says, and `ixfast doctor` before it."""
    with pytest.raises(ConfigurationError) as caught:
        UnixSocket(path)
    message = str(caught.value)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        check(path)
    assert message.startswith("unix_socket: ") and str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("mask", [0o077, 0o000, 0o777])
def test_every_user_may_connect_whatever_the_umask(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        made = UnixSocket(path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    made.remove()


def test_a_socket_that_nobody_has_open_is_replaced(path: Path) -> None:
    check(path)
    left_behind(path)
    inode = path.stat().st_ino
    check(path)
    assert path.stat().st_ino == inode
    made = UnixSocket(path)
    assert not connects(path)  # no worker listens yet
    made.listener.listen()
    assert connects(path)
    made.remove()
    assert not path.exists()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_the_socket_of_a_running_program_is_refused_and_left_alone(path: Path, kind: socket.SocketKind) -> None:
    with listening(path, kind) as other:
        inode = path.stat().st_ino
        assert "another server uses it" in refusal(path)
        assert path.stat().st_ino == inode
        if kind == socket.SOCK_STREAM:
            other.setblocking(False)
            with pytest.raises(BlockingIOError):  # and it has noticed nothing
                other.accept()


def test_two_servers_that_start_at_the_same_time_do_not_share_a_path(path: Path) -> None:
    """The first one does not listen yet."""
    first = UnixSocket(path)
    assert "another server uses it" in refusal(path)
    first.listener.listen()
    assert connects(path)
    first.remove()


@pytest.mark.parametrize(
    "make",
    [Path.touch, Path.mkdir, lambda path: path.symlink_to(path.with_name("nowhere")), os.mkfifo],
    ids=["file", "directory", "link", "fifo"],
)
def test_what_is_not_a_socket_is_refused_and_left_alone(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    before = path.lstat()
    assert f"{path} exists and is not a socket; choose another path." in refusal(path)
    assert path.lstat() == before


def test_a_link_to_a_socket_is_refused(path: Path) -> None:
    target = path.with_name("target")
    left_behind(target)
    path.symlink_to(target)
    assert "is not a socket" in refusal(path)
    assert path.is_symlink() and target.exists()


def test_a_directory_that_does_not_exist(path: Path) -> None:
    missing = path.parent / "missing" / "scan.sock"
    assert f"(there is no directory {missing.parent}); create it or choose another path." in refusal(missing)


def test_a_directory_that_takes_no_files() -> None:
    with pytest.raises(ConfigurationError, match=r"^unix_socket: cannot bind /proc/scan\.sock \([NP]") as caught:
        UnixSocket(Path("/proc/scan.sock"))
    assert "there is no directory" not in str(caught.value)


def test_a_file_in_place_of_the_directory(path: Path) -> None:
    path.touch()
    assert "(Not a directory); choose another path." in refusal(path / "scan.sock")


def as_nobody(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(path)], capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)}, check=True
    )
    return done.stdout


@pytest.mark.parametrize("mode", [0o555, 0o444])
def test_a_directory_without_write_access(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    try:
        message = as_nobody(path)
    finally:
        path.parent.chmod(0o755)
    expected = rf"unix_socket: cannot bind {path} \(Permission denied\); make {path.parent} writable for this user, .*\.\n"
    refused, _, checked = message.partition("checked: ")
    assert re.fullmatch(expected, refused) and refused == checked, message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave something to another user")
@pytest.mark.parametrize(("mode", "reason"), [(0o666, "Operation not permitted"), (0o600, "Permission denied")])
def test_what_another_user_left_behind(path: Path, mode: int, reason: str) -> None:
    """It can be neither removed, in a directory like /tmp, nor, with mode 0600, tested for being in use."""
    left_behind(path)
    path.chmod(mode)
    path.parent.chmod(0o1777)
    assert f"({reason}); make {path.parent} writable for this user, remove what another user left there" in as_nobody(path)
    assert path.exists()


def test_only_its_own_file_is_removed(path: Path) -> None:
    made = UnixSocket(path)
    path.unlink()
    with listening(path):
        made.remove()
        assert connects(path)


def test_a_file_that_would_have_got_the_same_inode_is_another_one(path: Path) -> None:
    """File systems give a number that has become free to the next file."""
    made = UnixSocket(path)
    made.close()
    number = path.stat().st_ino
    path.unlink()
    with listening(path):
        assert path.stat().st_ino != number
        made.remove()
        assert connects(path)


def test_removing_twice_or_what_is_gone_is_no_error(path: Path) -> None:
    made = UnixSocket(path)
    path.unlink()
    made.remove()
    path.touch()
    made.remove()
    assert path.exists()
