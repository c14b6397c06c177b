"""Fleets with a meta key for each tag or batch that the URL names, from the file of keys to verdict, audit and export."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from support.served import Answer, Connection, Served, once, target

from ixfast.domain.model import EncodingProfile
from ixfast.keys import check_value
from ixfast.limits import META_KEYS_MAX
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

CARDS = 2 * META_KEYS_MAX
PROFILES = {
    "lnbits": "/boltcards/api/v1/scan/{xuid}?p={picc}&c={mac}",
    "stock": "/t/{cuid}?picc={picc}&cmac={mac}",
    "batches": "/b/{batch}?picc={picc}&cmac={mac}",
    "parameter": "b={batch}&picc={picc}&cmac={mac}",
    "nameless": "p={picc}&c={mac}",
}


def fleet(name: str, count: int = CARDS, *, seed: int = 1, batch: str | None = None) -> VirtualFleet:
    profile: Any = {"name": name, "scheme": "ntag424-aes", "template": PROFILES[name]}
    return VirtualFleet(seed, count, EncodingProfile(**profile), account=f"own-{name}", own_meta_keys=batch is None, batch=batch)


class Owner:
    """An account with a group, and what its owner runs and sends."""

    def __init__(self, server: Served, name: str, home: Path) -> None:
        self.server = server
        self.aid = f"own-{name}"
        self.home = home
        profile = {"name": name, "scheme": "ntag424-aes", "template": PROFILES[name]}
        (home / "profile.json").write_text(json.dumps(profile))
        server.cli("account", "create", self.aid, "--open")
        server.cli("folder", "create", self.aid, "Cards")
        server.cli("group", "create", self.aid, "G", "--folder", "Cards", "--profile", f"@{home / 'profile.json'}")

    def file(self, head: Sequence[str], rows: Iterable[Sequence[str]], name: str = "keys.csv") -> str:
        path = self.home / name
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
        return str(path)

    def imported(self, path: str, *more: str) -> str:
        return self.server.cli("import", path, "--account", self.aid, "--group", "G", *more)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.server.command(*words)
        return subprocess.run(command, env=self.server.environ, capture_output=True, text=True, timeout=60, check=False)

    async def scan(self, url: str) -> dict[str, Any]:
        async with await Connection.open(self.server.port) as connection:
            answer = await connection.post("/v2/scans", {"url": url, "account": self.aid})
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json
        return found

    async def tapped(self, parameters: dict[str, str]) -> Answer:
        return await once(self.server.port, target(parameters))

    async def verdict(self, tap: str | dict[str, str]) -> str | None:
        """The verdict of a scan; None without one, which consumes nothing: a worker may not know a new key yet."""
        async with await Connection.open(self.server.port) as connection:
            sent = {"url": tap} if isinstance(tap, str) else {"parameters": tap}
            answer = await connection.post("/v2/scans", {"account": self.aid, **sent})
        return answer.json["verdict"] if answer.status == 200 and answer.json["verdict"] != "unknown" else None

    def audited(self, urls: Iterable[str], *source: str) -> dict[str, int]:
        """The numbers of taps by verdict."""
        log = self.file(["url"], ([url] for url in urls), "log.csv")
        done = self.run("audit", log, *source, "--show", "none", "--json")
        assert done.returncode in (0, 3), done.stderr
        counts: Counter[str] = Counter()
        for each in json.loads(done.stdout)["counts"]:
            counts[each["verdict"]] += each["taps"]
        return dict(counts)


def bolt_card_rows(cards: VirtualFleet) -> list[list[str]]:
    """What a card server exports: the id in the URL, the UID, k0, k1 (another one in each line) and k2."""
    return [
        [cards.xuid(i), cards.uid(i).hex(), "ab" * 16, cards.meta_key_of(i).hex(), cards.file_key(i).hex()]
        for i in range(len(cards))
    ]


@pytest.fixture(scope="module")
def bolt(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Owner:
    owner = Owner(server, "lnbits", tmp_path_factory.mktemp("lnbits"))
    path = owner.file(["external_id", "uid", "k0", "k1", "k2"], bolt_card_rows(fleet("lnbits")))
    out = owner.imported(path, "--preset", "bolt-card")
    assert out.splitlines() == [
        f"{CARDS} tags: {CARDS} added, 0 changed, 0 unchanged; {CARDS} keys added, 0 replaced",
        f"{CARDS} tags got a meta key of their own: their taps must name the tag",
    ]
    assert "no changes" in owner.imported(path, "--preset", "bolt-card")
    return owner


@pytest.mark.parametrize("index", [0, META_KEYS_MAX, CARDS - 1])
async def test_a_card_with_its_own_key_is_genuine_once(bolt: Owner, index: int) -> None:
    card, other = fleet("lnbits")[index], fleet("lnbits")[(index + 7) % CARDS]
    other.counter = 300 + index
    parameters = card.tap_parameters()
    assert (await bolt.tapped(parameters)).passed
    assert (await bolt.tapped(parameters)).failed
    assert (await bolt.scan(card.tap_at(1)))["verdict"] == "replayed"
    assert (await bolt.scan(card.tap()))["verdict"] == "genuine"
    async with await Connection.open(bolt.server.port) as connection:
        scans = [{"url": card.tap(), "account": bolt.aid}, {"xuid": other.xuid, "parameters": other.tap_parameters()}]
        batch = (await connection.post("/v2/scans/batch", {"scans": scans})).json
    assert [each["verdict"] for each in batch["scans"]] == ["genuine", "genuine"]


async def test_a_mirror_copied_under_another_id_is_refused(bolt: Owner) -> None:
    cards = fleet("lnbits")
    mine, theirs = cards[3], cards[4]
    own, copied = mine.tap_parameters(), theirs.tap_parameters()
    assert (await bolt.tapped({**copied, "x": mine.xuid})).failed
    assert (await bolt.tapped({**own, "p": copied["p"]})).failed
    found = await bolt.scan(theirs.tap_at(1).replace(theirs.xuid, mine.xuid))
    assert (found["verdict"], found["reason"]) in [("forged", "picc_unreadable"), ("forged", "uid_mismatch")]
    assert (await bolt.tapped(own)).passed and (await bolt.tapped(copied)).passed


def test_verify_explains_the_own_key(bolt: Owner) -> None:
    card = fleet("lnbits")[5]
    done = bolt.run("verify", card.tap(), "--account", bolt.aid)
    assert done.returncode == 0, done.stdout
    assert "authentic" in done.stdout and card.meta_key.hex() not in done.stdout.lower()


def test_audit_of_the_account_and_of_the_file(bolt: Owner) -> None:
    cards = [*fleet("lnbits")]
    urls = [card.tap_at(900 + n) for card in cards for n in range(3)]
    forged = [card.forged() for card in cards[:5]] + [cards[7].tap_at(999).replace(cards[7].xuid, cards[8].xuid)]
    wanted = {"genuine": len(urls), "forged": len(forged)}
    assert bolt.audited(urls + forged, "--account", bolt.aid) == wanted
    rows = [[card.xuid, card.uid.hex().upper(), card.file_key.hex(), card.meta_key.hex()] for card in cards]
    keys = bolt.file(["xuid", "uid", "file_key", "meta_key"], rows, "audit-keys.csv")
    profile = f"@{bolt.home / 'profile.json'}"
    assert bolt.audited(urls + forged, "--keys", keys, "--profile", profile) == wanted


def test_detect_finds_the_profile_of_cards_with_different_keys(bolt: Owner) -> None:
    cards = fleet("lnbits")[:3]
    keys = bolt.home / "detect.txt"
    keys.write_text("".join(f"{key.hex()}\n" for card in cards for key in (card.meta_key, card.file_key)))
    urls = [card.tap_at(n).replace("tag.example/t/", "pay.example/") for card in cards for n in (41, 42)]
    command = [sys.executable, "-m", "ixfast", "profile", "detect", *urls, "--key", f"@{keys}"]
    done = subprocess.run(command, env=bolt.server.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["template"].endswith("/{xuid}?p={picc}&c={mac}")
    assert "import each with its tag" in done.stderr


def test_an_export_has_check_values_and_imports_without_a_change(bolt: Owner) -> None:
    text = bolt.server.cli("export", "--account", bolt.aid)
    (bolt.home / "export.csv").write_text(text)
    rows = list(csv.DictReader(text.splitlines()))
    assert len({row["META_KEY_CHECK_VALUE"] for row in rows}) == len(rows) == CARDS
    assert "no changes" in bolt.imported(str(bolt.home / "export.csv"))
    shown = bolt.server.cli("tag", "show", fleet("lnbits").xuid(0))
    assert f"version 1 ({rows[0]['META_KEY_CHECK_VALUE']})" in shown
    secrets = [key.hex() for card in fleet("lnbits") for key in (card.meta_key, card.file_key)]
    assert not any(secret in (text + shown).lower() for secret in secrets)


async def test_keys_that_were_left_out_can_be_added_later(server: Served, tmp_path: Path) -> None:
    """Stock tools' columns, with the tag named by its CUID, in a file whose meta keys were first ignored."""
    owner, cards = Owner(server, "stock", tmp_path), fleet("stock", seed=2)
    tags: list[VirtualTag] = [*cards]
    for place, tag in enumerate(tags):
        tag.cuid = f"card-{place}"
    head = ["uid", "cuid", "sdm_meta_read_key", "sdm_file_read_key"]
    path = owner.file(head, ([t.uid.hex(), str(t.cuid), t.meta_key.hex(), t.file_key.hex()] for t in tags))
    owner.imported(path, "--ignore", "sdm_meta_read_key")
    async with await Connection.open(server.port) as connection:
        answer = await connection.post("/v2/scans", {"url": tags[0].tap_at(1), "account": owner.aid})
    assert answer.status == 503 and answer.json["error"]["reason"] == "no_meta_key"
    out = owner.imported(path)
    assert out.startswith(f"{CARDS} tags: 0 added, {CARDS} changed, 0 unchanged; 0 keys added, 0 replaced\n")
    for tag in (tags[0], tags[-1]):
        assert await eventually(partial(owner.verdict, tag.tap())) == "genuine"
    assert owner.audited([tag.tap() for tag in tags], "--account", owner.aid) == {"genuine": CARDS}


async def test_a_tap_that_two_meta_keys_open_passes_once(server: Served, bolt: Owner) -> None:
    card = fleet("lnbits")[9]
    assert f"version 1 ({check_value(card.meta_key).hex().upper()})" in server.cli("tag", "show", card.xuid)
    key = bolt.home / "k1"
    key.write_text(card.meta_key.hex())
    server.cli("meta-key", "add", bolt.aid, str(key))
    card.counter = 500
    parameters = card.tap_parameters()
    unnamed = {name: parameters[name] for name in "pc"}
    assert (await bolt.tapped(parameters)).passed
    assert await eventually(partial(bolt.verdict, unnamed)) == "replayed"
    assert await bolt.verdict(card.tap_at(501)) == "replayed"
    card.counter = 510
    later = card.tap_parameters()
    assert await eventually(partial(bolt.verdict, {name: later[name] for name in "pc"})) == "genuine"
    assert (await bolt.tapped(later)).failed


@pytest.mark.parametrize("name", ["batches", "parameter"])
async def test_more_batches_than_an_account_has_meta_keys(server: Served, tmp_path: Path, name: str) -> None:
    owner = Owner(server, name, tmp_path)
    seeds = range(100, 200) if name == "batches" else range(200, 300)
    batches = [fleet(name, 3, seed=seeds[n], batch=f"Lot {n}") for n in range(META_KEYS_MAX + 3)]
    for cards in batches:
        rows = [[t.xuid, t.uid.hex(), t.file_key.hex(), t.meta_key.hex()] for t in cards]
        out = owner.imported(owner.file(["XUID", "UID", "KEY", "META_KEY"], rows), "--batch", str(cards.batch))
        assert out.startswith("3 tags: 3 added, 0 changed, 0 unchanged; 3 keys added, 0 replaced, 1 meta key")
    assert "of the batch added" in out
    for cards in (batches[0], batches[-1]):
        tag = cards[1]
        assert (await owner.scan(tag.tap()))["verdict"] == "genuine"
        assert (await owner.scan(tag.tap_at(1)))["verdict"] == "replayed"
        unnamed = {piece: value for piece, value in tag.tap_parameters().items() if piece != "x"}
        if name == "parameter":
            assert (await owner.tapped(unnamed | {"a": owner.aid})).passed
    moved = batches[-1][2].tap().replace(f"Lot%20{META_KEYS_MAX + 2}", "Lot%20nowhere")
    assert (await owner.scan(moved))["verdict"] == "unknown"
    words = ("--group", "G", "--batch", str(batches[-1].batch))
    listed = json.loads(server.cli("meta-key", "list", owner.aid, *words, "--json"))["items"]
    assert [(key["version"], key["live"]) for key in listed] == [(1, True)]
    (tmp_path / "next").write_text("ab" * 16)
    assert "is version 2" in server.cli("meta-key", "add", owner.aid, str(tmp_path / "next"), *words)
    urls = [tag.tap_at(50) for cards in batches for tag in cards]
    assert owner.audited(urls, "--account", owner.aid) == {"genuine": len(urls)}


def test_a_profile_that_names_no_tag_is_warned_about(server: Served, tmp_path: Path) -> None:
    owner = Owner(server, "nameless", tmp_path)
    cards = fleet("nameless")
    path = owner.file(["uid", "k0", "k1", "k2"], (row[1:] for row in bolt_card_rows(cards)))
    words = ("import", path, "--account", owner.aid, "--group", "G", "--preset", "bolt-card")
    done = owner.run(*words, "--dry-run")
    assert done.returncode == 0 and "Warning: The group's encoding profile has no {xuid} or {cuid}." in done.stderr, done.stderr
    assert "with a template such as /{xuid}?p={picc}&c={mac}, and" in done.stderr
    done = owner.run(*words, "--json")
    (warning,) = json.loads(done.stdout)["warnings"]
    assert done.returncode == 0 and "/{xuid}?p={picc}&c={mac}" in warning
    shown = owner.run("verify", cards[0].tap(), "--account", owner.aid)
    assert shown.returncode == 7 and "no meta key of the account decrypts the mirror" in shown.stdout
    assert "only if the profile names the tag by {xuid} or {cuid}" in shown.stdout


def test_simulated_tags_with_keys_of_their_own(server: Served, tmp_path: Path) -> None:
    keys, log = tmp_path / "keys.csv", tmp_path / "taps.csv"
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"name": "own", "scheme": "ntag424-lrp", "template": "/{xuid}?picc={picc}&cmac={mac}"}))
    words = ("--profile", f"@{profile}", "--tags", "40", "--taps", "200", "--own-meta-keys", "--keys-out", str(keys))
    log.write_text(subprocess.run(
        [*server.command("simulate", *words)[:-2], "--replayed", "0", "--forged", "0"], capture_output=True, text=True, check=True
    ).stdout)  # fmt: skip
    assert len({row["meta_key"] for row in csv.DictReader(keys.read_text().splitlines())}) == 40
    done = subprocess.run(
        server.command("audit", str(log), "--keys", str(keys), "--profile", f"@{profile}", "--show", "none"),
        env=server.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


async def test_cards_whose_keys_depend_on_more_than_the_card(server: Served, tmp_path: Path) -> None:
    """Bolt Cards of BTCPay Server, imported as docs/reference/chips.md says."""
    document = (Path(__file__).parents[2] / "docs" / "reference" / "chips.md").read_text()
    found = re.search(r"cat > btcpay.csv <<'END'\n(.*?)END\nixfast import btcpay.csv (.*?)\n", document, re.DOTALL)
    assert found is not None
    (tmp_path / "btcpay.csv").write_text(found[1])
    for words in (["account", "create", "btcpay", "--open"], ["folder", "create", "btcpay", "F"]):
        server.cli(*words)
    server.cli("group", "create", "btcpay", "Cards", "--folder", "F", "--profile", "boltcard")
    out = server.cli("import", str(tmp_path / "btcpay.csv"), *found[2].replace("acme", "btcpay").split())
    assert "1 added, 0 changed, 0 unchanged; 1 key" in out and "1 meta key added" in out
    url = "https://pay.example/boltcard?p=D8E48297B5097E83092C93CCF4588A96&c=DB5564EB47B60F4B"
    async with await Connection.open(server.port) as connection:
        for verdict in ("genuine", "replayed"):
            answer = (await connection.post("/v2/scans", {"url": url, "account": "btcpay"})).json
            assert (answer["verdict"], answer["counter"]) == (verdict, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tag", "x", "--batch", "b", "--group", "g"], "--tag and --batch exclude each other"),
        (["--batch", "b"], "--batch requires --group"),
        (["--group", "g"], "--group and --folder require --batch"),
        (["--tag", "nosuchta"], "tag not found|no such tag|There is no tag"),
    ],
)
def test_owners_that_do_not_fit_together(bolt: Owner, words: list[str], message: str) -> None:
    done = bolt.run("meta-key", "list", bolt.aid, *words)
    assert done.returncode != 0 and re.search(message, done.stderr), done.stderr
