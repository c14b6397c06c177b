"""Check an installed ixfast as a user would: `python release/smoke.py`, with the Python that it is installed for.

It imports the package, checks that the compiled modules are in use, verifies a published example, starts a server with a private
PostgreSQL (the extra `embedded`), inspects a tap with `ixfast verify`, and scans it twice. It needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / "ixfast"
SERVE_DEADLINE_S = 90
STOP_DEADLINE_S = 30


def run(*arguments: str, folder: Path) -> str:
    done = subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise SystemExit(f"ixfast {' '.join(arguments)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check_import(folder: Path) -> None:
    """The versions that the package reports. IXFAST_FORCE_TWIN is absent here, so the compiled forms have to be in use."""
    from ixfast.versions import versions as installed

    versions = installed()
    assert versions["ixfast"] == importlib.metadata.version("ixfast"), versions
    assert str(versions["core"]).startswith("native"), versions
    assert versions["path"] == "compiled", versions
    assert run("--version", folder=folder).strip().endswith(importlib.metadata.version("ixfast"))


def check_core() -> None:
    """The examples of NXP's application note AN12196, revision 1.8: a MAC of table 5, and the PICC data of table 3; then
    the Python API with a virtual tag."""
    import ixfast
    from ixfast import cmac

    zero = bytes(16)
    assert cmac.sdm_verify(zero, bytes.fromhex("04de5f1eacc040"), 61, b"", bytes.fromhex("94eed9ee65337086"))
    assert not cmac.sdm_verify(zero, bytes.fromhex("04de5f1eacc040"), 62, b"", bytes.fromhex("94eed9ee65337086"))
    block = cmac.picc_decrypt(zero, bytes.fromhex("ef963ff7828658a599f3041510671e88"))
    assert block.hex() == "c704de5f1eacc0403d0000da5cf60941"
    tag = ixfast.testing.VirtualTag("encrypted")
    assert ixfast.verify(tag.tap(), profile="encrypted", keys=tag.keys).authentic


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve with a private database in `folder` on free ports; yields the URL of an unused tap."""
    command = [COMMAND, "serve", "--demo", "--workers", "1", "--port", "0", "--private-port", "0", "--data-dir", folder / "data"]
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + SERVE_DEADLINE_S
            while (found := re.search(r"curl '(http[^']+)'", (folder / "output").read_text())) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"ixfast serve printed no example:\n{(folder / 'output').read_text()}")
                time.sleep(0.1)
            yield found[1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_DEADLINE_S) == 0, (folder / "output").read_text()
        finally:
            process.kill()
            process.wait()


def check_server(folder: Path) -> None:
    with served(folder) as url:
        report = run("verify", url, "--account", "demo", "--data-dir", str(folder / "data"), folder=folder)
        assert re.search(r"^result +authentic$", report, re.MULTILINE), report
        responses = []
        for _ in range(2):
            with urllib.request.urlopen(url, timeout=10) as response:
                responses.append(json.load(response)["response"])
        assert responses == ["Pass", "Fail"], responses


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ixfast-smoke-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # started by root, PostgreSQL runs as another user
        for variable in [each for each in os.environ if each.startswith("IXFAST_")]:
            del os.environ[variable]
        os.chdir(folder)
        check_import(folder)
        check_core()
        check_server(folder)
    version = importlib.metadata.version("ixfast")
    print(f"ixfast {version} on Python {sys.version.split()[0]}: compiled; a tap passes once; verify agrees")


if __name__ == "__main__":
    main()
