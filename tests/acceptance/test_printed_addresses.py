"""Every address that ixfast prints is one that a client can use, whatever address the server listens at."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import eventually_sync
from support.requirements import requires
from support.served import Served


def curl(*words: str) -> str:
    """What curl prints, without a proxy."""
    command = [requires("curl", package="curl"), "-sS", "--noproxy", "*", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def printed(served: Served) -> tuple[str, str, str]:
    """The two addresses of the banner, and the URL of the tap."""
    line = eventually_sync(lambda: next((line for line in served.output.splitlines() if "curl" in line), None), 10)
    scans, private = re.findall(r" at (http\S+)$", served.output, re.MULTILINE)
    return scans, private, shlex.split(line)[1]


@pytest.mark.parametrize(
    ("host", "private_host", "shown", "reached"),
    [
        ("::", "::1", ("[::]", "[::1]"), "[::1]"),
        ("::1", "::", ("[::1]", "[::]"), "[::1]"),
        ("0.0.0.0", "127.0.0.1", ("0.0.0.0", "127.0.0.1"), "127.0.0.1"),
        ("[::1]", "localhost", ("[::1]", "localhost"), "[::1]"),
        ("0:0:0:0:0:0:0:0", "0.0.0.0", ("[0:0:0:0:0:0:0:0]", "0.0.0.0"), "[::1]"),
    ],
)
def test_printed_addresses_answer(
    host: str, private_host: str, shown: tuple[str, str], reached: str, database: str, server_dir: Path
) -> None:
    with Served(server_dir, "--demo", dsn=database, workers=1, host=host, private_host=private_host) as served:
        scans, private, tap = printed(served)
        assert (scans, private) == (f"http://{shown[0]}:{served.port}", f"http://{shown[1]}:{served.private_port}")
        assert json.loads(curl("--globoff", f"{private}/readyz")) == {"ready": True, "problems": {}}
        assert json.loads(curl("--globoff", f"{scans}/v1/t?x=nosuchtag"))["error"] == "not_found"
        assert tap.startswith(f"http://{reached}:{served.port}/v1/t?")
        assert json.loads(curl(tap))["response"] == "Pass"
        assert f"http://{reached}:{served.port}/v1/t?" in served.cli("tap")
        if host == "::":
            assert json.loads(curl(f"http://127.0.0.1:{served.port}/v1/t?x=nosuchtag"))["error"] == "not_found"


@pytest.mark.parametrize("private_host", ["::", "::1"])
def test_commands_find_a_server_on_ipv6(private_host: str, server_dir: Path) -> None:
    """With a private database, commands read the addresses that the server has published."""
    with Served(server_dir, "--demo", workers=1, host="::1", private_host=private_host) as served:
        _, _, tap = printed(served)
        assert json.loads(curl(tap))["response"] == "Pass"
        checks = json.loads(subprocess.run(served.command("doctor", "--json"), env=served.environ, capture_output=True).stdout)
        (server,) = [each for each in checks["checks"] if each["name"] == "server"]
        assert f"http://[::1]:{served.private_port}" in server["text"] or server["status"] == "WARN"


@pytest.mark.parametrize(
    ("setting", "address", "words"),
    [
        ("host", "2001:db8::1", "host: cannot bind [2001:db8::1]:"),
        ("private_host", "192.0.2.1", "private_host: cannot bind 192.0.2.1:"),
        ("host", "fe80::1%lo", "host: cannot bind [fe80::1%25lo]:"),
        ("host", "no-such-host.invalid", "host: cannot bind no-such-host.invalid:"),
    ],
)
def test_an_address_of_another_machine_is_named(setting: str, address: str, words: str, server_dir: Path, database: Any) -> None:
    served = Served(server_dir, dsn=database, workers=1, **{setting: address})
    served.start(ready=False)
    assert served.process is not None
    assert eventually_sync(served.process.poll, 20) != 0
    assert words in served.log and "use an address of this machine" in served.log
    assert served.log.count("\n") == 1
