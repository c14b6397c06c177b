"""Targets of the parser fuzzer: one function for each kind of input, which accepts any bytes.

A parser may reject a text with InputError, or a profile with ProfileError; any other exception, or a result that contradicts
itself, is a finding. The tests run the targets on the corpus.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ixfast.chips import Message, Missing, compile_profile, explain_message
from ixfast.chips.profile import CompiledProfile
from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError, ProfileError
from ixfast.http.hot_request import Recogniser, may_become_hot, plain_query_twin, read_plain_query
from ixfast.http.v1_query import V1Query, parse_parameters, read_query
from ixfast.testing.virtual_tags import VirtualTag

UID = bytes.fromhex("04a1b2c3d4e5f6")
NAMES = ("ixkio-plain", "plain-joined", "plain-tamper", "encrypted-tamper", "bulk", "path", "ntag22x-sd", "lrp-encrypted-file")
TAGS = [VirtualTag(name, xuid="q8w3sbcz", uid=UID, file_key=bytes(range(16)), aid="acme") for name in NAMES]
GENUINE = [tag.tap_at(9) for tag in TAGS]
RECOGNISER = Recogniser()
HEAD_END = b"\r\n\r\n"


def fuzz_query(given: bytes) -> None:
    """An accepted query has values in range and identifies a tag or an account, and no parameter is longer than the query."""
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
    """A text that a profile reads as genuine has the MAC, UID and counter of the only genuine tap."""
    if not given:
        return
    place, text = given[0] % len(TAGS), given[1:].decode("utf-8", "surrogateescape")
    tag = TAGS[place]
    for message in (_read(tag.profile.read_url, text), _read(lambda t: tag.profile.read_parameters(parse_parameters(t)), text)):
        if isinstance(message, Message):
            evidence = _examined(tag, tag.profile, message)
            assert not evidence or evidence == 9, "a forged MAC was accepted"


def _read(read: Callable[[str], Message | Missing | None], text: str) -> Message | Missing | None:
    try:
        return read(text)
    except InputError:
        return None


def _examined(tag: VirtualTag, profile: CompiledProfile, message: Message) -> int | None:
    known = {"uid": tag.uid, "file_keys": tag.file_keys(), "meta_keys": tag.meta_keys(), "statics": tag.statics}
    evidence = profile.examine(message, **known)
    explain_message(profile, message, **known)
    return evidence.counter if evidence.authentic else None


def fuzz_head(given: bytes) -> None:
    """A recognised head is complete, agrees with its query, and is read the same if it arrives in two pieces."""
    assert read_plain_query(given) == plain_query_twin(given)
    found = RECOGNISER.recognise(given)
    if found is None:
        may_become_hot(given)
        return
    asked, head, length = found
    assert given[:length].endswith(HEAD_END)
    assert given[:length].count(HEAD_END) == 1
    line, _, _ = given.partition(b"\r\n")
    query = line.removeprefix(b"GET /v1/t?").removesuffix(b" HTTP/1.1").decode()
    assert line == b"GET /v1/t?" + query.encode() + b" HTTP/1.1"
    if isinstance(asked, str):
        assert asked == query
    else:
        assert read_query(query) == V1Query(asked[0], None, asked[1], asked[2], None, None)
    again = RECOGNISER.recognise(given[:length] + b"GET / HTTP/1.1\r\n")
    assert again is not None and again[0] == asked and again[2] == length and again[1] is head
    cut = 1 + len(given) % (length - 1)
    assert may_become_hot(given[:cut]), "the beginning of a hot request is handed over too early"
    with contextlib.suppress(InputError):
        read_query(query)


def fuzz_template(given: bytes) -> None:
    """A profile that compiles can read what its tags write."""
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
