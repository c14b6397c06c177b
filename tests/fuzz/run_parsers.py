"""Fuzzes what reads strangers' texts, with coverage feedback by atheris: run_parsers.py [--runs N] [TARGET ...].

Targets: `query` (the query of /v1/t), `taps` (URLs and parameters by several presets, through to the verdict), `head` (the
front door's recogniser), `template` (encoding profiles), in parser_targets.py. A find ends the run
with its input.

Each target runs in a process of its own. New inputs go to build/fuzz/, beside those that found something.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ixfast", "parser_targets"]):
    from parser_targets import GENUINE, TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
WORK = ROOT / "build" / "fuzz"
TEXT_BYTES_MAX = 8200


def write_dictionary(path: Path) -> None:
    """Words that a fuzzer would take long to guess: the pieces of genuine taps, notations and heads."""
    words = {piece for url in GENUINE for piece in re.split(r"(?<=[=/&?])", url)}
    words |= {f"{{{name}}}" for name in ("uid", "counter", "picc", "enc:32", "enc", "mac", "tamper", "tt", "xuid", "cuid", "aid")}
    words |= {
        "x=q8w3sbcz",
        "&n=000001",
        "GET /v1/t?",
        " HTTP/1.1\\x0d\\x0a",
        "Host: a\\x0d\\x0a\\x0d\\x0a",
        "X-Api-Key: ",
        "%2F",
        "%",
    }
    path.write_text("".join(f'"{word}"\n' for word in sorted(words) if word))


def run(name: str, runs: int, seconds: int) -> None:
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "taps":
        for place, url in enumerate(GENUINE):
            (folder / f"genuine-{place}").write_bytes(bytes((place,)) + url.encode())
    dictionary = WORK / "words.txt"
    write_dictionary(dictionary)
    flags = [f"-runs={runs}", f"-max_total_time={seconds}", f"-max_len={TEXT_BYTES_MAX}", f"-dict={dictionary}"]
    flags += ["-print_final_stats=1", f"-artifact_prefix={WORK}/{name}-"]
    atheris.Setup([sys.argv[0], *flags, str(folder), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each target")
    parser.add_argument("--seconds", type=int, default=0, help="end each target after this time; 0: only by --runs")
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none is named")
    asked = parser.parse_args()
    if asked.one:
        run(asked.one, asked.runs, asked.seconds)
        return 0
    unknown = set(asked.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    for name in asked.targets or TARGETS:
        print(f"fuzzing {name}", flush=True)
        command = [sys.executable, __file__, "--one", name, "--runs", str(asked.runs), "--seconds", str(asked.seconds)]
        status = subprocess.run(command).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
