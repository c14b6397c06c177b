"""What a rotation does next, in every state of a key file and a database, and which servers stand in its way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ixfast.keys import key_file
from ixfast.keys.key_file import KeyFile
from ixfast.store.admin.rotation import Usage
from ixfast.store.admin.rotation_plan import Plan, Step, make_plan
from ixfast.store.key_holders import Holder, lacking, named, sealing

OLD, NEW, OTHER = (key_file.plain_line(bytes([number]) * 32) for number in (1, 2, 3))
ALL_OLD = {OLD.id: Usage(5, 1)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    key_file.create(tmp_path / "kek", OLD)
    return tmp_path / "kek"


def add(path: Path) -> None:
    key_file.edit(path, lambda file: file.with_line(NEW, current=False))


def make_current(path: Path, id_: str) -> None:
    key_file.edit(path, lambda file: file.with_current(id_))


def test_a_rotation_begins_with_a_new_key(path: Path) -> None:
    assert make_plan(KeyFile.read(path), ALL_OLD) == Plan(Step.ADD, None, 6)
    assert make_plan(KeyFile.read(path), {}) == Plan(Step.ADD, None, 0)


def test_a_key_that_was_added_comes_next(path: Path) -> None:
    add(path)
    assert make_plan(KeyFile.read(path), ALL_OLD) == Plan(Step.RESEAL, NEW.id, 6)
    assert make_plan(KeyFile.read(path), {}) == Plan(Step.RESEAL, NEW.id, 0)
    assert make_plan(KeyFile.read(path), ALL_OLD, new_key=True).step is Step.ADD
    assert make_plan(KeyFile.read(path), ALL_OLD, may_resume=False).step is Step.ADD


def test_an_incomplete_rotation_is_resumed(path: Path) -> None:
    add(path)
    make_current(path, NEW.id)
    half = {OLD.id: Usage(2, 1), NEW.id: Usage(3, 0)}
    assert make_plan(KeyFile.read(path), half) == Plan(Step.RESEAL, NEW.id, 3)
    assert make_plan(KeyFile.read(path), half, new_key=True) == Plan(Step.ADD, None, 6)


def test_a_complete_rotation_is_not_begun_again(path: Path) -> None:
    add(path)
    make_current(path, NEW.id)
    done = {NEW.id: Usage(5, 1)}
    assert make_plan(KeyFile.read(path), done) == Plan(Step.NOTHING, NEW.id, 0, (OLD.id,))
    key_file.edit(path, lambda file: file.without(OLD.id))
    assert make_plan(KeyFile.read(path), done) == Plan(Step.ADD, None, 6)


def test_retired_versions_under_a_lost_key_are_not_resealed(path: Path) -> None:
    add(path)
    make_current(path, NEW.id)
    done = {NEW.id: Usage(5, 1), OTHER.id: Usage(1, 1, retired=2)}
    assert make_plan(KeyFile.read(path), done) == Plan(Step.NOTHING, NEW.id, 0, (OLD.id,))
    half_live = {NEW.id: Usage(5, 1), OTHER.id: Usage(1, 1, retired=1)}
    assert make_plan(KeyFile.read(path), half_live) == Plan(Step.RESEAL, NEW.id, 2)
    in_file = {NEW.id: Usage(5, 1), OLD.id: Usage(1, 0, retired=1)}
    assert make_plan(KeyFile.read(path), in_file) == Plan(Step.RESEAL, NEW.id, 1)


def test_a_key_that_was_named_is_taken(path: Path) -> None:
    add(path)
    make_current(path, NEW.id)
    assert make_plan(KeyFile.read(path), {NEW.id: Usage(5, 1)}, target=OLD.id) == Plan(Step.RESEAL, OLD.id, 6)


def test_the_mark_of_the_next_key_ends_when_it_is_current_or_removed(path: Path) -> None:
    add(path)
    before = path.read_text()
    assert KeyFile.read(path).next_id == NEW.id
    make_current(path, OLD.id)  # it is already
    assert path.read_text() == before
    make_current(path, NEW.id)
    assert KeyFile.read(path).next_id is None
    assert "next" not in path.read_text()
    key_file.edit(path, lambda file: file.with_line(OTHER, current=False))
    assert KeyFile.read(path).next_id == OTHER.id
    key_file.edit(path, lambda file: file.without(OTHER.id))
    assert [line.id for line in KeyFile.read(path).lines] == [NEW.id, OLD.id]
    assert "next" not in path.read_text()


@pytest.mark.parametrize("tail", ["# next:", "# next:\n\n", "# next:\n# of 2027", f"# next:\n{OLD.text}"])
def test_a_mark_without_a_further_key_after_it_means_nothing(path: Path, tail: str) -> None:
    text = path.read_text()
    if OLD.text in tail:
        text = text.replace(OLD.text, "").rstrip("\n") + "\n"
    path.write_text(text + tail + "\n")
    assert KeyFile.read(path).next_id is None


def test_servers_are_named_by_host_and_file() -> None:
    holders = [
        Holder("a", "/etc/kek", 2, frozenset((OLD.id, NEW.id)), frozenset((NEW.id,))),
        Holder("b", "/etc/kek", 2, frozenset((OLD.id,)), frozenset((OLD.id,))),
        Holder("b", "/etc/kek", 1, frozenset(), frozenset()),
    ]
    assert named(lacking(holders, NEW.id)) == "b (/etc/kek)"
    assert lacking(holders[:1], NEW.id) == []
    assert sealing(holders, OLD.id) == holders[1:2]
