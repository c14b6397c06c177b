"""The letters of the scan log: one for each logged verdict, the same in the SQL, the schema and the management API."""

import re

from ixfast.domain.model import Verdict
from ixfast.http.openapi.document import description
from ixfast.store.admin.scan_log import WORDS, verdict_of
from ixfast.store.queries import load, sql_folder
from ixfast.store.verdict_letters import LETTERS, PASS_LETTERS, VERDICTS


def test_every_verdict_has_a_letter_of_its_own() -> None:
    assert set(LETTERS) == set(Verdict)
    assert len(VERDICTS) == len(LETTERS)
    assert all(len(letter) == 1 and VERDICTS[letter] is verdict for verdict, letter in LETTERS.items())


def test_the_ledger_statement_writes_the_letters_of_passes_alone() -> None:
    for name in ("advance", "advance_keyed", "advance_unheld"):
        assert set(re.findall(r"'([a-z])'", load("ledger")[name])) == PASS_LETTERS, name
    assert set(re.findall(r"'([a-z])'", load("ledger")["logged"])) == PASS_LETTERS


def test_the_schema_lists_the_letters() -> None:
    (line,) = re.findall(r"^-- verdict: (.*)\.$", (sql_folder() / "schema.sql").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"\b([a-z]) [a-z]+", line)) >= set(VERDICTS)


def test_management_shows_the_words_of_the_log() -> None:
    parameters = description()["paths"]["/v2/scans"]["get"]["parameters"]
    (shown,) = (each["schema"]["items"]["enum"] for each in parameters if each["name"] == "verdict")
    assert set(shown) == set(WORDS.values())
    assert {verdict_of(letter) for letter in VERDICTS} == {verdict_of(letter.encode()) for letter in VERDICTS} == set(shown)
