"""Test your own program with simulated tags, under pytest: no chip, no phone, no server.

    python -m pytest examples/test_my_integration.py

The program under test is sqlite_replay_check.py; put yours in its place. A `VirtualTag` produces the URLs that a phone would
open.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_replay_check import TapChecker

import ixfast
from ixfast.testing import VirtualFleet, VirtualTag

FLEET = VirtualFleet(1, 100, "encrypted", derivation=ixfast.derivation("boltcard"))  # the same tags and keys in every run


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[TapChecker]:
    keys = ixfast.TagKeys(master=FLEET.master, derivation="boltcard")
    checker = TapChecker(tmp_path / "taps.sqlite", "encrypted", keys)
    yield checker
    checker.close()


@pytest.fixture
def tag() -> VirtualTag:
    return FLEET[0]


def test_a_tap_passes_once(checker: TapChecker, tag: VirtualTag) -> None:
    url = tag.tap()
    assert [checker.decide(url), checker.decide(url)] == ["genuine", "replayed"]


def test_an_older_tap_does_not_pass_after_a_newer_one(checker: TapChecker, tag: VirtualTag) -> None:
    older, newer = tag.tap(), tag.tap()
    assert [checker.decide(newer), checker.decide(older)] == ["genuine", "replayed"]


def test_taps_that_nobody_opened_leave_a_gap(checker: TapChecker, tag: VirtualTag) -> None:
    assert checker.decide(tag.tap()) == "genuine"
    tag.counter += 10
    assert checker.decide(tag.tap()) == "genuine"


def test_every_tag_has_a_counter_of_its_own(checker: TapChecker) -> None:
    assert {checker.decide(tag.tap()) for tag in FLEET[:5]} == {"genuine"}


@pytest.mark.parametrize("kind", ["flipped_bit", "wrong_key"])
def test_a_forged_tap_does_not_pass(checker: TapChecker, tag: VirtualTag, kind: str) -> None:
    forged = tag.forged("wrong_key" if kind == "wrong_key" else "flipped_bit")
    assert checker.decide(forged) == "forged"
    assert checker.decide(tag.tap()) == "genuine"  # a forged tap with a high counter does not block the tag


def test_a_clone_with_a_key_of_its_own_does_not_pass(checker: TapChecker, tag: VirtualTag) -> None:
    clone = VirtualTag("encrypted", uid=tag.uid, file_key=bytes(16), meta_key=tag.meta_key)
    assert checker.decide(clone.tap()) == "forged"


def test_a_mangled_url_is_not_an_error(checker: TapChecker, tag: VirtualTag) -> None:
    assert checker.decide(tag.tap()[:-1]) == "malformed"
    assert checker.decide("https://shop.example/") == "malformed"
    assert checker.decide(tag.tap().lower()) == "genuine"  # some chat programs lower-case links
