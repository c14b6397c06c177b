"""`ixfast verify` explains a tap, compares it with the ledger, and consumes nothing."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from urllib.parse import quote

import pytest
from support.served import Connection, Served, once

from ixfast.testing import VirtualFleet, VirtualTag

PLAIN = VirtualFleet(14, 4, account="verify-plain")
ENCRYPTED = VirtualFleet(15, 4, "encrypted-tamper", account="verify-encrypted")


@pytest.fixture(scope="module")
def provisioned(server: Served) -> Served:
    server.provision(PLAIN)
    server.provision(ENCRYPTED)
    return server


def verify(server: Served, *words: str) -> subprocess.CompletedProcess[str]:
    command = server.command("verify", *words)
    return subprocess.run(command, env=server.environ, capture_output=True, text=True, timeout=60, check=False)


def explained(server: Served, *words: str) -> dict[str, str]:
    """The steps by name. The exit status is 0 only if the tap would pass."""
    done = verify(server, *words)
    assert done.returncode in (0, 3, 6, 7, 8), done.stderr
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in done.stdout.splitlines())


def test_an_encrypted_tap_step_by_step(provisioned: Served) -> None:
    tag = ENCRYPTED[0]
    steps = explained(provisioned, tag.tap(), "--account", ENCRYPTED.account)
    assert list(steps) == [
        "tag", "profile", "found", "registered UID", "meta keys", "mirror", "file keys", "session vector", "window", "MAC",
        "file data", "tamper", "result", "ledger",
    ]  # fmt: skip
    assert steps["tag"].startswith(f"{tag.xuid} in {ENCRYPTED.account} / ")
    assert steps["mirror"].endswith(f"UID {tag.uid.hex().upper()}, counter 1")
    assert steps["tamper"] == "stored C, current C"
    assert steps["result"] == "authentic"
    assert steps["ledger"] == "counter 1 is new, a scan would pass; newest accepted: none yet"


def test_the_ledger_decides_whether_a_tap_is_new_and_nothing_is_consumed(provisioned: Served) -> None:
    tag = PLAIN[0]
    tag.counter = 6
    url = tag.tap()
    for _ in range(2):
        assert explained(provisioned, url)["ledger"] == "counter 7 is new, a scan would pass; newest accepted: none yet"
    answer = asyncio.run(once(provisioned.port, f"/v1/t?{url.partition('?')[2]}"))
    assert answer.passed
    used = "counter 7 is used, a scan is refused; newest accepted: 7 of key version 1"
    assert explained(provisioned, url)["ledger"] == used
    assert explained(provisioned, tag.tap())["ledger"].startswith("counter 8 is new")


def test_a_forged_tap_is_not_compared_with_the_ledger(provisioned: Served) -> None:
    steps = explained(provisioned, PLAIN[1].forged())
    assert steps["result"] == "not authentic: mac_mismatch: the MAC does not match under any live file key"
    assert "ledger" not in steps


def test_what_a_url_lacks(provisioned: Served) -> None:
    url = PLAIN[1].tap().partition("&e=")[0]
    assert explained(provisioned, url)["result"].lower().startswith("incomplete")
    assert "the profile ixkio-plain also needs e" in explained(provisioned, url)["result"]
    assert explained(provisioned, "https://tag.example/t?x=nosuchta")["result"].startswith("tag not found")


def without_pair(url: str, name: str) -> str:
    return re.sub(rf"&{name}=[^&]*", "", url)


def status_and_result(server: Served, *words: str) -> tuple[int, str]:
    """The exit status and the last step, which `--json` has as well."""
    done, shown = verify(server, *words), verify(server, *words, "--json")
    assert done.returncode == shown.returncode, shown.stderr
    content = json.loads(shown.stdout)
    assert content["passes"] is (done.returncode == 0)
    assert done.stderr == "" and len(done.stdout.splitlines()) == len(content["steps"])
    return done.returncode, content["steps"][-1]["finding"]


USUAL = VirtualFleet(16, 8, "plain-uid-counter", account="verify-usual")


@pytest.fixture(scope="module")
def usual(provisioned: Served) -> Served:
    provisioned.provision(USUAL)
    return provisioned


def test_the_exit_status_says_what_kind_of_answer_it_is(usual: Served) -> None:
    tag = USUAL[0]
    url, account = tag.tap(), ("--account", USUAL.account)
    unknown = VirtualFleet(17, 1, "plain-uid-counter")[0].tap()
    assert status_and_result(usual, url, *account)[0] == 0
    assert status_and_result(usual, USUAL[1].forged(), *account)[0] == 3
    assert status_and_result(usual, without_pair(url, "cmac"), *account)[0] == 6
    assert status_and_result(usual, unknown, *account) == (7, "tag not found: the URL is a tap, but of no tag of this account")
    assert status_and_result(usual, url, "--account", "nobody")[0] == 7
    assert asyncio.run(once(usual.port, f"/v1/t?{url.partition('?')[2]}&a={USUAL.account}")).passed
    assert status_and_result(usual, url, *account)[0] == 8
    usual.cli("tag", "deactivate", USUAL[2].xuid)
    assert status_and_result(usual, USUAL[2].tap(), *account)[0] == 9
    assert verify(usual, url).returncode == 2


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "a short counter": (lambda url: re.sub(r"ctr=\w+", "ctr=1", url), "malformed: ctr must be 6 hex digits (it has 1 character)"),
    "a cut MAC": (lambda url: url[:-1], "malformed: cmac must be 16 hex digits (it has 15 characters)"),
    "no hex digits": (
        lambda url: url[:-1] + "g",
        "malformed: cmac must be 16 hex digits (it has 16 characters, some of which do not fit)",
    ),
    "a parameter twice": (lambda url: f"{url}&cmac=0000000000000000", "malformed: cmac appears twice"),
    "a parameter less": (
        lambda url: without_pair(url, "ctr"),
        "Incomplete tap: the profile plain-uid-counter also needs ctr",
    ),
    "two parameters less": (
        lambda url: without_pair(without_pair(url, "ctr"), "cmac"),
        "Incomplete tap: the profile plain-uid-counter also needs ctr, cmac",
    ),
    "no UID": (
        lambda url: re.sub(r"uid=\w+&", "", url),
        "incomplete: the URL names no tag: the profile plain-uid-counter also needs uid",
    ),
    "HTML": (lambda url: url.replace("&", "&amp;"), "malformed: The URL is escaped: replace each &amp; (or \\u0026) with &"),
    "HTML by numbers": (
        lambda url: url.replace("&", "&#38;"),
        "malformed: The URL is escaped: replace each &amp; (or \\u0026) with &",
    ),
    "JSON": (lambda url: url.replace("&", "\\u0026"), "malformed: The URL is escaped: replace each &amp; (or \\u0026) with &"),
    "encoded whole": (
        lambda url: quote(url, safe=""),
        "malformed: The URL is percent-encoded as a whole: decode it first",
    ),
    "another page": (
        lambda _: "https://tag.example/?lang=en&ref=mail",
        "no profile of the account reads this URL: it has the parameters lang, ref; the account's profile is "
        "plain-uid-counter: uid={uid}&ctr={counter}&cmac={mac}",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_missing_or_malformed_is_named(usual: Served, change: str) -> None:
    changed, outcome = CHANGES[change]
    assert status_and_result(usual, changed(USUAL[3].tap()), "--account", USUAL.account) == (6, outcome)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("https://h.example/", "no parameters"),
        ("foo", "text, but no parameters such as name=value"),
        ("https://h.example/?foo", "text, but no parameters such as name=value"),
        ("https://h.example/?foo=1", "the parameter foo"),
        ("https://h.example/?foo=1&404142434445464748494a4b4c4d4e4f=1", "the parameters foo, one of 32 characters"),
    ],
)
def test_what_is_no_tap_is_described_in_plain_words(usual: Served, url: str, what: str) -> None:
    status, result = status_and_result(usual, url, "--account", USUAL.account)
    assert status == 6 and f"reads this URL: it has {what}; the account's profile is plain-uid-counter: " in result, result


def test_an_account_without_a_profile_is_told_to_create_a_group(usual: Served) -> None:
    usual.cli("account", "create", "verify-bare")
    status, result = status_and_result(usual, USUAL[0].tap(), "--account", "verify-bare")
    assert status == 6 and result.endswith(
        "the account has no group with an encoding profile; create one with `ixfast group create verify-bare NAME --folder "
        "FOLDER --profile PROFILE`"
    )


SHAPES: dict[str, Callable[[str], str]] = {
    "a line end": lambda url: f"{url}\n",
    "an international host name": lambda url: url.replace("tag.example", "müller.example"),
    "no path": lambda url: f"tagapp://{url.partition('?')[2]}",
    "the fragment": lambda url: url.replace("/t?", "/#/t?"),
    "the account in the URL": lambda url: f"{url}&a={USUAL.account}",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_url_of_any_shape_is_explained(usual: Served, shape: str) -> None:
    account = () if shape == "the account in the URL" else ("--account", USUAL.account)
    assert status_and_result(usual, SHAPES[shape](USUAL[4].tap()), *account)[0] == 0


@pytest.mark.parametrize("around", ['"{}"', "<{}>", "({})", "{},", "{}.", "[x]({})", '{}"', "\u201c{}\u201d"])
def test_what_was_copied_with_a_url_is_left_out_and_that_is_reported(usual: Served, around: str) -> None:
    tag, account = USUAL[5], ("--account", USUAL.account)
    status, result = status_and_result(usual, around.format(tag.tap()), *account)
    assert status == 0 and result.startswith("counter ") and "is new, a scan would pass" in result
    steps = explained(usual, around.format(tag.tap()), *account)
    assert next(iter(steps.items())) == ("URL", "read without the quotes, brackets or punctuation around it")
    assert "URL" not in explained(usual, tag.tap(), *account)
    assert status_and_result(usual, around.format(tag.forged()), *account)[0] == 3


def test_a_reversed_uid_in_a_url_is_recognised(usual: Served) -> None:
    url = USUAL[6].tap()
    uid = USUAL[6].uid.hex().upper()
    backwards = url.replace(uid, bytes.fromhex(uid)[::-1].hex().upper())
    assert status_and_result(usual, backwards, "--account", USUAL.account) == (
        7,
        "tag not found: the URL is a tap, but of no tag of this account. The bytes of the UID are in reverse order: they end "
        "with 04 instead of beginning with it",
    )
    other = url.replace(uid, "05A1B2C3D4E5F6")
    assert "reverse" not in status_and_result(usual, other, "--account", USUAL.account)[1]


def test_a_list_by_a_reversed_uid_is_not_just_empty(usual: Served) -> None:
    listed = usual.command("tag", "list", USUAL.account, "--uid", "f6e5d4c3b2a104")
    done = subprocess.run(listed, env=usual.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stderr == (
        "Error: uid: The bytes of the UID are in reverse order: they end with 04 instead of beginning with it. Write them in the "
        "order in which the chip sends them.\n"
    )


def test_a_key_as_a_parameters_name_is_not_shown(usual: Served) -> None:
    key = USUAL[3].file_key.hex()
    for url in (f"https://tag.example/?{key}=1", f"https://tag.example/?{key}", f"https://tag.example/?k={key}"):
        done = verify(usual, url, "--account", USUAL.account)
        assert done.returncode == 6 and key not in done.stdout + done.stderr
    assert "one of 32 characters" in verify(usual, f"https://tag.example/?{key}=1", "--account", USUAL.account).stdout


@pytest.mark.parametrize("tag", [PLAIN[2], ENCRYPTED[2]], ids=["plain", "encrypted"])
def test_no_key_and_no_expected_code_is_shown(provisioned: Served, tag: VirtualTag) -> None:
    genuine, forged = tag.tap(), tag.tap_at(2)[:-16] + "0" * 16
    output = "".join(verify(provisioned, url, "--account", tag.aid or "").stdout for url in (genuine, forged)).lower()
    assert "authentic" in output and "mac_mismatch" in output
    expected = tag.tap_at(2)[-16:].lower()
    assert not any(secret in output for secret in (tag.file_key.hex(), tag.meta_key.hex(), expected))


MIXED = VirtualFleet(19, 2, "plain-uid-counter", account="verify-mixed")
ONE_FIELD = {"name": "one-field", "scheme": "ntag424-aes", "template": "uid={uid}x{counter}x{mac}"}


PATHS = VirtualFleet(2117, 1, "path", account="verify-paths")
CUT_PATHS = {
    "a cut MAC": (lambda url: url[:-1], "malformed: mac in the path must be 16 hex digits (it has 15 characters)"),
    "a cut mirror": (
        lambda url: url[:-18] + url[-17:],
        "malformed: picc in the path must be 32 hex digits (it has 31 characters)",
    ),
    "no MAC": (lambda url: url[:-17], "the profile path also needs mac"),
}


@pytest.fixture(scope="module")
def in_paths(server: Served) -> Served:
    server.provision(PATHS)
    return server


@pytest.mark.parametrize("cut", CUT_PATHS)
def test_a_tap_with_a_cut_path_is_described(in_paths: Served, cut: str) -> None:
    change, expected = CUT_PATHS[cut]
    status, result = status_and_result(in_paths, change(PATHS[0].tap()), "--account", PATHS.account)
    assert status == 6 and result.endswith(expected)


@pytest.fixture(scope="module")
def mixed(usual: Served, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """With a second account, whose other group has a profile that uses the name `uid` for the whole tap."""
    usual.provision(MIXED)
    profile = tmp_path_factory.mktemp("profile") / "one-field.json"
    profile.write_text(json.dumps(ONE_FIELD))
    usual.cli("folder", "create", MIXED.account, "Other")
    usual.cli("group", "create", MIXED.account, "Other", "--folder", "Other", "--profile", f"@{profile}")
    return usual


@pytest.mark.parametrize("lost", ["ctr", "cmac", "ctr cmac"])
@pytest.mark.parametrize("fleet", [USUAL, MIXED], ids=["alone", "mixed"])
def test_every_endpoint_calls_a_known_tag_without_a_mirror_incomplete(mixed: Served, fleet: VirtualFleet, lost: str) -> None:
    url = fleet[1].tap()
    for name in lost.split():
        url = without_pair(url, name)
    query = url.partition("?")[2]

    async def scanned() -> None:
        async with await Connection.open(mixed.port) as connection:
            for body in ({"url": url}, {"query": query}):
                answer = await connection.post("/v2/scans", body | {"account": fleet.account})
                assert answer.status == 200, answer
                assert (answer.json["verdict"], answer.json["reason"]) == ("incomplete", "missing_parameter")
            v1 = await connection.get(f"/v1/t?{query}&a={fleet.account}")
            assert (v1.status, v1.json["xuid"], v1.passed) == (200, fleet.xuid(1), False)

    asyncio.run(scanned())
    status, result = status_and_result(mixed, url, "--account", fleet.account)
    assert (status, result) == (6, f"Incomplete tap: the profile plain-uid-counter also needs {', '.join(lost.split())}")
