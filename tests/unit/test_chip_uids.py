"""UIDs whose bytes are in reverse order are noticed wherever one is given, in the same words, and no other UID is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import ixfast
from ixfast.cli.main import main
from ixfast.domain import chip_uids
from ixfast.domain.chip_uids import REVERSED_UID, is_reversed, refuse_reversed_uid, uid_problem
from ixfast.errors import InputError
from ixfast.tag_files.problems import PROBLEMS
from ixfast.testing import VirtualTag

KEY = bytes(range(16))
REVERSED = "F6E5D4C3B2A104"
TAG = VirtualTag("ixkio-plain", xuid="q8w3sbcz", file_key=KEY)
# Of another manufacturer; of NXP, and a palindrome of sorts; with 04 in the middle; nothing but ones.
OTHERS = ("05A1B2C3D4E5F6", "04A1B2C3D4E504", "F6E5D4041BA1C2", "02000000000000", "FFFFFFFFFFFFFF")


@given(st.binary(min_size=7, max_size=7))
def test_only_what_is_an_nxp_uid_when_reversed_is_refused(uid: bytes) -> None:
    expected = uid[0] != 0x04 and uid[::-1][0] == 0x04
    assert (uid_problem(uid) == "uid_reversed") is expected
    if not expected:
        refuse_reversed_uid(uid, "uid")


@pytest.mark.parametrize("text", OTHERS)
def test_a_uid_of_any_other_look_is_accepted(text: str) -> None:
    refuse_reversed_uid(bytes.fromhex(text), "uid")
    assert not is_reversed(bytes.fromhex(text))


CALLS: dict[str, Callable[..., object]] = {
    "derive_keys": lambda uid, **more: ixfast.derive_keys(KEY, uid, "an10922", **more),
    "verify": lambda uid, **more: ixfast.verify(TAG.tap(), profile="ixkio-plain", keys=KEY, uid=uid, **more),
    "explain": lambda uid, **more: ixfast.explain(TAG.tap(), profile="ixkio-plain", keys=KEY, uid=uid, **more),
    "detect_profile": lambda uid, **more: ixfast.detect_profile([TAG.tap()], uids=[uid], **more),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("uid", [REVERSED, bytes.fromhex(REVERSED), "00000000000004", REVERSED.lower()])
def test_the_python_api_refuses_a_reversed_uid_unless_it_is_allowed(name: str, uid: str | bytes) -> None:
    with pytest.raises(InputError) as caught:
        CALLS[name](uid)
    assert (caught.value.code, caught.value.field) == ("uid_reversed", "uids" if name == "detect_profile" else "uid")
    assert str(caught.value) == (
        f"{REVERSED_UID} Write them in the order in which the chip sends them, or allow such UIDs (allow_any_uid=True)."
    )
    CALLS[name](uid, allow_any_uid=True)
    for other in OTHERS:
        CALLS[name](other)


def test_detection_refuses_a_reversed_uid_unless_it_is_allowed() -> None:
    command = ["profile", "detect", TAG.tap(), "--key", KEY.hex(), "--uid", REVERSED]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == (
        f"Error: --uid: {REVERSED_UID} Write them in the order in which the chip sends them, or allow such UIDs "
        "(--allow-any-uid)."
    )
    assert CliRunner().invoke(main, [*command, "--allow-any-uid"]).exit_code == 0


def test_an_import_uses_the_same_words() -> None:
    fault, remedy = PROBLEMS["uid_reversed"]
    assert fault == REVERSED_UID
    assert remedy.startswith("Write them in the order in which the chip sends them, or allow such UIDs (")


def test_control_without_the_check_a_reversed_uid_derives_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip_uids, "uid_problem", lambda _uid: None)
    right = ixfast.derive_keys(KEY, bytes.fromhex(REVERSED)[::-1], "an10922")
    assert ixfast.derive_keys(KEY, REVERSED, "an10922").file_key != right.file_key
