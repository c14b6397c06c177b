"""Meta keys of single tags and batches without a database: profiles, records, simulated tags, the Python API and the audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ixfast
from ixfast import cmac, meters
from ixfast.audit import Audit, TagCatalogue, read_keys
from ixfast.chips import Message, compile_profile
from ixfast.chips.detect import detect
from ixfast.cli import main
from ixfast.domain.model import EncodingProfile, Key, Verdict
from ixfast.domain.records import Account, Batch, Group, TagOverrides, TagRecord
from ixfast.domain.scan import Extras, Scan
from ixfast.errors import ProfileError
from ixfast.keys import check_value
from ixfast.keys.diversify import USUAL_DERIVATIONS
from ixfast.limits import META_KEYS_MAX
from ixfast.pipeline.engine import Engine
from ixfast.responses.response_set import BUILT_IN
from ixfast.tag_files import PROBLEMS
from ixfast.testing import VirtualFleet, VirtualTag
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger

CARDS = EncodingProfile(name="cards", scheme="ntag424-aes", template="/{xuid}?p={picc}&c={mac}")
LRP = EncodingProfile(name="lrp", scheme="ntag424-lrp", template="c={cuid}&picc={picc}&cmac={mac}")
LOTS = EncodingProfile(name="lots", scheme="ntag424-aes", template="/b/{batch}?picc={picc}&cmac={mac}")


def key(version: int, value: bytes) -> Key:
    return Key(version, value, check_value(value))


# Profiles and records.


def test_a_batch_is_read_from_the_path_and_from_a_parameter() -> None:
    tag = VirtualTag(LOTS, batch="Lot 17/a", meta_key=bytes(range(16)))
    assert "/b/Lot%2017%2Fa?" in tag.tap()
    for profile in (LOTS, EncodingProfile(name="q", scheme="ntag424-aes", template="b={batch}&picc={picc}&cmac={mac}")):
        message = compile_profile(profile).read_url(VirtualTag(profile, batch="Lot 17/a").tap())
        assert isinstance(message, Message) and message.batch == "Lot 17/a"
    with pytest.raises(ProfileError, match="variable width"):
        compile_profile(EncodingProfile(name="bad", scheme="ntag424-aes", template="b={batch}{xuid}&p={picc}&c={mac}"))


def test_a_batch_inside_the_window_must_be_that_of_the_tag() -> None:
    template = "b={batch}&picc={picc}&cmac={mac}"
    profile = EncodingProfile(name="w", scheme="ntag424-aes", template=template, window="{batch}&picc={picc}&cmac=")
    tag = VirtualTag(profile, batch="Lot1")
    assert ixfast.verify(tag.tap(), profile=profile, keys=tag.keys, statics={"batch": "Lot1"}).authentic
    assert ixfast.verify(tag.tap(), profile=profile, keys=tag.keys, statics={"batch": "Lot2"}).reason == "static_mismatch"
    other = tag.tap().replace("Lot1", "Lot2")
    assert ixfast.verify(other, profile=profile, keys=tag.keys, statics={"batch": "Lot1"}).reason == "static_mismatch"


@pytest.mark.parametrize("lacking", [None, "account", "batch"])
def test_the_candidates_of_a_tag(lacking: str | None) -> None:
    own, lot, shared = (key(1, bytes([n]) * 16) for n in (1, 2, 3))
    account = Account(1, "a", "a", is_open=True, active=True, cors=True, meta_keys=(shared,), lacks_keys=lacking == "account")
    group = Group(
        1, "G", account, folder_name="F", folder_active=True, active=True, profile=compile_profile(CARDS), response_set=BUILT_IN
    )
    batch = Batch(1, "Lot", active=True, meta_keys=(lot,), lacks_keys=lacking == "batch")
    more: dict[str, Any] = {"cuid": None, "uid": None, "name": None, "active": True, "assigned": True, "keys": ()}
    both = TagRecord(1, b"x", group, batch, overrides=TagOverrides(meta_keys=(own,)), **more)
    alone = TagRecord(2, b"y", group, None, overrides=TagOverrides(meta_keys=(own,)), **more)
    plain = TagRecord(3, b"z", group, None, **more)
    assert both.meta_keys == (() if lacking else (own, lot, shared))
    assert alone.meta_keys == (() if lacking == "account" else (own, shared))
    assert plain.meta_keys is group.meta_keys


def test_the_engine_uses_the_own_key_and_refuses_a_copied_mirror() -> None:
    catalogue = MemoryCatalogue()
    group = catalogue.add_group("acme", compile_profile(CARDS))
    engine = Engine(catalogue, meters.Meters())
    ledger = MemoryLedger(engine.settled)
    engine.use(ledger)
    fleet = VirtualFleet(3, 2, CARDS, own_meta_keys=True)
    for tag in fleet:
        ledger.add(catalogue.add_tag(group, tag.xuid, uid=tag.uid, keys=tag.file_keys(), meta_keys=tag.meta_keys()))

    def verdict(code: str, url: str) -> Verdict | None:
        answered: list[Scan] = []
        engine.submit(Scan(answered.append, code.encode(), -1, None, None, len(ledger.passes), 0.0, Extras(url=url)))
        return answered[0].verdict

    mine, theirs = fleet
    url = mine.tap()
    assert [verdict(mine.xuid, url) for _ in range(2)] == [Verdict.GENUINE, Verdict.REPLAYED]
    copied = theirs.tap().replace(theirs.xuid, mine.xuid)
    assert verdict(mine.xuid, copied) is Verdict.FORGED
    assert verdict(theirs.xuid, theirs.tap_at(1)) is Verdict.GENUINE


# Simulated tags and the Python API.


def test_a_fleet_gives_each_tag_a_meta_key_of_its_own() -> None:
    fleet, same = VirtualFleet(1, 50, CARDS, own_meta_keys=True), VirtualFleet(1, 50, CARDS, own_meta_keys=True)
    keys = [tag.meta_key for tag in fleet]
    assert len(set(keys)) == 50 and keys == [same.meta_key_of(index) for index in range(50)]
    assert {tag.meta_key for tag in VirtualFleet(1, 50, CARDS)} == {fleet.meta_key}
    assert VirtualFleet(1, 2, LOTS, batch="Lot")[1].batch == "Lot"


def test_a_tap_that_no_key_reads_still_names_its_tag() -> None:
    tag = VirtualFleet(1, 50, CARDS, own_meta_keys=True)[7]
    (claim,) = ixfast.identify(tag.tap(), profile=CARDS)
    assert (claim.tag_code, claim.uid, claim.counter) == (tag.xuid, None, None)
    (claim,) = ixfast.identify(tag.tap(), profile=CARDS, keys=tag.keys)
    assert (claim.tag_code, claim.uid, claim.counter) == (tag.xuid, tag.uid, 2)
    assert [c.batch for c in ixfast.identify(VirtualTag(LOTS, batch="Lot 1").tap(), profile=LOTS)] == ["Lot 1"]
    assert ixfast.identify(VirtualTag("encrypted", meta_key=b"\1" * 16).tap(), profile="encrypted") == ()


@pytest.mark.parametrize("name", ["encrypted", "boltcard", "path"])
def test_simulate_refuses_own_keys_that_nothing_can_find(name: str) -> None:
    done = CliRunner().invoke(main, ["simulate", "--profile", name, "--own-meta-keys"])
    assert done.exit_code == 2 and "must name the tag by {xuid} or {cuid}" in done.output


def test_detection_says_that_keys_differ_from_tag_to_tag() -> None:
    tags = VirtualFleet(1, 3, CARDS, own_meta_keys=True)
    taps = [f"https://pay.example/api/v1/scan{tag.tap_at(n).partition('/t')[2]}" for tag in tags for n in (1, 2)]
    found = detect(taps, [each for tag in tags for each in (*tag.file_keys(), *tag.meta_keys())])
    assert found.proposals[0].profile.template.endswith("/{xuid}?p={picc}&c={mac}")
    assert any("import each with its tag" in note for note in found.proposals[0].notes)


# The audit.


def audited(catalogue: TagCatalogue, urls: list[str]) -> list[str]:
    lines = "\n".join(["url", *urls, ""]).encode()
    names = {code: verdict for code, (verdict, _) in enumerate(ixfast.audit.OUTCOMES)}
    return [names[finding] for piece in Audit(catalogue).judged([lines]) for finding in list(piece.codes)[1:]]


def key_file(tags: list[VirtualTag]) -> list[bytes]:
    head = "xuid,uid,file_key,meta_key,cuid,batch"
    lines = [f"{t.xuid},{t.uid.hex()},{t.file_key.hex()},{t.meta_key.hex()},{t.cuid or ''},{t.batch or ''}" for t in tags]
    return ["\n".join([head, *lines]).encode()]


@pytest.mark.parametrize("profile", [CARDS, LRP], ids=["AES, by XUID", "LRP, by CUID"])
def test_an_audit_with_more_meta_keys_than_an_account_can_have(profile: EncodingProfile) -> None:
    tags = list(VirtualFleet(1, 3 * META_KEYS_MAX, profile, own_meta_keys=True))
    for place, tag in enumerate(tags):
        tag.cuid = f"card-{place}"
    catalogue = read_keys(key_file(tags), lambda _name: profile, default_profile="own")
    urls = [tag.tap_at(n) for n in (5, 6) for tag in tags]
    assert set(audited(catalogue, urls)) == {"genuine"}
    mine, theirs = tags[-1], tags[-2]
    copied = theirs.tap_at(9).replace(theirs.xuid, mine.xuid).replace(str(theirs.cuid), str(mine.cuid))
    assert audited(catalogue, [copied, mine.forged()]) == ["forged", "forged"]


def test_an_audit_of_more_batches_than_an_account_can_have_meta_keys() -> None:
    tags = [tag for n in range(META_KEYS_MAX + 4) for tag in VirtualFleet(50 + n, 2, LOTS, batch=f"Lot {n}")]
    catalogue = read_keys(key_file(tags), lambda _name: LOTS, default_profile="lots")
    assert set(audited(catalogue, [tag.tap() for tag in tags])) == {"genuine"}
    wrong = tags[-1].tap().replace(f"Lot%20{META_KEYS_MAX + 3}", "Lot%200")
    assert audited(catalogue, [wrong]) == ["genuine"]  # the name of the batch is not authenticated: it only helps to find the key
    stranger = VirtualFleet(99, 1, LOTS, batch="Lot 0")[0]
    assert audited(catalogue, [stranger.tap()]) == ["unknown"]


# Keys that depend on more than the card.

BTCPAY = "https://pay.example/boltcard?p=D8E48297B5097E83092C93CCF4588A96&c=DB5564EB47B60F4B"
ISSUER = bytes(15) + b"\1"


def test_keys_of_btcpay_work_card_by_card() -> None:
    """Its key of a card is computed from the id of the pull payment, too, which no derivation can know."""
    uid = bytes.fromhex("04a39493cc8680")
    card = cmac.aes_cmac(ISSUER, bytes.fromhex("2d003f75") + uid + bytes(4) + b"fUDXsnySxvb5LYZ1bSLiWzLjVuT")
    k1, k2 = cmac.aes_cmac(ISSUER, bytes.fromhex("2d003f77")), cmac.aes_cmac(card, bytes.fromhex("2d003f78"))
    document = (Path(__file__).parents[2] / "docs" / "reference" / "chips.md").read_text()
    assert f"\n{uid.hex()},{k1.hex()},{k2.hex()}\n" in document
    evidence = ixfast.verify(BTCPAY, profile="boltcard", keys=ixfast.TagKeys(file=k2, meta=k1))
    assert (evidence.authentic, evidence.uid, evidence.counter) == (True, uid, 3)
    derived = ixfast.verify(BTCPAY, profile="boltcard", keys=ixfast.TagKeys(master=ISSUER, derivation="boltcard"))
    assert (derived.authentic, derived.reason) == (False, "mac_mismatch")
    found = detect([BTCPAY], [key(1, ISSUER)], derivations=USUAL_DERIVATIONS)
    assert not found.proposals and "UID 04A39493CC8680, counter 3" in json.dumps(found.reasons)


def test_no_remedy_tells_people_to_throw_a_key_away() -> None:
    for code, (_, remedy) in PROBLEMS.items():
        if "key" in code and "gnore the column" in remedy:
            assert "only if" in remedy, code
