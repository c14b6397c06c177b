"""Fuzzes what reads strangers' texts, with coverage feedback by atheris: run_parsers.py [--runs N] [TARGET ...].

Targets: `query` (the query of /v1/t), `taps` (URLs and parameters by several presets, through to the verdict), `head` (the
front door's recogniser), `template` (encoding profiles). A parser may refuse a text with InputError, a profile with
ProfileError; anything else that comes out, or an answer that contradicts itself, ends the run with the input that did it.

Each target runs in a process of its own. New inputs go to build/fuzz/, beside those that found something.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ixfast"]):
    from ixfast.chips import Message, Missing, compile_profile
    from ixfast.chips.profile import CompiledProfile
    from ixfast.errors import InputError, ProfileError
    from ixfast.http.hot_request import Recogniser, may_become_hot
    from ixfast.http.v1_query import V1Query, parse_parameters, read_query
    from ixfast.model import EncodingProfile
    from ixfast.testing import VirtualTag

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
WORK = ROOT / "build" / "fuzz"
TEXT_BYTES_MAX = 8200

UID = bytes.fromhex("04a1b2c3d4e5f6")
NAMES = ("ixkio-plain", "plain-joined", "plain-tamper", "encrypted-tamper", "bulk", "path", "ntag22x-sd", "lrp-encrypted-file")
TAGS = [VirtualTag(name, xuid="q8w3sbcz", uid=UID, file_key=bytes(range(16)), aid="acme") for name in NAMES]
GENUINE = [tag.tap_at(9) for tag in TAGS]
RECOGNISER = Recogniser()
HEAD_END = b"\r\n\r\n"


def fuzz_query(given: bytes) -> None:
    """The short way for the usual query says what the general way says, and a parameter is never longer than the query."""
    text = given.decode("utf-8", "surrogateescape")
    try:
        query = read_query(text)
    except InputError:
        return
    assert isinstance(query, V1Query)
    assert -1 <= query.counter <= 0xFFFFFF
    assert query.mac is None or len(query.mac) == 8
    assert query.ref is not None or query.aid is not None
    assert all(value.isprintable() and len(value) <= len(text) for value in parse_parameters(text).values())


def fuzz_taps(given: bytes) -> None:
    """A text that a profile reads as genuine has the MAC, UID and counter of the one genuine tap that there is."""
    if not given:
        return
    place, text = given[0] % len(TAGS), given[1:].decode("utf-8", "surrogateescape")
    tag = TAGS[place]
    for message in (_read(tag.profile.read_url, text), _read(lambda t: tag.profile.read_parameters(parse_parameters(t)), text)):
        if isinstance(message, Message):
            evidence = _examined(tag, tag.profile, message)
            assert not evidence or evidence == 9, "a MAC was found that nobody made"


def _read(read: Callable[[str], Message | Missing | None], text: str) -> Message | Missing | None:
    try:
        return read(text)
    except InputError:
        return None


def _examined(tag: VirtualTag, profile: CompiledProfile, message: Message) -> int | None:
    known = {"uid": tag.uid, "file_keys": tag.file_keys(), "meta_keys": tag.meta_keys(), "statics": tag.statics}
    evidence = profile.examine(message, **known)
    profile.explain(message, **known)
    return evidence.counter if evidence.authentic else None


def fuzz_head(given: bytes) -> None:
    """What is recognised is whole, and what comes in two pieces is waited for and then read alike."""
    found = RECOGNISER.recognise(given)
    if found is None:
        may_become_hot(given)
        return
    query, head, length = found
    assert given[:length].endswith(HEAD_END)
    assert given[:length].count(HEAD_END) == 1
    assert given.startswith(b"GET /v1/t?" + query.encode() + b" HTTP/1.1\r\n")
    again = RECOGNISER.recognise(given[:length] + b"GET / HTTP/1.1\r\n")
    assert again is not None and again[0] == query and again[2] == length and again[1] is head
    cut = 1 + len(given) % (length - 1)
    assert may_become_hot(given[:cut]), "the beginning of a hot request is handed over too early"
    with contextlib.suppress(InputError):
        read_query(query)


def fuzz_template(given: bytes) -> None:
    """A profile that compiles reads what a tag of it writes."""
    text = given.decode("utf-8", "surrogateescape")
    template, _, rest = text.partition("\n")
    window, _, more = rest.partition("\n")
    scheme = ("ntag424-aes", "ntag424-lrp", "ntag223", "ntag22x-sd")[len(more) % 4]
    offset = more.count("0") if "0" in more else None
    try:
        compiled = compile_profile(
            EncodingProfile(
                name="fuzz",
                scheme=scheme,
                template=template,
                window=window,
                tamper_offset=offset,
                allow_without_counter="c" in more,
            )
        )
    except ProfileError:
        return
    tag = VirtualTag(compiled, xuid="q8w3sbcz", uid=UID, file_key=bytes(16), cuid="own1", aid="acme", counter=1)
    _read(compiled.read_url, tag.tap())
    _read(compiled.read_url, more)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "query": fuzz_query,
    "taps": fuzz_taps,
    "head": fuzz_head,
    "template": fuzz_template,
}


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
