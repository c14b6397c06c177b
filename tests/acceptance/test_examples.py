"""The programs in examples/: each runs, and examples/README.md shows what it prints."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.served import ANSWER_DEADLINE_S, Served

from ixfast.testing import VirtualFleet, VirtualTag

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text()
TRANSCRIPTS = re.findall(r"^```console\n\$ ([^\n]*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
WITH_SERVER = ("web_server.py", "flask_view.py")
FLEET = VirtualFleet(1400, 20, "encrypted", account="shop")
LISTENING = re.compile(r"Listening on (http://\S+)\n")


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IXFAST_")} | environ
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_every_example_is_listed_and_shown() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert set(re.findall(r"^\| \[(\w+\.py)\]", README, re.MULTILINE)) == programs
    shown = {name for command, _ in TRANSCRIPTS for name in re.findall(r"examples/(\w+\.py)", command)}
    assert shown == programs


def test_the_example_tests_run_without_plugins_of_pytest() -> None:
    done = run("-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:schemathesis", "examples/test_my_integration.py")
    assert (done.returncode, "8 passed" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "output"),
    [pair for pair in TRANSCRIPTS if not any(name in pair[0] for name in WITH_SERVER)],
    ids=lambda text: text[:60],
)
def test_an_example_prints_what_the_readme_shows(command: str, output: str) -> None:
    program, *words = command.split()
    assert program == "python"
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.sub(r"in \d+\.\d+s", "in 0.42s", done.stdout) == output
    assert done.stderr == ""


def test_your_own_tap_is_verified_with_keys_of_a_file(tmp_path: Path) -> None:
    tag = FLEET[0]
    keys = tmp_path / "keys"
    keys.write_text(f"{tag.file_key.hex()}\n{tag.meta_key.hex()}\n")
    genuine = run("examples/verify_url.py", tag.tap(), "encrypted", str(keys))
    assert (genuine.returncode, genuine.stdout.splitlines()[0]) == (0, "authentic")
    forged = run("examples/verify_url.py", tag.forged(), "encrypted", str(keys))
    assert (forged.returncode, forged.stdout) == (1, "not authentic: the MAC does not match under any live file key\n")
    mangled = run("examples/verify_url.py", tag.tap()[:-1], "encrypted", str(keys))
    assert (mangled.returncode, mangled.stderr) == (
        2,
        "cannot verify: Malformed tap: cmac must be 16 hex digits (it has 15 characters).\n",
    )
    keys.write_text(tag.file_key.hex())
    undecided = run("examples/verify_url.py", tag.tap(), "encrypted", str(keys))
    assert undecided.stdout == "undecided: no meta key is known for the encrypted mirror\n"


def test_your_own_taps_are_detected(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{FLEET[1].file_key.hex()}\n{FLEET.meta_key.hex()}\n")
    found = run("examples/detect_profile.py", str(keys), FLEET[1].tap())
    assert (found.returncode, '"template": "picc_data={picc}&cmac={mac}"' in found.stdout) == (0, True)
    assert not any(key.hex() in found.stdout for key in (FLEET[1].file_key, FLEET.meta_key))
    unknown = run("examples/detect_profile.py", str(keys), FLEET[2].tap())
    assert unknown.returncode == 1 and unknown.stdout.startswith("not explained: picc_data is decrypted by")


def test_your_own_batch_is_verified(tmp_path: Path) -> None:
    tag = VirtualTag("plain-uid-counter")
    (tmp_path / "taps.csv").write_text(f"at,url\n1,{tag.tap()}\n2,{tag.tap_at(1)}\n")
    (tmp_path / "tags.csv").write_text(f"uid,file_key\n{tag.uid.hex().upper()},{tag.file_key.hex()}\n")
    done = run("examples/verify_batch.py", str(tmp_path / "taps.csv"), str(tmp_path / "tags.csv"))
    assert done.stdout.splitlines()[-1] == "genuine 1, replayed 1", done.stderr


@contextmanager
def web_server(**environ: str) -> Iterator[str]:
    """The URL of a running web_server.py."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IXFAST_")} | environ
    command = [sys.executable, str(EXAMPLES / "web_server.py")]
    with subprocess.Popen(command, env={**environment, "PORT": "0"}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            listening = LISTENING.fullmatch(process.stdout.readline())
            assert listening is not None
            yield listening[1]
        finally:
            process.terminate()


def get(url: str) -> tuple[int, str, str | None]:
    """Status, body and Cache-Control."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_DEADLINE_S) as response:
            return response.status, response.read().decode(), response.headers["Cache-Control"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Cache-Control"]


def pages(url: str, tag: VirtualTag) -> list[tuple[int, str]]:
    """What the web server shows for a tap, the same tap again, a forged one and a mangled one."""
    tap = tag.tap().partition("?")[2]
    queries = [tap, tap, tag.forged().partition("?")[2], tap[:-1]]
    found = [get(f"{url}/t?{query}") for query in queries]
    assert {cached for _, _, cached in found} <= {"no-store", None}
    return [(status, body) for status, body, _ in found]


@pytest.fixture(scope="module")
def token(server: Served) -> str:
    server.provision(FLEET, is_open=False)
    return server.cli("api-key", "create", FLEET.account).strip()


def shown_bodies(program: str) -> list[str]:
    """The lines that examples/README.md shows as output of curl for a program."""
    (output,) = [output for command, output in TRANSCRIPTS if program in command]
    return [line for line in output.splitlines() if not line.startswith(("$ ", "Listening", " * "))]


def test_the_web_server_shows_what_ixfast_decides(server: Served, token: str) -> None:
    with web_server(IXFAST_URL=server.base_url, IXFAST_API_KEY=token) as url:
        found = pages(url, FLEET[3])
        without_a_tap = [get(f"{url}{path}") for path in ("/", "/t", "/favicon.ico")]
    assert [status for status, _, _ in without_a_tap] == [200, 200, 404]
    assert ["by tapping the product" in body for _, body, _ in without_a_tap] == [True, True, False]
    assert [status for status, _ in found] == [200] * 4
    titles = [re.findall("<h1>(.*)</h1>", body)[0] for _, body in found]
    assert titles == ["Genuine", "Tap the product again", "Not genuine", "Open this page by tapping the product"]
    assert [body.rstrip("\n") for _, body in found[:3]] == shown_bodies("web_server.py")


def test_the_web_server_shows_how_to_open_it_when_it_has_no_account(server: Served) -> None:
    with web_server(IXFAST_URL=server.base_url) as url:
        status, body, _ = get(f"{url}/")
    assert (status, "<h1>Open this page by tapping the product</h1>" in body) == (200, True)


def test_the_web_server_claims_nothing_while_ixfast_is_away_or_the_api_key_is_wrong(server: Served, free_port: int) -> None:
    with web_server(IXFAST_URL=f"http://127.0.0.1:{free_port}") as url:
        assert get(f"{url}/t?picc_data=0")[:2] == (
            503,
            "<!DOCTYPE html><title>Please try again</title><h1>Please try again</h1>"
            "<p>The product cannot be verified at the moment.</p>\n",
        )
    with web_server(IXFAST_URL=server.base_url, IXFAST_API_KEY="wrong") as url:
        status, body, _ = get(f"{url}/t?{FLEET[4].tap().partition('?')[2]}")
    assert status == 500 and "genuine" not in body.lower()


class Flaky(http.server.BaseHTTPRequestHandler):
    """Answers the first request of each key with 503, and cuts the connection after the second."""

    seen: list[tuple[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.headers["Idempotency-Key"], body))
        attempt = sum(1 for key, _ in self.seen if key == self.headers["Idempotency-Key"])
        if attempt == 2:
            self.close_connection = True
            return
        content = json.dumps({"authentic": True, "verdict": "genuine", "response": "<Pass>"}).encode()
        self.send_response(503 if attempt == 1 else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def flaky() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    seen: list[tuple[str, Any]] = []
    handler = type("OwnFlaky", (Flaky,), {"seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}", seen
        service.shutdown()
        thread.join()


def test_a_lost_answer_is_asked_for_with_the_same_idempotency_key(flaky: tuple[str, list[tuple[str, Any]]]) -> None:
    address, seen = flaky
    with web_server(IXFAST_URL=address) as url:
        for _ in range(2):
            status, body, _ = get(f"{url}/a%2Fb?c=%C3%A4&d=+1")
            assert (status, "<p>&lt;Pass&gt;</p>" in body) == (200, True)
        host = url.removeprefix("http://")
    keys = [key for key, _ in seen]
    assert len(keys) == 6 and keys[0] == keys[1] == keys[2] != keys[3] == keys[4] == keys[5]
    assert [body for _, body in seen] == [{"url": f"https://{host}/a%2Fb?c=%C3%A4&d=+1"}] * 6


def flask_view() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flask_view", EXAMPLES / "flask_view.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_flask_view_shows_what_ixfast_decides(server: Served, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IXFAST_URL", server.base_url)
    monkeypatch.setenv("IXFAST_API_KEY", token)
    tag = FLEET[5]
    tap = tag.tap().partition("?")[2]
    with flask_view().app.test_client() as client:
        answers = [client.get(f"/t?{query}") for query in (tap, tap, tag.forged().partition("?")[2], tap[:-1])]
        bodies = [answer.get_data(as_text=True).rstrip("\n") for answer in answers]
        by_hand = client.get("/t").get_data(as_text=True)
    assert bodies == ["Genuine", "Tap the product again.", "Not genuine", by_hand.rstrip("\n")]
    assert by_hand == "Open this page by tapping the product.\n"
    assert bodies[:3] == shown_bodies("flask_view.py")


def test_the_flask_view_asks_again_with_the_same_key(
    flaky: tuple[str, list[tuple[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = flaky
    monkeypatch.setenv("IXFAST_URL", address)
    monkeypatch.setenv("IXFAST_ACCOUNT", "shop")
    with flask_view().app.test_client() as client:
        assert client.get("/t?c=%C3%A4&d=+1").get_data(as_text=True) == "Genuine\n"
    assert len({key for key, _ in seen}) == 1
    assert [body for _, body in seen] == [{"query": "c=%C3%A4&d=+1", "account": "shop"}] * 3
