"""Follows tutorials and how-to guides literally: their commands run in a fresh directory and print what the pages show.

A page is read from top to bottom:

- A block of the language `sh` is typed into one shell, which keeps its variables from block to block. It must succeed,
  unless the page shows what it prints.
- A block of the language `text` that follows it, with only prose in between, is its output: standard output and standard
  error as a terminal shows them. `…` stands for any text within a line. What differs from run to run (times, tokens,
  request ids, ids of key-encryption keys, speeds) is masked on both sides.
- `<!-- keeps running -->` before an `sh` block: it is typed into a terminal of its own and keeps running. The block of its
  output is what it prints first.
- `<!-- file: NAME -->` before a block: it is saved as NAME.
- `<!-- not run: reason -->` before an `sh` block: it is skipped, with its output.

The pages use the ports 8480, 8481 and 8000; the tests replace them with free ones.
"""

import contextlib
import difflib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import eventually_sync
from support.requirements import requires

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    "tutorials/first-tap.md",
    "tutorials/quickstart.md",
    "how-to/migrate-from-ixkio.md",
    "how-to/import-tags.md",
    "how-to/export-tags.md",
    "how-to/detect-a-profile.md",
    "how-to/audit-a-log.md",
    "how-to/rotate-keys.md",
    "how-to/test-without-tags.md",
]
PAGE_PORTS = ("8480", "8481", "8000")
COMMAND_DEADLINE_S = 60.0
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0

BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
MASKS = [
    (re.compile(r"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d([.,]\d+)?(Z|\+00:00)?"), "TIME"),
    (re.compile(r"\bixf_[\w-]{32}"), "TOKEN"),
    (re.compile(r'"(request_id|scan_id)":\s*"[0-9a-f]+"'), r'"\1":"ID"'),
    (re.compile(r'"xuid":"[a-z0-9]{16}"'), '"xuid":"CODE"'),
    (re.compile(r"^[a-z0-9]{16},", re.MULTILINE), "CODE,"),
    (re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{16}\b"), "ID-OF-A-KEY-----"),
    (re.compile(r"in \d+\.\d+ s, [\d,]+ a second"), "in SECONDS, SPEED a second"),
    (re.compile(r"^(opening|sealing)\n", re.MULTILINE), ""),  # labels of progress bars, which are shown on terminals only
    (re.compile(r"\bixfast \d+\.\d+\.\d+\S* \([\w-]+\)"), "ixfast VERSION (CORE)"),
]


class Block(NamedTuple):
    """A fenced block of a page: the line it begins at, its language, its text, and the note before it."""

    line: int
    language: str
    text: str
    note: str

    @property
    def is_skipped(self) -> bool:
        return self.note.startswith("not run:")


def blocks_of(page: str) -> list[Block]:
    assert not re.search(r"^ +```", page, re.MULTILINE), "an indented block would not be followed"
    return [
        Block(page.count("\n", 0, found.start("language")) + 1, found["language"], found["text"], found["note"] or "")
        for found in BLOCK.finditer(page)
    ]


def masked(text: str) -> str:
    for pattern, replacement in MASKS:
        text = pattern.sub(replacement, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))


def matches(shown: str, printed: str) -> bool:
    """Whether an output is the one that a page shows."""
    pattern = r"[^\n]*".join(re.escape(part) for part in masked(shown).split("…"))
    return re.fullmatch(pattern, masked(printed)) is not None


def difference(shown: str, printed: str) -> str:
    return "\n".join(difflib.unified_diff(masked(shown).split("\n"), masked(printed).split("\n"), "page", "printed", lineterm=""))


class Terminal:
    """One shell, with what it prints in a file, as on a screen."""

    def __init__(self, home: Path, environ: dict[str, str], screen: Path) -> None:
        self._screen = screen
        with screen.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "--noprofile", "--norc"], cwd=home, env=environ, stdin=subprocess.PIPE, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.type("trap : TERM\n")  # Outlive the command that is running. Commands do not inherit this.

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    @property
    def printed(self) -> str:
        return self._screen.read_text()

    def run(self, commands: str) -> tuple[str, int]:
        """Run commands to their end; returns what they printed, and the exit status of the last one."""
        before = len(self.printed)
        end = secrets.token_hex(8)
        # The commands are read as a whole before the first one runs, so that none of them can take the rest as its input.
        self.type(f"eval \"$(cat <<'{end}'\n{commands}{end}\n)\" </dev/null; printf '\\n%s %s\\n' {end} $?\n")

        def ended() -> re.Match[str] | None:
            return re.search(rf"\n{end} (\d+)\n", self.printed[before:])

        found = eventually_sync(ended, COMMAND_DEADLINE_S)
        return self.printed[before : before + found.start()], int(found[1])

    def close(self) -> None:
        """Stop what is running, and wait for its end. A server stops its database, which has a process group of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.communicate(timeout=STOP_DEADLINE_S)  # The end of its input ends the shell, too.
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Reader:
    """Follows one page in the directory `home`, and keeps a transcript of it."""

    def __init__(self, home: Path, environ: dict[str, str], ports: dict[str, str]) -> None:
        self._home = home
        self._environ = environ
        self._ports = ports
        self._screens = Path(tempfile.mkdtemp(prefix=f"{home.name}.screens-", dir=home.parent))
        self._terminals: list[Terminal] = []
        self._main = self._open()
        self.transcript: list[str] = []
        self.checked = 0

    def _open(self) -> Terminal:
        terminal = Terminal(self._home, self._environ, self._screens / str(len(self._terminals)))
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        for terminal in reversed(self._terminals):
            terminal.close()

    def _with_ports(self, text: str) -> str:
        for shown, used in self._ports.items():
            text = re.sub(rf"\b{shown}\b", used, text)
        return text

    def follow(self, page: str) -> None:
        blocks = [block._replace(text=self._with_ports(block.text)) for block in blocks_of(page)]
        if any(re.search(r"\bcurl\b", block.text) for block in blocks if not block.is_skipped):
            requires("curl", package="curl", path=self._environ["PATH"])
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            if block.note.startswith("file: "):
                (self._home / block.note.removeprefix("file: ")).write_text(block.text)
                self.transcript.append(f"(saved as {block.note.removeprefix('file: ')})\n{block.text}")
            if block.language != "sh" or block.is_skipped:
                continue
            shown = following.text if following is not None and following.language == "text" else None
            if block.note == "keeps running":
                self._start(block, shown)
            else:
                self._run(block, shown)

    def _start(self, block: Block, shown: str | None) -> None:
        terminal = self._open()
        terminal.type(block.text)
        lines = len(shown.strip("\n").split("\n")) if shown is not None else 1

        def begun() -> str:
            assert terminal.process.poll() is None, terminal.printed
            whole = terminal.printed.rpartition("\n")[0].split("\n")
            # Its log goes to standard error and is not part of what the page shows.
            kept = [line for line in whole if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line)]
            return "\n".join(kept[:lines]) if len(kept) >= lines else ""

        printed = eventually_sync(begun, START_DEADLINE_S)
        self._note(block, printed)
        if shown is not None:
            self._compare(block, shown, printed)

    def _run(self, block: Block, shown: str | None) -> None:
        printed, status = self._main.run(block.text)
        self._note(block, printed)
        if shown is not None:
            self._compare(block, shown, printed)
        else:
            assert status == 0, f"line {block.line}: exit status {status}\n{block.text}{printed}"

    def _note(self, block: Block, printed: str) -> None:
        commands = "".join(f"$ {line}" if number == 0 else f"> {line}" for number, line in enumerate(block.text.splitlines(True)))
        self.transcript.append(f"{commands}{printed}")

    def _compare(self, block: Block, shown: str, printed: str) -> None:
        assert matches(shown, printed), f"line {block.line}\n{block.text}{difference(shown, printed)}\n\nprinted:\n{printed}"
        self.checked += 1


def free_ports(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


class Checkout(NamedTuple):
    """A copy of the checkout that has nothing but what is needed to install and run ixfast."""

    home: Path
    environ: dict[str, str]
    ports: dict[str, str]

    def files_to_commit(self, git: str) -> set[str]:
        """What `git add .` would add of what the pages wrote: no keys, tokens or databases."""
        names = {path.name for path in self.home.iterdir() if not path.is_symlink()} - {".curl", ".git", ".gitignore"}
        shutil.copy(ROOT / ".gitignore", self.home)  # Git ignores one that is a link.
        subprocess.run([git, "init", "--quiet"], cwd=self.home, check=True)
        check = [git, "check-ignore", "--no-index", *names]
        ignored = subprocess.run(check, cwd=self.home, capture_output=True, text=True, check=True).stdout.split("\n")
        return names - set(ignored)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader]:
        """A reader with terminals of its own, which end with it."""
        reader = Reader(*self)
        try:
            yield reader
        finally:
            reader.close()


@pytest.fixture
def checkout(open_scratch: Path) -> Checkout:
    home = Path(tempfile.mkdtemp(prefix="page-", dir=open_scratch))
    home.chmod(0o711)
    for name in ("Makefile", "setup.py", "pyproject.toml", "src", "benchmarks", "examples"):
        if (ROOT / name).exists():
            (home / name).symlink_to(ROOT / name)
    environment = home / ".venv"
    environment.mkdir()
    installed = Path(sys.prefix)
    for name in ("bin", "lib", "pyvenv.cfg"):
        if (installed / name).exists():
            (environment / name).symlink_to(installed / name)
    (environment / ".installed").touch()
    ports = dict(zip(PAGE_PORTS, free_ports(len(PAGE_PORTS)), strict=True))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("IXFAST_", "MAKE", "VAULT_"))}
    environ |= {
        "PATH": f"{installed / 'bin'}:{environ['PATH']}",
        "IXFAST_PORT": ports["8480"],
        "IXFAST_PRIVATE_PORT": ports["8481"],
        "PORT": ports["8000"],
        "PYTHONUNBUFFERED": "1",
        "CURL_HOME": str(home / ".curl"),
    }
    # On a terminal curl shows no progress.
    (home / ".curl").mkdir()
    (home / ".curl" / ".curlrc").write_text("silent\nshow-error\n")
    return Checkout(home, environ, ports)


@pytest.fixture
def reader(checkout: Checkout) -> Iterator[Reader]:
    with checkout.reader() as reader:
        yield reader


@pytest.mark.parametrize("name", PAGES)
def test_page_does_what_it_shows(name: str, checkout: Checkout, reader: Reader, tmp_path: Path) -> None:
    page = (DOCS / name).read_text()
    started = time.monotonic()
    try:
        reader.follow(page)
    finally:
        text = "\n".join(reader.transcript)
        (tmp_path / "transcript.txt").write_text(text)
        if folder := os.environ.get("TUTORIAL_TRANSCRIPTS"):
            (Path(folder) / f"{Path(name).stem}.txt").write_text(text)
    assert reader.checked > 0, f"{name} shows no output ({time.monotonic() - started:.1f} s)"
    if git := shutil.which("git"):
        assert checkout.files_to_commit(git) == set()


def test_guides_follow_each_other_in_one_checkout(checkout: Checkout) -> None:
    """None of them meets the accounts, key files or other files of one before it."""
    for name in ("tutorials/quickstart.md", "how-to/migrate-from-ixkio.md", "how-to/rotate-keys.md"):
        with checkout.reader() as reader:
            reader.follow((DOCS / name).read_text())
        assert reader.checked > 0


def test_the_quickstart_shows_the_example() -> None:
    programs = [
        block.text for block in blocks_of((DOCS / "tutorials" / "quickstart.md").read_text()) if block.language == "python"
    ]
    assert programs == [(ROOT / "examples" / "web_server.py").read_text()]


PAGE = """
```sh
count=2
echo "$count tags"
```

```text
2 tags
```
"""


def test_a_shell_keeps_its_variables(reader: Reader) -> None:
    reader.follow(PAGE + PAGE.replace("count=2\n", ""))
    assert reader.checked == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n2 tags", "\n3 tags"),
        ("\n2 tags", "\n2 tags\n2 tags"),
        ("count=2\n", "count=2\necho more >&2\n"),
        ("\n2 tags", "\n… keys"),
    ],
)
def test_an_output_that_differs_fails(old: str, new: str, reader: Reader) -> None:
    with pytest.raises(AssertionError, match="printed"):
        reader.follow(PAGE.replace(old, new))


def test_a_command_that_fails_silently_fails(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="exit status 3"):
        reader.follow("```sh\n(exit 3)\n```\n")


def test_a_skipped_block_is_not_run(reader: Reader) -> None:
    reader.follow("<!-- not run: it fails -->\n```sh\n(exit 3)\n```\n\n```text\nnothing\n```\n")
    assert reader.transcript == []


def test_an_ellipsis_is_any_text_of_one_line() -> None:
    assert matches("a … c", "a b b c")
    assert not matches("a … c", "a\nb c")
    assert not matches("a … c", "a b")


def test_masks_hide_only_what_varies() -> None:
    assert matches("key ixf_" + "a" * 32, "key ixf_" + "b-" * 16)
    assert matches("bc28ee86ab9660c8", "9bbf6cfa4cb1f93d")
    assert not matches("e=CFC866042817ADAA", "e=CFC866042817ADAB")
    assert not matches("counter 60", "counter 61")
