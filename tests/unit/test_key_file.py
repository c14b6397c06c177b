"""The key file: its lines, and that it is replaced as a whole or not at all."""

import base64
import contextlib
import os
import secrets
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ixfast.cli.database import CommandEnvironment
from ixfast.config.settings_loader import load
from ixfast.keys import KekFileError, KeyEncryptionKeys, KeyUnavailableError, UnknownKekError, key_file
from ixfast.keys.kek import KEKS_MAX, KeyEncryptionKey, kek_id
from ixfast.keys.key_file import KeyFile, KeyLine, plain_line, signature_of

HEADER = "ixfast-key-encryption-keys 1"
SEALED = KeyLine("0123456789abcdef", "aws-kms", "arn:aws:kms:eu-central-1:111122223333:key/k", b"sealed by a service")


STRANGER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@contextlib.contextmanager
def as_a_stranger() -> Iterator[None]:
    os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(0)


def new_line() -> KeyLine:
    return plain_line(secrets.token_bytes(32))


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    key_file.create(tmp_path / "kek", new_line())
    return tmp_path / "kek"


def ids(path: Path) -> list[str]:
    return [line.id for line in KeyFile.read(path).lines]


def test_a_sealed_line_is_read_as_it_was_written(path: Path) -> None:
    key_file.edit(path, lambda file: file.with_line(SEALED, current=True))
    line = KeyFile.read(path).lines[0]
    assert (line.id, line.provider, line.reference, line.sealed) == (
        SEALED.id,
        SEALED.provider,
        SEALED.reference,
        SEALED.sealed,
    )
    assert path.read_text().splitlines()[2] == SEALED.text


def test_a_plain_line_is_never_shown() -> None:
    key32 = secrets.token_bytes(32)
    line = plain_line(key32)
    for text in (repr(line), str(line), repr([line])):
        assert base64.b64encode(key32).decode() not in text
        assert repr(key32)[2:-1] not in text
    assert line.id == kek_id(key32)


@pytest.mark.parametrize(
    "line",
    [
        "0123456789abcdef aws-kms arn",
        "0123456789abcdef aws-kms arn =",
        "0123456789abcdef aws-kms arn AAAA more",
        "0123456789ABCDEF aws-kms arn AAAA",
        "0123456789abcde aws-kms arn AAAA",
        "0123456789abcdef Aws arn AAAA",
        "0123456789abcdef file - AAAA",
        "0123456789abcdef AAAA",
    ],
)
def test_a_line_that_is_none_is_refused_by_its_number(path: Path, line: str) -> None:
    with pytest.raises(KekFileError, match="line 3: must be an id"):
        KeyFile.read(write(path, [HEADER, SEALED.text, line]))


def test_edits_keep_comments_and_the_order_of_the_rest(path: Path) -> None:
    first = ids(path)[0]
    write(path, [*path.read_text().splitlines(), "", "# made in spring"])
    second, third = new_line(), new_line()
    key_file.edit(path, lambda file: file.with_line(second, current=True))
    key_file.edit(path, lambda file: file.with_line(third, current=False))
    assert ids(path) == [second.id, first, third.id]
    key_file.edit(path, lambda file: file.with_current(third.id))
    assert ids(path) == [third.id, second.id, first]
    key_file.edit(path, lambda file: file.with_current(third.id))
    assert ids(path) == [third.id, second.id, first]
    key_file.edit(path, lambda file: file.without(second.id))
    assert ids(path) == [third.id, first]
    assert "# made in spring" in path.read_text()
    assert path.read_text().startswith(HEADER + "\n# Anyone")


def test_what_cannot_be_edited_leaves_the_file(path: Path) -> None:
    before = path.read_bytes()
    first = KeyFile.read(path).lines[0]
    for change, words in (
        (lambda file: file.without(first.id), "is the current key"),
        (lambda file: file.without("0" * 16), "has no key 0000"),
        (lambda file: file.with_current("0" * 16), "has no key 0000"),
        (lambda file: file.with_line(first, current=False), "is listed twice"),
        (lambda file: [HEADER], "no key-encryption key"),
    ):
        with pytest.raises(KekFileError, match=words):
            key_file.edit(path, change)
        assert path.read_bytes() == before


def test_too_many_keys(path: Path) -> None:
    for _ in range(KEKS_MAX - 1):
        key_file.edit(path, lambda file: file.with_line(new_line(), current=False))
    with pytest.raises(KekFileError, match="at most"):
        key_file.edit(path, lambda file: file.with_line(new_line(), current=False))
    assert len(ids(path)) == KEKS_MAX


def test_a_replaced_file_is_private_and_what_a_killed_edit_left_is_gone(path: Path) -> None:
    leftover = path.with_name(".kek.new")
    leftover.write_text("half a key")
    before = os.umask(0)
    try:
        key_file.edit(path, lambda file: file.with_line(new_line(), current=True))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(path.parent.iterdir()) == [path]


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    key_file.edit(tmp_path / "link", lambda file: file.with_line(SEALED, current=True))
    assert (tmp_path / "link").is_symlink()
    assert ids(path)[0] == SEALED.id


def test_a_full_disk_leaves_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(KekFileError, match="No space"):
        key_file.edit(path, lambda file: file.with_line(SEALED, current=True))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@needs_root
def test_another_users_file_is_refused_to_root_too(path: Path) -> None:
    os.chown(path, STRANGER, -1)
    before = path.read_bytes()
    with pytest.raises(KekFileError) as caught:
        KeyFile.read(path)
    message = str(caught.value)
    assert message.startswith(f"The key file {path} belongs to user ") and f"({STRANGER})" in message
    assert message.endswith(f"Run it as the file's owner, or change the owner with: chown 0 {path}")
    assert "\n" not in message
    with pytest.raises(KekFileError, match="belongs to"):
        key_file.edit(path, lambda file: file.with_line(new_line(), current=True))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    os.chown(path, 0, -1)
    assert len(ids(path)) == 1


@needs_root
def test_a_file_that_only_its_owner_can_open_says_whose_it_is() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        key_file.create(Path(folder) / "kek", new_line())
        with (
            as_a_stranger(),
            pytest.raises(KekFileError, match=rf"belongs to user root \(0\), .*: chown {STRANGER} {folder}/kek"),
        ):
            KeyFile.read(Path(folder) / "kek")


@needs_root
def test_a_file_in_a_folder_that_nobody_else_may_look_into_is_refused_in_one_line() -> None:
    with tempfile.TemporaryDirectory() as folder:
        key_file.create(Path(folder) / "kek", new_line())
        place = CommandEnvironment(load({"kek_file": f"{folder}/kek"}, {}))
        for read in (lambda: KeyFile.read(place.kek_file), place.check_key_file):
            with as_a_stranger(), pytest.raises(KekFileError, match=r"Cannot open the key file .*: Permission denied"):
                read()


def test_edits_at_once_are_all_kept(path: Path) -> None:
    lines = [new_line() for _ in range(8)]

    def add(line: KeyLine) -> None:
        key_file.edit(path, lambda file: file.with_line(line, current=False))

    threads = [threading.Thread(target=add, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ids(path)[1:]) == {line.id for line in lines}


def test_a_signature_tells_a_file_from_its_successor(path: Path) -> None:
    before = signature_of(path)
    assert before is not None and before == signature_of(path) == KeyFile.read(path).signature
    key_file.edit(path, lambda file: file.with_line(SEALED, current=True))
    assert signature_of(path) not in (None, before)
    path.unlink()
    assert signature_of(path) is None


# Keys of which some are not open.


def test_a_missing_key_concerns_only_itself() -> None:
    old, new = KeyEncryptionKey(secrets.token_bytes(32)), KeyEncryptionKey(secrets.token_bytes(32))
    held = KeyEncryptionKeys([old])
    held.adopt([new.id, old.id], {old.id: old}, {new.id: "the service is asleep"})
    assert not held.complete
    assert held.ids == (old.id,)
    assert held.by_id(old.id) is old
    for failure in (lambda: held.current, lambda: held.by_id(new.id)):
        with pytest.raises(KeyUnavailableError, match=f"{new.id} is not open: the service is asleep") as caught:
            failure()
        assert not isinstance(caught.value, UnknownKekError)
    with pytest.raises(UnknownKekError, match="not in the key file"):
        held.by_id("0" * 16)
    held.adopt([new.id, old.id], {old.id: old, new.id: new})
    assert held.complete
    assert held.current is new


async def test_keys_that_were_never_read_open_nothing_and_say_so() -> None:
    looks = []

    async def look() -> None:
        looks.append(1)

    held = KeyEncryptionKeys.none_yet(look)
    assert not held.complete
    with pytest.raises(KeyUnavailableError, match="not been read yet"):
        _ = held.current
    with pytest.raises(UnknownKekError):
        held.by_id("0" * 16)
    await held.look_for([])
    assert not looks
    await held.look_for(["0" * 16])
    assert looks
