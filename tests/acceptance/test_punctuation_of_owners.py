"""Tags whose CUIDs end with punctuation, on a real server, and by `ixfast verify` and `ixfast audit`."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from support.served import Connection, Served, once

from ixfast.domain.model import EncodingProfile
from ixfast.testing.virtual_tags import VirtualTag

CUIDS = ["SN-123456.", "LOT123456)", "AB1234!", "A1B2C3;", "(AB1234)", "123456*", "77777A'", "SN-123456"]
AID, KEY = "punctuation", bytes(range(16))
PROFILE = EncodingProfile(name="by-cuid", scheme="ntag424-aes", template="n={counter}&e={mac}&id={cuid}")
TAGS = {
    cuid: VirtualTag(PROFILE, xuid=f"punctu{at:02}", uid=bytes([4, 0, 0, 0, 0, 0, at]), file_key=KEY, cuid=cuid)
    for at, cuid in enumerate(CUIDS)
}


@pytest.fixture(scope="module")
def owner(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Served:
    home = tmp_path_factory.mktemp("punctuation")
    (home / "profile.json").write_text(json.dumps({"name": PROFILE.name, "scheme": PROFILE.scheme, "template": PROFILE.template}))
    with (home / "tags.csv").open("w", newline="") as file:
        rows = [[tag.xuid, tag.uid.hex(), cuid, KEY.hex()] for cuid, tag in TAGS.items()]
        csv.writer(file).writerows([["xuid", "uid", "cuid", "file_key"], *rows])
    server.cli("account", "create", AID, "--open")
    server.cli("folder", "create", AID, "F")
    server.cli("group", "create", AID, "G", "--folder", "F", "--profile", f"@{home / 'profile.json'}")
    server.cli("import", str(home / "tags.csv"), "--account", AID, "--group", "G")
    return server


def run(server: Served, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(server.command(*words), env=server.environ, capture_output=True, text=True, timeout=60, check=False)


def taps(cuid: str, counters: Sequence[int]) -> list[str]:
    """Taps of which every other one has the text as it is, and not percent-encoded."""
    urls = [TAGS[cuid].tap_at(counter) for counter in counters]
    return [url.replace(quote(cuid, safe=""), cuid) if at % 2 else url for at, url in enumerate(urls)]


@pytest.mark.parametrize("cuid", CUIDS)
async def test_all_who_read_it_find_the_tag_of_the_whole_text(owner: Served, cuid: str) -> None:
    for url in taps(cuid, (1, 2)):
        done = run(owner, "verify", url, "--account", AID)
        assert done.returncode == 0 and f"{TAGS[cuid].xuid} in {AID}" in done.stdout, done.stdout
        assert "read without" not in done.stdout
        async with await Connection.open(owner.port) as connection:
            found = (await connection.post("/v2/scans", {"url": url, "account": AID})).json
        assert (found["verdict"], found["tag"]["cuid"]) == ("genuine", cuid)
        assert (await once(owner.port, f"/v1/t?a={AID}&{url.partition('?')[2]}")).failed
        assert run(owner, "verify", url, "--account", AID).returncode == 8
    for url in taps(cuid, (3, 4)):
        assert (await once(owner.port, f"/v1/t?a={AID}&{url.partition('?')[2]}")).passed
    (row,) = owner.fetch("SELECT scan_count FROM tag_counter JOIN tag USING (tag_id) WHERE xuid = $1", TAGS[cuid].xuid)
    assert row["scan_count"] == 4


@pytest.mark.parametrize("form", ["list", "csv", "quoted list"])
def test_an_audit_finds_the_tag_of_the_whole_text(owner: Served, tmp_path: Path, form: str) -> None:
    urls = [url for cuid in CUIDS for url in taps(cuid, (7, 8))]
    path = tmp_path / f"taps.{'csv' if form == 'csv' else 'txt'}"
    with path.open("w", newline="") as file:
        if form == "csv":
            csv.writer(file).writerows([["url"], *([url] for url in urls)])
        else:
            file.writelines(f'"{url}",\n' if form == "quoted list" else f"{url}\n" for url in urls)
    done = run(owner, "audit", str(path), "--account", AID, "--show", "none", "--json")
    counts = {each["verdict"]: each["taps"] for each in json.loads(done.stdout)["counts"]}
    assert (done.returncode, counts) == (0, {"genuine": len(urls)}), done.stdout


@pytest.mark.parametrize("around", ["\uff08{}\uff09", "「{}」", "{}。", 'href="{}"', "[[{}|Tag]]", "url={}", "{}&", '{}"'])
def test_what_is_around_a_url_is_left_out(owner: Served, around: str) -> None:
    done = run(owner, "verify", around.format(TAGS["SN-123456"].tap_at(90)), "--account", AID)
    assert done.returncode == 0 and f"{TAGS['SN-123456'].xuid} in {AID}" in done.stdout, done.stdout
    assert done.stdout.startswith("URL ") is (around not in ("url={}", "{}&"))  # these two are read as they are
