"""What is said of a tap that was cut: the same with other profiles in the account as without them, wherever that can be known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from ixfast.audit.findings import MALFORMED
from ixfast.audit.judge import judge
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import compile_profile
from ixfast.chips.complaints import malformed
from ixfast.chips.presets import PRESETS
from ixfast.domain.model import EncodingProfile
from ixfast.domain.records import Account, Group
from ixfast.domain.scan import Extras
from ixfast.errors import InputError
from ixfast.pipeline.identify import identify
from ixfast.responses.response_set import BUILT_IN
from ixfast.testing.virtual_tags import VirtualTag


def own(template: str) -> EncodingProfile:
    without = "{counter}" not in template and "{picc}" not in template
    return EncodingProfile(name=template, scheme="ntag424-aes", template=template, allow_without_counter=without)


TEMPLATES = [
    "cmac={mac}&uid={uid}", "uid={uid}&cmac={mac}&ctr={cuid}", "m={uid}&cmac={mac}", "m={uid}x{counter}&cmac={mac}&s={cuid}",
    "picc_data={picc}&cmac={mac}&enc={xuid}", "u={uid}&n={counter}&m={mac}&cmac={xuid}", "/dna/{uid}/{counter}/{mac}",
]  # fmt: skip
PROFILES = [*PRESETS.values(), *map(own, TEMPLATES)]


class Groups:
    """An account with a group for each of some profiles, and no tags."""

    def __init__(self, *profiles: EncodingProfile) -> None:
        self.account_ = Account(1, "acme", "acme", is_open=True, active=True, cors=True, meta_keys=())
        more: dict[str, Any] = {"folder_name": "F", "folder_active": True, "active": True, "response_set": BUILT_IN}
        self.groups = [Group(at, "G", self.account_, profile=compile_profile(each), **more) for at, each in enumerate(profiles)]

    async def account(self, aid: str, *, is_owner: bool) -> Any:
        return self.account_, self.groups

    async def batch_meta_keys(self, account_id: int, name: str) -> Any:
        return ()

    def complaint(self, url: str) -> InputError | None:
        try:
            asyncio.run(identify(self, "acme", Extras(url=url), is_owner=True))
        except InputError as error:
            return error
        return None

    def audit(self, url: str) -> str | None:
        catalogue = TagCatalogue()
        for at, group in enumerate(self.groups):
            catalogue.add(f"other{at}", group.profile, uid=bytes([4, *[at] * 6]), keys=())  # type: ignore[arg-type]
        finding = judge(catalogue, url)
        return finding.problem if finding.code == MALFORMED else None


def cuts(url: str) -> Iterator[str]:
    """The URL without the last one or two characters of each parameter, or of the last two segments."""
    mark = "&" if "?" in url else "/"
    head, _, tail = url.partition("?") if "?" in url else (url[: url.rindex("/t/") + 2], "", url[url.rindex("/t/") + 3 :])
    pieces = tail.split(mark)
    for at, piece in enumerate(pieces):
        if len(piece.rpartition("=")[2]) > 5:
            for count in (1, 2):
                yield head + ("?" if mark == "&" else "/") + mark.join([*pieces[:at], piece[:-count], *pieces[at + 1 :]])


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_other_profiles_do_not_change_what_is_said_of_a_cut_tap(profile: EncodingProfile) -> None:
    url = VirtualTag(profile, uid="04a1b2c3d4e5f6", cuid="SN-1").tap_at(5)
    complained = 0
    for cut in cuts(url):
        alone = Groups(profile).complaint(cut)
        if alone is None:  # a text of the owner's, which may have any length
            continue
        complained += 1
        by_code = "{xuid}" in profile.template  # audits look for no other tag than that of the code
        assert by_code or Groups(profile).audit(cut) == str(alone).removesuffix(".")
        for other in PROFILES:
            whole = Groups(other)
            if whole.complaint(cut) is None and reads(other, cut):
                continue  # it is a whole tap of the other profile
            for both in permutations((profile, other)):
                error = Groups(*both).complaint(cut)
                assert error is not None and str(error) == str(alone), (cut, other.name)
                assert by_code or Groups(*both).audit(cut) == str(alone).removesuffix("."), (cut, other.name)
    assert complained > 0


def reads(profile: EncodingProfile, url: str) -> bool:
    """Whether a profile reads a tap, and its name, from the URL."""
    message: Any = compile_profile(profile).read_url(url)
    return bool(message) and (message.uid or message.xuid or message.cuid or message.picc) is not None


def test_an_incomplete_tap_of_the_best_profile_is_not_malformed() -> None:
    profiles = [own("uid={uid}&ctr={counter}&cmac={mac}"), own("d={uid}{counter}{mac}")]
    url = "https://h.example/?d=5&uid=04A1B2C3D4E5F6&ctr=000001"
    for both in permutations(profiles):
        assert Groups(*both).complaint(url) is None
    assert malformed([], {}, url) is None


def test_an_unrelated_path_is_not_a_cut_tap() -> None:
    groups = Groups(PRESETS["path"], PRESETS["encrypted"])
    for path in ("/products/shoes", "/feed/cafe", "/t", "/", "/t/04A1B2C3D4E5F6"):
        assert groups.complaint(f"https://h.example{path}") is None
