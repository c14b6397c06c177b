"""The fenced blocks of the documents, and which of them nothing runs.

A block is one of these:

- data or a transcript, by its language (`DATA`, `TRANSCRIPTS`);
- code that a test runs: the page is in the list `PAGES` of a test module;
- code that nothing runs: the line before it is a comment with the reason, `<!-- not run: needs Docker -->`.

`python tests/fences.py` lists the blocks that are none of them; `python tests/fences.py --label` marks blocks without a language
as `text`. `tests/unit/test_docs.py` fails if there are any.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

TRANSCRIPTS = frozenset(("console", "text"))
"""What a terminal or an HTTP client shows."""

DATA = frozenset(
    (
        *("csv", "json", "jsonl", "toml", "yaml", "ini", "html", "nginx", "haproxy"),
        *("http", "promql", "rules", "errors", "responses"),
    )
)
"""Formats of files, HTTP messages, and the project's own languages, whose blocks have tests of their own."""

_FENCE = re.compile(
    r"^(?:(?:<!-- *(?P<note>[^\n]*?) *-->|% *(?P<comment>[^\n]*?))\n)?"
    r"(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN = re.compile(r"not run: \S.*")


class Fence(NamedTuple):
    """A block: its language and the comment before it (empty if there is none), its text, and the number of its first line."""

    language: str
    text: str
    note: str
    line: int

    @property
    def is_directive(self) -> bool:
        """`{include}` and the like are not shown but carried out."""
        return self.language.startswith("{") and not self.language.startswith("{code-block}")

    @property
    def is_marked_not_run(self) -> bool:
        return _NOT_RUN.fullmatch(self.note) is not None


def fences(document: str) -> list[Fence]:
    """The blocks of a document in order."""
    return [
        Fence(
            found["language"].strip(), found["text"], found["note"] or found["comment"] or "",
            document.count("\n", 0, found.start("ticks")) + 1,
        )
        for found in _FENCE.finditer(document)
    ]  # fmt: skip


def pages_run_by_tests() -> set[Path]:
    """The pages in the lists `PAGES` of the test modules, relative to docs/."""
    found = set()
    for module in sorted((ROOT / "tests").rglob("test_*.py")):
        for statement in ast.parse(module.read_text()).body:
            if isinstance(statement, ast.Assign) and any(getattr(each, "id", "") == "PAGES" for each in statement.targets):
                found.update(DOCS / page for page in ast.literal_eval(statement.value))
    return found


def unaccounted(document: Path, run: set[Path]) -> Iterator[str]:
    """`line: language` of each block of which it is unknown what it is or who runs it. `run` are the pages that tests run."""
    for fence in fences(document.read_text()):
        if fence.is_directive or fence.language in TRANSCRIPTS | DATA:
            continue
        if not fence.language or not (fence.is_marked_not_run or document in run):
            yield f"{fence.line}: {fence.language or 'no language'}"


def documents() -> list[Path]:
    """The pages of the site, and what they include or a newcomer reads first."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("deploy/*.md"), *DOCS.rglob("*.md")])


def _label(document: Path) -> None:
    text = document.read_text()
    lines = text.splitlines(keepends=True)
    for fence in fences(text):
        if not fence.language:
            lines[fence.line - 1] = lines[fence.line - 1].rstrip("\n") + "text\n"
    document.write_text("".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--label", action="store_true", help="mark blocks without a language as text")
    label = parser.parse_args().label
    known = pages_run_by_tests()
    for each in documents():
        if label:
            _label(each)
        for problem in unaccounted(each, known):
            print(f"{each.relative_to(ROOT)}:{problem}")
