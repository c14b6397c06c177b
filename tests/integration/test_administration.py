"""The commands of day-to-day administration on a real database: accounts, API keys, folders, groups, meta keys and tags."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
from click.testing import CliRunner, Result

from ixfast.cli import main
from ixfast.keys import KeyEncryptionKeys
from ixfast.store.admin import tag_search
from ixfast.store.queries import load
from ixfast.testing.virtual_tags import VirtualTag

T = TypeVar("T")
UID = bytes.fromhex("04782e21801d80")
CODE = "lpad(n::text, 8, '0')"


class Installation:
    """A database and a key file, and the commands on them."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.folder = folder
        self.kek_file = folder / "kek"
        KeyEncryptionKeys.create_file(self.kek_file)
        self.printed: list[str] = []

    def run(self, *words: str, given: str | None = None) -> Result:
        environ = {"IXFAST_DSN": self.dsn, "IXFAST_KEK_FILE": str(self.kek_file), "COLUMNS": "200"}
        result = CliRunner().invoke(main, list(words), env=environ, input=given)
        self.printed += [result.stdout, result.stderr]
        return result

    def done(self, *words: str, given: str | None = None) -> str:
        """Standard output of a command that must succeed."""
        result = self.run(*words, given=given)
        assert result.exit_code == 0, (words, result.output, result.exception)
        return result.stdout

    def json(self, *words: str, given: str | None = None) -> Any:
        return json.loads(self.done(*words, "--json", given=given))

    def refused(self, *words: str, given: str | None = None) -> str:
        """The message of a command that must fail: one line."""
        result = self.run(*words, given=given)
        assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2), (words, result.output, result.exception)
        assert result.stdout == ""
        return result.stderr.strip().splitlines()[-1].removeprefix("Error: ")

    def file(self, content: str) -> str:
        path = self.folder / secrets.token_hex(4)
        path.write_text(content)
        return str(path)

    def fetch(self, statement: str, *arguments: object) -> list[Any]:
        async def work(connection: Any) -> list[Any]:
            return list(await connection.fetch(statement, *arguments))

        return self.on_database(work)

    def on_database(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def connected() -> T:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())

    def add_tags(
        self, aid: str, group: str, count: int, *, batch: int | None = None, code: str = "lpad(n::text, 8, '0')"
    ) -> None:
        self.fetch(
            "WITH made AS (INSERT INTO tag (account_id, group_id, batch_id, xuid) "
            f"SELECT a.account_id, g.group_id, $4, {code} FROM account AS a, tag_group AS g, generate_series(1, $3::int) AS n "
            "WHERE a.aid = $1 AND g.name = $2 ORDER BY n RETURNING tag_id) "
            "INSERT INTO tag_counter (tag_id) SELECT tag_id FROM made",
            aid, group, count, batch,
        )  # fmt: skip


@pytest.fixture
def bare(database: str, tmp_path: Path) -> Installation:
    return Installation(database, tmp_path)


@pytest.fixture
def on(bare: Installation) -> Installation:
    """An account `acme` with the group `shoes`, and an account `other` with the group `theirs`."""
    for aid, group in (("acme", "shoes"), ("other", "theirs")):
        bare.done("account", "create", aid)
        bare.done("group", "create", aid, group, "--profile", "plain-uid-counter")
    return bare


def test_a_quickstart_needs_nothing_but_the_command_line(bare: Installation) -> None:
    key = secrets.token_bytes(16)
    tag = VirtualTag("plain-uid-counter", xuid="q8w3sbcz", uid=UID, file_key=key)
    assert bare.done("account", "create", "acme") == "account acme is closed: its callers need an API key\n"
    assert bare.done("group", "create", "acme", "shoes", "--profile", "plain-uid-counter") == (
        "folder Default created in account acme\ngroup shoes created with profile plain-uid-counter\n"
    )
    tags = bare.file(f"UID,KEY\n{UID.hex().upper()},{key.hex()}\n")
    bare.done("import", tags, "--account", "acme", "--group", "shoes", "--batch", "first")
    token = bare.done("api-key", "create", "acme", "--label", "web shop").strip()
    assert re.fullmatch(r"ixf_[\w-]{32}", token)
    verified = bare.done("verify", tag.tap(), "--account", "acme")
    assert "counter 1 is new, a scan would pass; newest accepted: none yet" in verified
    (listed,) = bare.json("tag", "list", "acme")["items"]
    assert (listed["uid"], listed["active"]) == (UID.hex().upper(), True)
    assert bare.json("group", "show", "acme", "shoes")["batches"] == ["first"]


@pytest.mark.parametrize("scheme", ["boltcard", "an10922", "sdm-backend"])
def test_a_group_that_derives_keys(bare: Installation, scheme: str) -> None:
    bare.done("account", "create", "acme")
    master = secrets.token_bytes(16).hex()
    created = ["group", "create", "acme", "cards", "--profile", "boltcard", "--derivation", scheme]
    made = bare.json(*created, "--enrols", "--master-key", "-", given=f"# of the factory\n{master.upper()}  # 1\n")
    assert (made["derivation"]["scheme"], made["enrols"], made["folder"]) == (scheme, True, "Default")
    assert [key["version"] for key in made["master_keys"]] == [1]
    second = bare.file(secrets.token_bytes(16).hex())
    assert bare.json("group", "add-key", "acme", "cards", second, "--retire-others")["version"] == 2
    assert [key["live"] for key in bare.json("group", "show", "acme", "cards")["master_keys"]] == [False, True]


def test_groups_share_the_meta_key_of_their_account(on: Installation) -> None:
    key = on.file(secrets.token_bytes(16).hex())
    for name in ("red", "blue"):
        on.done("group", "create", "acme", name, "--profile", "encrypted", "--meta-key", key)
    assert [(each["version"], each["live"]) for each in on.json("meta-key", "list", "acme")["items"]] == [(1, True)]
    assert on.done("meta-key", "add", "acme", key).startswith("the meta key is version 1;")
    assert on.json("meta-key", "add", "acme", on.file(secrets.token_bytes(16).hex()), "--retire-others")["version"] == 2
    assert [each["live"] for each in on.json("meta-key", "list", "acme")["items"]] == [False, True]
    assert "old taps would pass again" in on.refused("meta-key", "add", "acme", key)


def test_profile_rules_and_fields_of_a_group(on: Installation) -> None:
    on.done("folder", "create", "acme", "Shoes", "--field", "Colour", "--reply-field", "Size")
    (folder,) = [each for each in on.json("folder", "list", "acme")["items"] if each["name"] == "Shoes"]
    assert folder["fields"] == [{"name": "Colour", "in_reply": False}, {"name": "Size", "in_reply": True}]
    profile = {"name": "own", "scheme": "ntag424-aes", "template": "a={uid}&b={counter}&c={mac}"}
    rules = {"groups": [{"name": "first", "when": "scan_count == 1", "response": "Welcome"}], "default": "No"}
    made = on.json(
        "group", "create", "acme", "red", "--folder", "Shoes", "--profile", f"@{on.file(json.dumps(profile))}",
        "--rules", on.file(json.dumps(rules)), "--field", "Colour=red", "--field", "Size=4=2", "--retry-window", "30",
    )  # fmt: skip
    assert made["profile"]["template"] == profile["template"]
    assert (made["fields"], made["retry_window_s"]) == ({"Colour": "red", "Size": "4=2"}, 30)
    assert made["rules"]["groups"][0]["name"] == "first"
    shown = on.done("group", "show", "acme", "red")
    assert re.search(r"^rules +first; default$", shown, re.MULTILINE)
    assert re.search(r"^fields +Colour=red, Size=4=2$", shown, re.MULTILINE)
    given = json.dumps(profile)
    assert on.json("group", "create", "acme", "piped", "--profile", "-", given=given)["profile"]["name"] == "own"


def test_a_profile_that_v1_can_mistake_is_warned_of(on: Installation) -> None:
    profile = {"name": "own", "scheme": "ntag424-aes", "template": "u={uid}&c={counter}&m={mac}"}
    file = f"@{on.file(json.dumps(profile))}"
    created = on.run("group", "create", "acme", "red", "--profile", file)
    warned = r"Warning: On /v1/t, the parameter c of this profile is looked up as a CUID first\. Rename the parameter, or .*\n"
    assert created.exit_code == 0 and re.fullmatch(warned, created.stderr)
    assert re.fullmatch(warned, on.run("group", "set", "acme", "shoes", "--profile", file).stderr)
    assert on.run("group", "set", "acme", "shoes", "--inactive").stderr == ""
    assert on.run("group", "set", "acme", "red", "--profile", "boltcard").stderr == ""
    assert len(on.json("group", "show", "acme", "shoes")["warnings"]) == 1
    assert "warnings" not in on.json("group", "show", "acme", "red")


def test_a_group_is_changed(on: Installation) -> None:
    rules = {"groups": [{"name": "first", "when": "scan_count == 1", "response": "Welcome"}], "default": "No"}
    words = ["group", "set", "acme", "shoes", "--name", "boots", "--rules", "-", "--retry-window", "9"]
    changed = on.json(*words, given=json.dumps(rules))
    assert (changed["name"], changed["retry_window_s"], changed["rules"]["default"]) == ("boots", 9, "No")
    changed = on.json("group", "set", "acme", "boots", "--no-rules", "--inactive", "--profile", "ixkio-plain")
    assert (changed["rules"], changed["active"], changed["profile"]["name"]) == (None, False, "ixkio-plain")
    assert changed["retry_window_s"] == 9
    assert re.search(r"^active +yes$", on.done("group", "set", "acme", "boots", "--active"), re.MULTILINE)
    assert "Nothing to change" in on.refused("group", "set", "acme", "boots")
    assert "exclude each other" in on.refused("group", "set", "acme", "boots", "--no-rules", "--rules", "-")
    assert "The folder does not define the field at position 1" in on.refused(
        "group", "set", "acme", "boots", "--field", "Colour=red"
    )
    bad = on.file(json.dumps({"groups": [{"name": "a", "when": "nonsense", "response": "b"}], "default": "c"}))
    assert "nonsense" in on.refused("group", "set", "acme", "boots", "--rules", bad)


def test_a_batch_is_deactivated_as_one(on: Installation) -> None:
    made = "INSERT INTO batch (group_id, name) SELECT group_id, 'first' FROM tag_group WHERE name = 'shoes' RETURNING batch_id"
    (batch,) = on.fetch(made)
    on.add_tags("acme", "shoes", 3, batch=batch["batch_id"])
    assert [(each["name"], each["tags"]) for each in on.json("batch", "list", "acme", "shoes")["items"]] == [("first", 3)]
    assert on.done("batch", "deactivate", "acme", "shoes", "first") == "batch first is inactive\n"
    assert on.json("tag", "show", "00000001")["inactive_parents"] == ["batch"]
    assert on.json("batch", "activate", "acme", "shoes", "first")["active"] is True
    assert on.refused("batch", "activate", "acme", "shoes", "frist") == "There is no batch frist; did you mean first?"
    assert on.refused("batch", "list", "acme", "theirs") == "There is no group theirs."


def test_a_change_is_in_the_audit_log_and_notifies_the_workers(on: Installation) -> None:
    (before,) = on.fetch("SELECT generation FROM catalogue_generation")
    on.add_tags("acme", "shoes", 1)
    on.done("tag", "deactivate", "00000001")
    on.done("account", "set", "acme", "--open", "--no-cors", "--name", "Acme")
    acts = on.fetch("SELECT api_key_id, act, object, object_id, after FROM audit_log ORDER BY audit_id DESC LIMIT 2")
    assert [(row["api_key_id"], row["act"], row["object"], row["object_id"]) for row in acts] == [
        (None, "update", "account", "acme"),
        (None, "update", "tag", "00000001"),
    ]
    after = json.loads(acts[0]["after"])
    assert (after["open"], after["cors"], after["name"], after["active"]) == (True, False, "Acme", True)
    kinds = on.fetch("SELECT kind FROM catalogue_change WHERE generation > $1 ORDER BY generation", before["generation"])
    assert [row["kind"] for row in kinds] == ["tag", "account"]
    assert "Nothing to change" in on.refused("account", "set", "acme")


def test_a_failed_command_changes_nothing(on: Installation) -> None:
    before = on.fetch("SELECT audit_id FROM audit_log")
    bad = on.file("00" * 16)
    assert "all-zero key" in on.refused(
        "group",
        "create",
        "acme",
        "cards",
        "--folder",
        "New",
        "--profile",
        "boltcard",
        "--derivation",
        "boltcard",
        "--master-key",
        bad,
    )
    assert [each["name"] for each in on.json("folder", "list", "acme")["items"]] == ["Default"]
    assert [each["name"] for each in on.json("group", "list", "acme")["items"]] == ["shoes"]
    assert on.fetch("SELECT audit_id FROM audit_log") == before


def test_the_life_of_an_api_key(on: Installation) -> None:
    first = on.json("api-key", "create", "acme", "--scope", "manage", "--scope", "scan", "--label", "web", "--days", "30")
    assert first["scopes"] == ["manage", "scan"] and first["expires_at"] is not None
    rotated = on.run("api-key", "rotate", "acme", str(first["id"]), "--overlap", "60")
    assert rotated.stdout.startswith("ixf_") and rotated.stdout.strip() != first["token"]
    assert f"replaces {first['id']}, which expires at " in rotated.stderr
    listed = on.json("api-key", "list", "acme")["items"]
    assert [key["live"] for key in listed] == [True, True] and not any("token" in key for key in listed)
    on.done("api-key", "revoke", "acme", str(first["id"]))
    assert [key["id"] for key in on.json("api-key", "list", "acme")["items"]] == [listed[1]["id"]]
    assert "revoked" in on.done("api-key", "list", "acme", "--all")
    assert on.json("api-key", "show", "acme", str(first["id"]))["revoked_at"] is not None
    assert "no such live API key" in on.refused("api-key", "rotate", "acme", str(first["id"]))


def test_the_state_of_a_tag(on: Installation) -> None:
    on.add_tags("acme", "shoes", 1)
    on.fetch("UPDATE tag_counter SET scan_count = 3, last_at = '2026-01-31 09:30+00', last_position = (2 << 24) + 7")
    shown = on.json("tag", "show", "00000001")
    assert (shown["account"], shown["group"], shown["scan_count"]) == ("acme", "shoes", 3)
    assert (shown["key_version"], shown["counter"], shown["last_at"]) == (2, 7, "2026-01-31T09:30:00Z")
    assert shown["inactive_parents"] == []
    on.done("tag", "deactivate", "00000001")
    on.done("account", "set", "acme", "--inactive")
    text = on.done("tag", "show", "00000001")
    assert re.search(r"^state +inactive \(because of: tag, account\)$", text, re.MULTILINE)
    assert re.search(r"^last pass +2026-01-31 09:30:00Z$", text, re.MULTILINE)
    on.done("tag", "activate", "00000001")
    assert on.json("tag", "show", "00000001")["active"] is True


def joined(found: list[list[str]]) -> list[str]:
    return [each for page in found for each in page]


def pages(on: Installation, *words: str, member: str = "xuid") -> list[list[str]]:
    """All pages of a list, each as the names of its items."""
    found, after = [], []
    while True:
        page = on.json(*words, *after)
        found.append([each[member] for each in page["items"]])
        if page["next"] is None:
            return found
        after = ["--after", page["next"]]


def test_pages_of_a_thousand_tags(on: Installation) -> None:
    on.add_tags("acme", "shoes", 1100)
    on.add_tags("other", "theirs", 50, code="'t' || n")
    every = [f"{n:08}" for n in range(1, 1101)]
    found = pages(on, "tag", "list", "acme", "--limit", "300")
    assert [len(page) for page in found] == [300, 300, 300, 200] and joined(found) == every
    assert pages(on, "tag", "list", "acme", "--limit", "1100") == [every]
    assert pages(on, "tag", "list", "acme", "--limit", "1099") == [every[:-1], every[-1:]]
    assert joined(pages(on, "tag", "list", "acme", "--prefix", "000010", "--limit", "30")) == every[999:1099]
    result = on.run("tag", "list", "acme")
    assert len(result.stdout.splitlines()) == 101
    assert result.stderr == "There are more: add --after 00000100\n"


def test_filters_of_tags(on: Installation) -> None:
    on.done("group", "create", "acme", "caps")
    (group,) = on.fetch("SELECT group_id FROM tag_group WHERE name = 'shoes'")
    (batch,) = on.fetch("INSERT INTO batch (group_id, name) VALUES ($1, 'first') RETURNING batch_id", group["group_id"])
    on.add_tags("acme", "shoes", 10, code="'a' || n")
    on.add_tags("acme", "shoes", 10, code="'b' || n", batch=batch["batch_id"])
    on.add_tags("acme", "caps", 10, code="'c' || n")
    on.fetch("UPDATE tag SET active = false WHERE xuid LIKE '_3'")

    def codes(*words: str) -> list[str]:
        return joined(pages(on, "tag", "list", "acme", "--limit", "4", *words))

    assert len(codes()) == 30
    assert {code[0] for code in codes("--group", "shoes")} == {"a", "b"}
    assert {code[0] for code in codes("--group", "shoes", "--batch", "first")} == {"b"}
    assert codes("--inactive") == ["a3", "b3", "c3"]
    assert codes("--inactive", "--group", "caps") == ["c3"]
    assert len(codes("--active")) == 27
    assert codes("--prefix", "a1") == ["a1", "a10"]
    assert codes("--prefix", "b", "--inactive") == ["b3"]
    assert codes("--prefix", "b", "--group", "caps") == []
    assert on.done("tag", "list", "acme", "--prefix", "zz") == "No tags.\n"
    on.fetch("UPDATE tag SET uid = decode('04782e21801d80', 'hex'), cuid = 'c' WHERE xuid = 'b7'")
    assert codes("--uid", "04782e21801d80") == codes("--cuid", "c") == ["b7"]
    assert codes("--uid", "04782E21801D81") == codes("--cuid", "c", "--group", "caps") == []
    assert "14 upper-case hex digits" in on.refused("tag", "list", "acme", "--uid", "04")
    assert "exclude each other" in on.refused("tag", "list", "acme", "--uid", "04", "--prefix", "b")
    assert "--batch and --folder require --group" in on.refused("tag", "list", "acme", "--batch", "first")


def test_a_filter_that_hardly_matches_ends_the_page(on: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    from ixfast.cli import tags

    monkeypatch.setattr(tags, "_READ_MAX", 40)
    on.add_tags("acme", "shoes", 100)
    on.fetch("UPDATE tag SET active = false WHERE xuid IN ('00000060', '00000100')")
    assert pages(on, "tag", "list", "acme", "--inactive") == [[], ["00000060"], ["00000100"]]
    result = on.run("tag", "list", "acme", "--inactive")
    assert (result.stdout, result.stderr) == ("No matching tags so far.\n", "There are more: add --after 00000040\n")


def test_a_thousand_accounts_groups_and_keys(on: Installation) -> None:
    on.fetch("INSERT INTO account (aid) SELECT 'a' || lpad(n::text, 4, '0') FROM generate_series(1, 1000) AS n")
    on.fetch(
        "INSERT INTO tag_group (folder_id, name, kind) SELECT folder_id, 'g' || n, 'standard' "
        "FROM folder JOIN account USING (account_id), generate_series(1, 1000) AS n WHERE aid = 'acme'"
    )
    on.fetch(
        "INSERT INTO api_key (account_id, token_sha256, scopes) SELECT account_id, sha256(n::text::bytea), '{scan}' "
        "FROM account, generate_series(1, 1000) AS n WHERE aid = 'acme'"
    )
    found = pages(on, "account", "list", "--limit", "400", member="aid")
    assert [len(page) for page in found] == [400, 400, 202] and joined(found) == sorted(joined(found))
    assert len(on.done("group", "list", "acme").splitlines()) == 1002
    assert len(on.json("group", "list", "acme")["items"]) == 1001
    assert len(on.json("api-key", "list", "acme")["items"]) == 1000
    shown = on.json("account", "show", "acme")
    assert (shown["groups"], shown["live_api_keys"], shown["tags"]) == (1001, 1000, 0)


def test_many_tags_are_estimated_without_reading_them(on: Installation) -> None:
    on.add_tags("acme", "shoes", 1000)
    assert [(each["aid"], each["tags"], each["tags_exact"]) for each in on.json("account", "list")["items"]] == [
        ("acme", 1000, True),
        ("other", 0, True),
    ]
    on.add_tags("acme", "shoes", 29_000, code="'x' || n")
    on.fetch("VACUUM ANALYZE tag")
    found = on.json("group", "show", "acme", "shoes")
    assert not found["tags_exact"] and 29_000 < found["tags"] < 31_000
    assert re.search(r"  ~\d+  ", on.done("group", "list", "acme"))

    async def rows_read(connection: Any) -> dict[str, float]:
        (account,) = await connection.fetch("SELECT account_id FROM account WHERE aid = 'acme'")
        (group,) = await connection.fetch("SELECT group_id FROM tag_group WHERE name = 'shoes'")
        sql = load("management")
        arguments: dict[str, Sequence[object]] = {
            "count_tags_of_account": ([account["account_id"]], tag_search.COUNT_MAX + 1),
            "count_tags_of_group": ([group["group_id"]], tag_search.COUNT_MAX + 1),
            "codes_with_prefix": (account["account_id"], "x", "x~", "x2", 101),
            "tags_of_account": (account["account_id"], 0, 101),
        }
        return {
            name: max(map(rows_of, json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql[name]}", *values))))
            for name, values in arguments.items()
        }

    def rows_of(plan: Any) -> float:
        node = plan.get("Plan", plan)
        read: float = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        return max([read, *map(rows_of, node.get("Plans", ()))])

    assert max(on.on_database(rows_read).values()) <= tag_search.COUNT_MAX + 1


UNKNOWN = [
    (["account", "show", "acne"], "There is no account acne; did you mean acme?"),
    (["account", "show", "nothing-like-it"], "There is no account nothing-like-it."),
    (["account", "show", ""], "There is no account ''."),
    (["account", "set", "acne", "--open"], "There is no account acne; did you mean acme?"),
    (["api-key", "list", "acne"], "There is no account acne; did you mean acme?"),
    (["api-key", "create", "acne"], "There is no account acne; did you mean acme?"),
    (["api-key", "show", "acme", "999"], "The account has no such API key."),
    (["group", "list", "acme", "--folder", "Defualt"], "There is no folder Defualt; did you mean Default?"),
    (["group", "show", "acme", "shoe"], "There is no group shoe; did you mean shoes?"),
    (["tag", "list", "acme", "--group", "shoe"], "There is no group shoe; did you mean shoes?"),
    (["tag", "list", "acme", "--group", "shoes", "--batch", "frist"], "There is no batch frist; did you mean first?"),
    (["tag", "list", "acme", "--after", "00000019"], "There is no tag 00000019; did you mean 00000"),
    (["tag", "show", "00000019"], "There is no tag 00000019; did you mean 00000"),
    (["tag", "show", "nothinglikeit"], "There is no tag nothinglikeit."),
    (["tag", "deactivate", "0000000100"], "There is no tag 0000000100; did you mean 00000"),
    (["group", "create", "acme", "x", "--profile", "ixkio-plane"], "There is no preset ixkio-plane; did you mean ixkio-plain?"),
    (["group", "create", "acme", "x", "--derivation", "bolt"], "There is no scheme bolt; did you mean boltcard?"),
    (["group", "create", "acme", "shoes"], "The folder already has a group with this name."),
    (["account", "create", "acme"], "The account acme already exists."),
    (
        ["group", "create", "acme", "x", "--field", "Colour=red"],
        "The folder does not define the field at position 1 of `fields`. Defined fields: none.",
    ),
    (["group", "create", "acme", "x" * 200], "name: "),
]  # fmt: skip


@pytest.fixture(scope="module")
def furnished(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Like `on`, for tests that change nothing, with ten tags and a batch."""
    from support import administer, drop_database

    name = f"ixfast_test_{secrets.token_hex(6)}"
    administer(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
    on = Installation(postgres.dsn_of(name), tmp_path_factory.mktemp("administration"))
    for aid, group in (("acme", "shoes"), ("other", "theirs")):
        on.done("account", "create", aid)
        on.done("group", "create", aid, group)
    on.fetch("INSERT INTO batch (group_id, name) SELECT group_id, 'first' FROM tag_group WHERE name = 'shoes'")
    on.add_tags("acme", "shoes", 10)
    on.add_tags("other", "theirs", 10, code="'theirs' || n")
    on.done("api-key", "create", "other")
    yield on
    drop_database(postgres.dsn, name)


@pytest.mark.parametrize(("words", "message"), UNKNOWN, ids=[" ".join(words)[:60] for words, _ in UNKNOWN])
def test_unknown_names_are_one_line_with_similar_ones(furnished: Installation, words: list[str], message: str) -> None:
    assert message in furnished.refused(*words)


FOREIGN = [
    (["api-key", "show", "acme", "ID"], "The account has no such API key."),
    (["api-key", "revoke", "acme", "ID"], "The account has no such API key."),
    (["api-key", "rotate", "acme", "ID"], "The account has no such API key."),
    (["group", "show", "acme", "theirs"], "There is no group theirs."),
    (["group", "add-key", "acme", "theirs", "-"], "There is no group theirs."),
    (["tag", "list", "acme", "--group", "theirs"], "There is no group theirs."),
    (["tag", "list", "acme", "--after", "theirs1"], "There is no tag theirs1."),
]


@pytest.mark.parametrize(("words", "message"), FOREIGN, ids=[" ".join(words) for words, _ in FOREIGN])
def test_objects_of_another_account_do_not_exist(furnished: Installation, words: list[str], message: str) -> None:
    (key,) = furnished.json("api-key", "list", "other")["items"]
    actual = [str(key["id"]) if word == "ID" else word for word in words]
    assert furnished.refused(*actual, given=secrets.token_bytes(16).hex()) == message
    assert furnished.json("tag", "list", "acme", "--prefix", "theirs")["items"] == []
    assert furnished.json("api-key", "show", "other", str(key["id"]))["live"] is True


READS = [
    ("account", "list"), ("account", "show", "acme"), ("api-key", "list", "other"), ("folder", "list", "acme"),
    ("group", "list", "acme"), ("group", "show", "acme", "shoes"), ("batch", "list", "acme", "shoes"),
    ("meta-key", "list", "acme"), ("tag", "list", "acme"),
    ("tag", "show", "00000001"),
]  # fmt: skip


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_json_is_one_document_and_tables_have_no_colour_in_a_pipe(furnished: Installation, words: tuple[str, ...]) -> None:
    assert isinstance(furnished.json(*words), dict)
    text = furnished.done(*words)
    assert "\x1b" not in text and not any(line.endswith(" ") for line in text.splitlines())


def test_a_name_cannot_control_the_terminal(on: Installation) -> None:
    on.fetch("UPDATE account SET name = E'\\x1b[2Jowned' WHERE aid = 'acme'")
    on.fetch("UPDATE tag_group SET name = E'a\\nb' WHERE name = 'shoes'")
    for words in (("account", "list"), ("account", "show", "acme"), ("group", "list", "acme")):
        assert all(line.isprintable() for line in on.done(*words).splitlines())
    assert on.json("account", "show", "acme")["name"] == "\x1b[2Jowned"


def spellings(key: bytes) -> set[str]:
    return {key.hex(), key.hex().upper(), base64.b64encode(key).decode(), repr(key)[2:-1], key.decode("latin-1")}


def test_no_key_is_ever_printed(on: Installation) -> None:
    """Every command with keys in its reach, and every mistake that could quote one."""
    keys = {kind: secrets.token_bytes(16) for kind in ("file", "meta", "second meta", "master", "second master")}
    files = {kind: on.file(key.hex()) for kind, key in keys.items()}
    on.done("group", "create", "acme", "cards", "--profile", "boltcard", "--derivation", "boltcard",
            "--master-key", files["master"], "--meta-key", files["meta"])  # fmt: skip
    tags = on.file(f"UID,KEY\n{UID.hex().upper()},{keys['file'].hex()}\n")
    on.done("import", tags, "--account", "acme", "--group", "shoes")
    on.json("meta-key", "add", "acme", files["second meta"])
    on.json("group", "add-key", "acme", "cards", files["second master"])
    code = on.json("tag", "list", "acme")["items"][0]["xuid"]
    on.json("tag", "show", code)
    for words in (*READS[:-1], ("group", "show", "acme", "cards"), ("tag", "show", code), ("tag", "deactivate", code)):
        on.done(*words)
        on.json(*words)
    hexes = keys["meta"].hex()
    for wrong in (hexes[:-1], hexes + "0", hexes[:-1] + "g", f"{hexes}\n{hexes}", hexes[:16] + " " + hexes[16:]):
        assert "must contain one key of 32 hex digits" in on.refused("meta-key", "add", "acme", on.file(wrong))
        assert "standard input must contain" in on.refused("meta-key", "add", "acme", "-", given=wrong)
        on.refused("group", "create", "acme", "x", "--profile", f"@{on.file(wrong)}")
        on.refused("group", "create", "acme", "x", "--rules", on.file(json.dumps({"default": [hexes]})))
        on.refused(
            "group", "create", "acme", "x", "--profile", "boltcard", "--derivation", f"@{on.file(json.dumps({'scheme': hexes}))}"
        )
    on.refused("group", "add-key", "acme", "shoes", files["master"])
    printed = "\n".join(on.printed)
    assert len(printed) > 5000
    found = [(kind, form) for kind, key in keys.items() for form in spellings(key) if form in printed]
    assert found == []
    parts = [(kind, part) for kind, key in keys.items() for part in (key.hex()[:12], key.hex()[-12:]) if part in printed.lower()]
    assert parts == []


def test_the_search_for_keys_finds_one(on: Installation) -> None:
    """The control of the test above: a key that someone stores as a name is printed."""
    key = secrets.token_bytes(16)
    on.done("account", "set", "acme", "--name", key.hex())
    on.done("account", "show", "acme")
    assert any(form in "\n".join(on.printed) for form in spellings(key))


def test_standard_input_is_read_once(on: Installation) -> None:
    words = ["group", "create", "acme", "x", "--profile", "-", "--meta-key", "-"]
    assert "Only one option can read standard input" in on.refused(*words, given="{}")
    assert "--master-key requires --derivation" in on.refused("group", "create", "acme", "x", "--master-key", "-", given="")
    assert "cannot read /nowhere/key" in on.refused("meta-key", "add", "acme", "/nowhere/key")
