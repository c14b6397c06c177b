"""Warnings about imports whose meta keys no tap of the group leads to."""

from __future__ import annotations

import pytest

from ixfast.chips import compile_profile
from ixfast.domain.model import EncodingProfile
from ixfast.store.imports.profile_warnings import named_template, profile_warnings


def profile_of(template: str) -> EncodingProfile:
    profile = EncodingProfile(name="own", scheme="ntag424-aes", template=template)
    compile_profile(profile)
    return profile


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("p={picc}&c={mac}", "/{xuid}?p={picc}&c={mac}"),
        ("/card?p={picc}&c={mac}", "/card/{xuid}?p={picc}&c={mac}"),
        ("/t/{picc}/{mac}", "/{xuid}/t/{picc}/{mac}"),
        ("p={picc}&b={aid}&c={mac}", "/{xuid}?p={picc}&b={aid}&c={mac}"),
    ],
)
def test_a_template_without_the_tag_is_warned_about_with_one_that_names_it(template: str, named: str) -> None:
    profile = profile_of(template)
    for owner in ("tag", "batch"):
        added = {"account": 0, "batch": 0, "tag": 0} | {owner: 20}
        (warning,) = profile_warnings(profile, added)
        assert f"such as {named}, and" in warning and ("{batch}" in warning) is (owner == "batch")
    assert named_template(profile) == named
    assert profile_warnings(profile_of(named), {"account": 0, "batch": 0, "tag": 20}) == []


@pytest.mark.parametrize(
    ("template", "added"),
    [
        ("p={picc}&c={mac}", {"account": 16, "batch": 0, "tag": 0}),
        ("p={picc}&c={mac}", {"account": 0, "batch": 0, "tag": 0}),
        ("/{cuid}?p={picc}&c={mac}", {"account": 0, "batch": 0, "tag": 1}),
        ("/{batch}?p={picc}&c={mac}", {"account": 0, "batch": 1, "tag": 0}),
        ("u={uid}&n={counter}&e={mac}", {"account": 0, "batch": 0, "tag": 1}),
    ],
)
def test_no_warning_where_taps_lead_to_the_meta_keys(template: str, added: dict[str, int]) -> None:
    assert profile_warnings(profile_of(template), added) == []


def test_a_batch_in_the_url_does_not_lead_to_the_meta_keys_of_tags() -> None:
    (warning,) = profile_warnings(profile_of("/{batch}?p={picc}&c={mac}"), {"account": 0, "batch": 0, "tag": 20})
    assert "has no {xuid} or {cuid}." in warning


def test_a_group_of_standard_tags_has_no_warning() -> None:
    assert profile_warnings(None, {"account": 0, "batch": 0, "tag": 1}) == []
