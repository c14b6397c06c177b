"""The checker itself, on handwritten histories: correct ones, and ones with every kind of fault."""

import pytest
from support.linearizability import Operation, violations


def operation(text: str) -> Operation:
    """Parse an operation: `5:0-2 passed` is position 5, from time 0 to 2."""
    tap, answer = text.split()
    position, times = tap.split(":")
    started, ended = times.split("-")
    return Operation(1, int(position), float(started), float(ended), answer)  # type: ignore[arg-type]


def check(history: str, final: int, logged: str) -> list[str]:
    operations = [operation(line.strip()) for line in history.split(",")]
    return violations(operations, {1: final}, [(1, int(position)) for position in logged.split()])


@pytest.mark.parametrize(
    ("history", "final", "logged"),
    [
        ("5:0-1 passed", 5, "5"),
        ("5:0-1 passed, 5:2-3 refused, 6:4-5 passed", 6, "5 6"),
        # Concurrent operations may take effect in any order.
        ("6:0-9 passed, 5:1-2 passed", 6, "5 6"),
        ("6:0-9 passed, 5:1-8 refused", 6, "6"),
        ("5:0-9 refused, 5:1-8 passed", 5, "5"),
        # An operation without an answer may have taken effect, possibly late, or not at all.
        ("5:0-1 unknown", 0, ""),
        ("5:0-1 unknown", 5, "5"),
        ("6:0-1 unknown, 5:2-3 refused", 6, "6"),
        ("6:0-1 unknown, 5:2-3 passed", 6, "5 6"),
    ],
)
def test_right_histories(history: str, final: int, logged: str) -> None:
    assert check(history, final, logged) == []


@pytest.mark.parametrize(
    ("history", "final", "logged", "words"),
    [
        ("5:0-1 passed, 5:2-3 passed", 5, "5", "position 5 passed 2 times"),
        ("5:0-9 passed, 5:1-8 passed", 5, "5 5", "position 5 is logged 2 times"),
        ("6:0-1 passed, 5:2-3 passed", 6, "5 6", "position 5 passed after 6 had passed"),
        ("7:0-1 passed, 3:0-1 passed, 6:2-3 passed", 7, "3 6 7", "position 6 passed after 7"),
        ("5:0-1 refused", 0, "", "position 5 was refused without a proof"),
        ("5:0-1 refused, 6:2-3 passed", 6, "6", "position 5 was refused without a proof"),
        ("5:0-1 passed, 6:2-3 refused", 5, "5", "position 6 was refused without a proof"),
        ("6:0-1 unknown, 5:2-3 refused", 0, "", "position 5 was refused without a proof"),
        ("5:0-1 passed", 5, "", "[5] passed without a log row"),
        ("5:0-1 passed", 5, "5 4", "[4] are logged, but nobody passed"),
        ("5:0-1 passed, 6:2-3 passed", 5, "5 6", "the durable position is 5, the highest that passed 6"),
        ("5:0-1 passed", 0, "5", "the durable position is 0"),
    ],
)
def test_wrong_histories(history: str, final: int, logged: str, words: str) -> None:
    assert any(words in violation for violation in check(history, final, logged))


def test_tags_do_not_vouch_for_each_other() -> None:
    history = [Operation(1, 5, 0, 1, "passed"), Operation(2, 5, 2, 3, "refused")]
    assert violations(history, {1: 5}, [(1, 5)]) == ["tag 2: position 5 was refused without a proof"]
