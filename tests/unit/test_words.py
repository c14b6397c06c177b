"""Words that do not belong in this repository, each with what to write instead.

Some are renamed metaphors, which would lead a reader to look for a thing that does not exist. The others are constructions that
read like a translation. The patterns are few and have hardly any false positive; where one is right after all, rephrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BANNED = {
    # Metaphors that were renamed.
    r"\bdesks?\b": "dispatcher",
    r"\bhouses?\b": "server, server state, or what the fixture is",
    r"\boffices?\b": "management API, management dispatcher",
    r"\bshel(?:f|ves)\b": "folder",
    r"\brooms?\b(?! for)": "package, layer, capacity, space",
    r"\bcustodians?\b": "key reloader",
    r"\btroubles?\b": "error, failure, reason",
    r"\bway of (?:a|an|one|the) (?:scan|tap)\b|\bscan's way\b|\bshort way\b": "path of a scan, hot path",
    r"\b(?:ways?|both ways) in\b(?! which)": "endpoint, listener, path",
    # People.
    r"\b(?:he|him|his|himself)\b": "they, their, or repeat the noun",
    r"\bwhoever\b": "anyone who, callers who",
    r"(?:^|[.:;] |\"{3}|# |\*\*)Who (?:has|may|can|is|forgot|shows|holds|leaves)\b(?!.*\?)": "Callers who, anyone who",
    # Constructions.
    r"so[- ]many[- ]th\b": "every Nth",
    r"\b(?:in|after|within|for|of|but for) so many\b": "N, this many",
    r"\b(?:in|for) so long\b(?! as)": "for that long",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bha(?:s|ve) not (?:its|their|the)\b": "is malformed, lacks",
    r"\bhears?\b|\bheard\b": "gets, receives, notices",
    r"\btells\b(?! \w+ apart)|\btold\b": "reports, returns, logs, shows",
    r"(?<![Tt]here )\b(?:is|are) no (?!longer|more|less|need|one\b)\w": "is not a",
    r"\bmay be had\b": "is available",
    r"\bwhat stands\b": "the text, what precedes",
    r"\b(?:that|which) cannot be[.,;:)]": "invalid",
    r"\bfor ever\b": "forever",
    r"\bthe curious\b": "debugging",
}
"""Patterns, matched line by line without regard to case, and the replacement."""

_PATTERNS = [(re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in BANNED.items()]
_SUFFIXES = frozenset((".c", ".h", ".md", ".pxd", ".py", ".pyi", ".pyx", ".sql", ".yaml", ".yml"))
_ROOT_FILES = (".ci/run", ".dockerignore", ".pre-commit-config.yaml", "MANIFEST.in", "Makefile", "pyproject.toml", "setup.py")
_FOLDERS = ("src", "docs", "examples", "tests", "release", ".github")


def files() -> Iterator[str]:
    """Every file of text, relative to the root; C that Cython has written is none of ours."""
    yield from _ROOT_FILES
    yield from (path.name for path in ROOT.glob("*.md"))
    yield from (str(path.relative_to(ROOT)) for path in (ROOT / "deploy").iterdir() if path.is_file())
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            made = path.suffix == ".c" and any(path.with_suffix(suffix).exists() for suffix in (".py", ".pyx"))
            fixed = path.parent.name == "migrations"  # a released migration never changes
            if path.suffix in _SUFFIXES and not made and not fixed and path != Path(__file__):
                yield str(path.relative_to(ROOT))


def banned_words(text: str) -> list[str]:
    """Each finding as `line: word (write: replacement)`."""
    return [
        f"{number}: {found[0].strip()!r} (write: {replacement})"
        for number, line in enumerate(text.splitlines(), start=1)
        for pattern, replacement in _PATTERNS
        if (found := pattern.search(line)) is not None
    ]


@pytest.mark.parametrize("file", sorted(files()))
def test_no_banned_words(file: str) -> None:
    assert banned_words((ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "Of every so-many-th scan the time is measured.",
        "A parameter has not its form.",
        "**Who forgot his key therefore hears `not_found`.**",
        "what is no URL",
        "for whoever keeps tags",
        '"""Who may ask is decided elsewhere."""',
    ],
)
def test_a_banned_word_is_found(line: str) -> None:
    assert banned_words(line)


@pytest.mark.parametrize(
    "line", ["There is no such tag.", "Which of them is no longer used?", "# Who may ask?", "room for 64 scans"]
)
def test_plain_english_passes(line: str) -> None:
    assert banned_words(line) == []
