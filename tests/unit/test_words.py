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
_SUFFIXES = frozenset((".c", ".h", ".md", ".pxd", ".py", ".pyi", ".pyx", ".sql", ".yaml"))
_FOLDERS = ("src", "docs", "tests")

PENDING: frozenset[str] = frozenset(
    (
        "README.md",
        "docs/api.md",
        "docs/audit.md",
        "docs/chips.md",
        "docs/import.md",
        "docs/keys.md",
        "docs/management.md",
        "src/ixfast/chips/originality.py",
        "src/ixfast/http/v2_scans.py",
        "src/ixfast/native/aes128.h",
        "src/ixfast/process/worker.py",
        "src/ixfast/store/catalogue/change_follower.py",
        "src/ixfast/store/connections/fitness.py",
        "src/ixfast/store/ledger/committer.py",
        "src/ixfast/store/ledger/ledger.py",
        "src/ixfast/testing/memory.py",
        "src/ixfast/testing/virtual_tags.py",
        "tests/acceptance/test_balancers.py",
        "tests/acceptance/test_canaries.py",
        "tests/acceptance/test_change_latency.py",
        "tests/acceptance/test_code_or_mirror.py",
        "tests/acceptance/test_compatible_client.py",
        "tests/acceptance/test_cross_origin.py",
        "tests/acceptance/test_description.py",
        "tests/acceptance/test_drain.py",
        "tests/acceptance/test_failover.py",
        "tests/acceptance/test_framing.py",
        "tests/acceptance/test_idempotent_answers.py",
        "tests/acceptance/test_import.py",
        "tests/acceptance/test_isolation_of_secrets.py",
        "tests/acceptance/test_key_custody.py",
        "tests/acceptance/test_malformed.py",
        "tests/acceptance/test_rate_limits.py",
        "tests/acceptance/test_readiness.py",
        "tests/acceptance/test_repeated_errors.py",
        "tests/acceptance/test_same_tap.py",
        "tests/acceptance/test_serve.py",
        "tests/acceptance/test_stepped_clocks.py",
        "tests/acceptance/test_tls.py",
        "tests/acceptance/test_visitors_file.py",
        "tests/acceptance/test_who_may_ask.py",
        "tests/fresh_machine.py",
        "tests/fuzz/parser_targets.py",
        "tests/integration/test_catalogue.py",
        "tests/integration/test_derived_groups.py",
        "tests/integration/test_durability.py",
        "tests/integration/test_embedded.py",
        "tests/integration/test_enrolled_tags.py",
        "tests/integration/test_history.py",
        "tests/integration/test_importer.py",
        "tests/integration/test_key_providers.py",
        "tests/integration/test_key_reloader.py",
        "tests/integration/test_ledger_concurrency.py",
        "tests/integration/test_ledger_faults.py",
        "tests/integration/test_management.py",
        "tests/integration/test_management_files.py",
        "tests/integration/test_management_history.py",
        "tests/integration/test_management_keys.py",
        "tests/integration/test_management_master_keys.py",
        "tests/integration/test_management_roles.py",
        "tests/integration/test_originality_registered.py",
        "tests/integration/test_response_set.py",
        "tests/integration/test_same_work.py",
        "tests/native/constant_time.c",
        "tests/openapi_document.py",
        "tests/simulation/__init__.py",
        "tests/simulation/callers.py",
        "tests/simulation/judge.py",
        "tests/simulation/loop.py",
        "tests/simulation/network.py",
        "tests/simulation/operations.py",
        "tests/simulation/run.py",
        "tests/simulation/tables.py",
        "tests/simulation/test_simulation.py",
        "tests/simulation/worker.py",
        "tests/support/key_services.py",
        "tests/support/linearizability.py",
        "tests/support/malformed.py",
        "tests/support/served.py",
        "tests/support/two_ways.py",
        "tests/unit/test_admission.py",
        "tests/unit/test_audit_columns.py",
        "tests/unit/test_audit_command.py",
        "tests/unit/test_auditor.py",
        "tests/unit/test_change_follower.py",
        "tests/unit/test_db_errors.py",
        "tests/unit/test_decision.py",
        "tests/unit/test_detect.py",
        "tests/unit/test_engine.py",
        "tests/unit/test_experiments.py",
        "tests/unit/test_keys.py",
        "tests/unit/test_linearizability.py",
        "tests/unit/test_ntag22x.py",
        "tests/unit/test_originality.py",
        "tests/unit/test_refusal_log.py",
        "tests/unit/test_round_trips.py",
        "tests/unit/test_simulate.py",
        "tests/unit/test_state_reader.py",
        "tests/unit/test_tag_files.py",
        "tests/vectors/test_lrp_vectors.py",
        "tests/vectors/test_other_vectors.py",
    )
)
"""Files that are still to be rewritten."""


def files() -> Iterator[str]:
    """Every file of text, relative to the root; C that Cython has written is none of ours."""
    yield "README.md"
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


@pytest.mark.parametrize("file", sorted(set(files()) - PENDING))
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
