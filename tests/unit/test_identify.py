"""Whose tap an encrypted mirror is, without any id in it: found by its decrypted UID, with the same work whatever matches."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from ixfast.chips import Message, compile_profile, preset
from ixfast.chips.registry import find_scheme
from ixfast.domain import references
from ixfast.domain.model import EncodingProfile, Key
from ixfast.domain.records import Account, Group
from ixfast.domain.scan import Extras
from ixfast.errors import InputError
from ixfast.keys import DerivedKeys, check_value
from ixfast.keys.derived_keys import Master
from ixfast.keys.diversify import BoltCard
from ixfast.limits import ACCOUNTS_IN_PATH_MAX, META_KEYS_MAX
from ixfast.pipeline.identify import account_in_path, identify
from ixfast.responses.response_set import BUILT_IN
from ixfast.testing.virtual_tags import VirtualTag

UID = bytes.fromhex("04A1B2C3D4E5F6")
FILE_KEY = bytes(range(16))
STRANGERS = [bytes([200 + n]) * 16 for n in range(8)]  # a wrong meta key reads something about once in 85 times
MASTERS = [bytes([n]) * 16 for n in (101, 102)]


def key(version: int, value: bytes) -> Key:
    return Key(version, value, check_value(value))


class CountingScheme:
    """The real scheme; counts what is decrypted under which key."""

    def __init__(self, name: str) -> None:
        self._real = find_scheme(name)
        self.read: Counter[bytes] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def read_picc(self, meta_key: bytes, picc: bytes) -> Any:
        self.read[meta_key] += 1
        return self._real.read_picc(meta_key, picc)


class OneAccount:
    """An account with stored meta keys, and a group whose meta keys are derived, of one profile."""

    def __init__(self, stored: int = 14) -> None:
        self.scheme = CountingScheme("ntag424-aes")
        profile = compile_profile(preset("encrypted"), scheme=self.scheme)  # type: ignore[arg-type]
        keys = tuple(key(n, bytes([n]) * 16) for n in range(stored, 0, -1))
        self.own = Account(1, "acme", "acme", is_open=True, active=True, cors=True, meta_keys=keys)
        derived = DerivedKeys([Master(BoltCard(), key(n, value)) for n, value in enumerate(MASTERS, start=1)])
        more: dict[str, Any] = {
            "folder_name": "F",
            "folder_active": True,
            "active": True,
            "profile": profile,
            "response_set": BUILT_IN,
        }
        self.groups = [
            Group(1, "A", self.own, **more),
            Group(2, "B", self.own, derived=derived, **more),
            Group(3, "C", self.own, **more),
        ]
        assert derived.meta_keys is not None
        self.meta_keys = [each.value for each in (*keys, *derived.meta_keys)]

    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None:
        return (self.own, self.groups) if aid == "acme" else None

    def find(self, extras: Extras, aid: str = "acme") -> list[bytes]:
        self.scheme.read.clear()
        return asyncio.run(identify(self, aid, extras, is_owner=False))


def with_groups(*templates: str, stored: int = 14) -> OneAccount:
    """An account whose groups have a profile of each of these templates; `stored` is the number of its own meta keys."""
    account = OneAccount(stored)
    more: dict[str, Any] = {"folder_name": "F", "folder_active": True, "active": True, "response_set": BUILT_IN}
    account.groups = [
        Group(
            at,
            f"G{at}",
            account.own,
            profile=compile_profile(EncodingProfile(name=f"p{at}", scheme="ntag424-aes", template=template)),
            **more,
        )
        for at, template in enumerate(templates)
    ]
    return account


def tap(meta_key: bytes) -> str:
    return VirtualTag("encrypted", xuid="q8w3sbcz", uid=UID, file_key=FILE_KEY, meta_key=meta_key).tap()


@pytest.fixture
def account() -> OneAccount:
    return OneAccount()


def test_every_meta_key_is_tried_once_whichever_matches(account: OneAccount) -> None:
    assert len(account.meta_keys) == META_KEYS_MAX
    once = Counter(account.meta_keys)
    for meta_key in account.meta_keys:
        for extras in (Extras(url=tap(meta_key)), Extras(parameters(tap(meta_key)))):
            assert references.by_uid("acme", UID) in account.find(extras)
            assert account.scheme.read == once
    account.find(Extras(url=tap(b"\xff" * 16)))  # none matches: as much work
    assert account.scheme.read == once


def test_the_examination_tries_every_key_too(account: OneAccount) -> None:
    group = account.groups[1]
    profile = group.profile
    assert profile is not None
    for meta_key in (*account.meta_keys, b"\xff" * 16):
        message = profile.read_url(tap(meta_key))
        assert isinstance(message, Message)
        account.scheme.read.clear()
        evidence = profile.examine(message, uid=UID, file_keys=(key(1, FILE_KEY),), meta_keys=group.meta_keys)
        assert evidence.authentic is (meta_key in account.meta_keys)
        assert account.scheme.read == Counter(account.meta_keys)


def test_stopping_at_the_first_match_would_be_seen(account: OneAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control of the two above."""
    profile = account.groups[0].profile
    assert profile is not None

    def lazy(self: Any, message: Message, meta_keys: tuple[Key, ...]) -> list[Any]:
        for each in meta_keys:
            picc = self.scheme.read_picc(each.value, message.picc)
            if picc is not None:
                return [(picc, each)]
        return []

    monkeypatch.setattr(type(profile), "candidates", lazy)
    works = set()
    for meta_key in account.meta_keys:
        account.find(Extras(url=tap(meta_key)))
        works.add(sum(account.scheme.read.values()))
    assert len(works) > 1


def test_without_its_masters_a_group_offers_no_meta_key(account: OneAccount) -> None:
    group = account.groups[1]
    group.derived = DerivedKeys(None)
    assert group.meta_keys == () and account.groups[0].meta_keys == account.own.meta_keys


def test_another_account_has_no_such_tag(account: OneAccount) -> None:
    assert account.find(Extras(url=tap(account.meta_keys[0])), "other") == []
    assert not account.scheme.read


def test_what_looks_like_the_profile_and_is_malformed_is_told(account: OneAccount) -> None:
    with pytest.raises(InputError) as caught:
        account.find(Extras({"picc_data": "00", "cmac": "0" * 16}))
    assert caught.value.field == "picc_data" and not account.scheme.read


def test_a_mirror_that_no_meta_key_opens_is_unknown_whatever_other_profiles_there_are(account: OneAccount) -> None:
    stranger = next(url for url in map(tap, STRANGERS) if account.find(Extras(url=url)) == [])
    other = compile_profile(preset("lrp-encrypted"))
    with pytest.raises(InputError):  # the same name, but a longer mirror: to this profile alone the tap is malformed
        other.read_url(stranger)
    for at in (0, len(account.groups)):
        group = Group(4, "D", account.own, folder_name="F", folder_active=True, active=True, profile=other, response_set=BUILT_IN)
        account.groups.insert(at, group)
        assert account.find(Extras(url=stranger)) == []
        assert account.find(Extras(parameters(stranger))) == []
        del account.groups[at]
    account.groups = [group]
    with pytest.raises(InputError):
        account.find(Extras(url=stranger))


def parameters(url: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in url.partition("?")[2].split("&"))


def test_no_more_than_a_few_segments_are_looked_up() -> None:
    class Nobody:
        def __init__(self) -> None:
            self.asked: list[str] = []

        async def account(self, aid: str, *, is_owner: bool) -> None:
            assert not is_owner
            self.asked.append(aid)

    url = "https://tag.example/" + "/".join(f"a{n}" for n in range(100))
    nobody = Nobody()
    assert asyncio.run(account_in_path(nobody, url)) is None
    assert nobody.asked == [f"a{n}" for n in range(ACCOUNTS_IN_PATH_MAX)]


PROFILES = {
    "plain": "uid={uid}&ctr={counter}&cmac={mac}",
    "one field": "uid={uid}x{counter}x{mac}",
    "encrypted": "picc_data={picc}&cmac={mac}",
    "another name": "ctr={counter}&cmac={mac}&id={cuid}",
}


@pytest.mark.parametrize("others", [(), ("one field",), ("encrypted",), ("one field", "another name", "encrypted")])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_incomplete_tap_leads_to_its_tag_whatever_other_profiles_there_are(others: tuple[str, ...], reverse: bool) -> None:
    templates = [PROFILES[name] for name in ("plain", *others)]
    account = with_groups(*(templates[::-1] if reverse else templates))
    of_tag = references.by_uid("acme", UID)
    for query in ("uid=04A1B2C3D4E5F6&cmac=0000000000000000", "uid=04a1b2c3d4e5f6&ctr=000001", "uid=04A1B2C3D4E5F6"):
        assert account.find(Extras(url=f"https://h.example/?{query}")) == [of_tag]
        assert account.find(Extras(parameters(f"?{query}"))) == [of_tag]
    assert account.find(Extras(url="https://h.example/?ctr=000001")) == []
    with pytest.raises(InputError, match="The URL is escaped"):
        account.find(Extras(url="https://h.example/?uid=04A1B2C3D4E5F6&amp;ctr=000001&amp;cmac=0000000000000000"))


def test_a_mirror_without_a_mac_leads_to_its_tag() -> None:
    account = with_groups(PROFILES["plain"], PROFILES["encrypted"])
    url = tap(account.meta_keys[0])
    assert references.by_uid("acme", UID) in account.find(Extras(url=url))
    assert references.by_uid("acme", UID) in account.find(Extras(url=url.partition("&cmac=")[0]))


SHARED_NAME = ("uid={uid}x{counter}x{mac}", "uid={uid}&ctr={counter}&cmac={mac}")
WHOLE = "uid=04A1B2C3D4E5F6&ctr=000001&cmac=C49606EE6F334D39"


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        (f"{WHOLE}&cmac=0000000000000000", "cmac", "cmac appears twice."),
        (WHOLE[:-1], "cmac", "cmac must be 16 hex digits (it has 15 characters)."),
        (WHOLE.replace("000001", "1"), "ctr", "ctr must be 6 hex digits (it has 1 character)."),
        (
            WHOLE.lower().replace("000001", "00000g"),
            "ctr",
            "ctr must be 6 hex digits (it has 6 characters, some of which do not fit).",
        ),
        (
            "uid=04A1B2C3D4E5F6x000001xC49606EE6F334D3",
            "uid",
            "uid must be 14 hex digits then 'x' then 6 hex digits then 'x' then 16",
        ),
        (WHOLE.replace("&", "&amp;"), "url", "The URL is escaped"),
        (WHOLE.replace("=", "%3D").replace("&", "%26"), "url", "The URL is percent-encoded as a whole"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_complaint_is_that_of_the_profile_that_fits_best(query: str, field: str, message: str, reverse: bool) -> None:
    account = with_groups(*(SHARED_NAME[::-1] if reverse else SHARED_NAME), stored=0)
    assert account.find(Extras(url=f"https://h.example/?{WHOLE}")) == [references.by_uid("acme", UID)]
    with pytest.raises(InputError) as caught:
        account.find(Extras(url=f"https://h.example/?{query}"))
    assert caught.value.field == field and str(caught.value).startswith(message)
