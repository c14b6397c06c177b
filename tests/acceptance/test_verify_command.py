"""`ixfast verify` explains a tap, compares it with the ledger, and consumes nothing."""

from __future__ import annotations

import asyncio
import re
import subprocess

import pytest
from support.served import Served, once

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
    """The steps by name. The exit status says whether the tap would pass; an error has another one."""
    done = verify(server, *words)
    assert done.returncode in (0, 3), done.stderr
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


def test_a_malformed_tap_is_one_line_of_error(provisioned: Served) -> None:
    url = PLAIN[1].tap().replace("&e=", "&e=x")
    done = verify(provisioned, url)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*the parameter must be 16 hex digits\.?\n", done.stderr)


@pytest.mark.parametrize("tag", [PLAIN[2], ENCRYPTED[2]], ids=["plain", "encrypted"])
def test_no_key_and_no_expected_code_is_shown(provisioned: Served, tag: VirtualTag) -> None:
    genuine, forged = tag.tap(), tag.tap_at(2)[:-16] + "0" * 16
    output = "".join(verify(provisioned, url, "--account", tag.aid or "").stdout for url in (genuine, forged)).lower()
    assert "authentic" in output and "mac_mismatch" in output
    expected = tag.tap_at(2)[-16:].lower()
    assert not any(secret in output for secret in (tag.file_key.hex(), tag.meta_key.hex(), expected))
