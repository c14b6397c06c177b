"""A profile that contradicts itself is refused with the place; one that is accepted can be read in one way only."""

import re
import string
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ixfast.chips import CompiledProfile, Message, compile_profile, scheme_names
from ixfast.chips.template import Slot, render
from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError, ProfileError
from ixfast.limits import FILE_DATA_BYTES_MAX
from ixfast.testing.virtual_tags import VirtualTag


def compiled(
    template: str,
    window: str = "",
    *,
    scheme: str = "ntag424-aes",
    tamper_offset: int | None = None,
    allow_without_counter: bool = False,
) -> CompiledProfile:
    return compile_profile(
        EncodingProfile(
            name="mine",
            scheme=scheme,
            template=template,
            window=window,
            tamper_offset=tamper_offset,
            allow_without_counter=allow_without_counter,
        )
    )


@pytest.mark.parametrize(
    ("template", "window", "message"),
    [
        ("uid={uidd}&c={mac}", "", r"profile 'mine', template, character 5: unknown placeholder {uidd}; did you mean"),
        ("uid={UID}&c={mac}", "", r"did you mean {uid}\?"),
        ("a={zzzzzz}&c={mac}", "", r"unknown placeholder {zzzzzz}; known are {uid}, {counter}"),
        ("a={}&c={mac}", "", r"unknown placeholder {}"),
        ("uid={uid&c={mac}", "", r"character 5: unbalanced brace"),
        ("uid=uid}&c={mac}", "", r"character 8: unbalanced brace"),
        ("uid={{uid}}&c={mac}", "", r"character 5: unbalanced brace"),
        ("uid={uid:14}&n={counter}&c={mac}", "", r"{uid} has a fixed width"),
        ("p={picc:48}&c={mac}", "", r"{picc} has a fixed width"),
        ("uid={uid}&n={counter}", "", r"{mac} is missing; without a MAC nothing is authenticated"),
        ("", "", r"{mac} is missing"),
        ("c={mac}", "", r"requires {picc}, {uid} or {counter}"),
        ("x={xuid}&c={mac}", "", r"requires {picc}, {uid} or {counter}"),
        ("uid={uid}&c={mac}", "", r"{counter} is missing, so a tap could be replayed forever; set allow_without_counter"),
        ("n={counter}&c={mac}&d={mac}", "", r"{mac} appears twice"),
        ("n={counter}&m={counter}&c={mac}", "", r"{counter} appears twice"),
        (
            "p={picc}&n={counter}&c={mac}",
            "",
            r"{picc} and {counter} exclude each other; a chip mirrors either encrypted or plain",
        ),
        ("p={picc}&u={uid}&c={mac}", "", r"{picc} and {uid} exclude each other; a chip mirrors either"),
        ("n={counter}&e={enc:32}&c={mac}", "{enc}&c=", r"{enc} requires {picc}, or both {uid} and {counter}"),
        ("p={picc}&e={enc}&c={mac}", "", r"character 12: {enc} requires its number of hex digits"),
        ("p={picc}&e={enc:31}&c={mac}", "", r"a multiple of 32 up to 512"),
        ("p={picc}&e={enc:0}&c={mac}", "", r"a multiple of 32 up to 512"),
        ("p={picc}&e={enc:544}&c={mac}", "", r"a multiple of 32 up to 512"),
        ("p={picc}&e={enc:-32}&c={mac}", "", r"a multiple of 32 up to 512"),
        ("p={picc}&e={enc:99999999999}&c={mac}", "", r"a multiple of 32 up to 512"),
        ("p={picc}&e={enc:32}&c={mac}", "", r"window: must contain {enc}"),
        ("p={picc}&e={enc:64}&c={mac}", "{enc:32}&c=", r"window: {enc:32} must be {enc:64}, as in the template"),
        ("p={picc}&c={mac}", "{counter}&c=", r"window: {counter} is not in the template"),
        ("p={picc}&c={mac}", "{enc:32}&c=", r"window: {enc:32} is not in the template"),
        ("p={picc}&c={mac}", "{mac}", r"window: {mac} cannot authenticate itself"),
        ("p={picc}&c={mac}", "{picc}{picc}&c=", r"window: {picc} appears twice"),
        ("p={picc}&c={mac}", "{picc}&d=", r"just before {mac}, but the template has 'p={picc}&c='"),
        ("p={picc}&c={mac}", "{xuid}", r"window: must be the text just before {mac}"),
        ("p={picc}&c={mac}", "x" * 1020 + "p={picc}&c=", r"window: longer than 1024 characters"),
        ("p={picc}&p={mac}", "", r"template: parameter 'p' appears twice"),
        ("p={picc}&p=1&c={mac}", "", r"parameter 'p' appears twice"),
        ("/{picc}?picc={mac}", "", r"parameter 'picc' appears twice"),
        ("https://tag.example/t?p={picc}&c={mac}", "", r"leave out the scheme and the host; a path begins with /"),
        ("tag.example/t?p={picc}&c={mac}", "", r"leave out the scheme and the host"),
        ("t/{picc}/{mac}", "", r"a path begins with /"),
        ("={picc}&c={mac}", "", r"a query consists of name=value"),
        ("p={picc}&&c={mac}", "", r"a query consists of name=value"),
        ("{xuid}={picc}&c={mac}", "", r"a parameter's name cannot contain a placeholder"),
        ("/{picc}//{mac}", "", r"empty path segment"),
        ("/{picc}?", "", r"{mac} is missing"),
        ("/{picc}/{mac}?", "", r"a query consists of name=value"),
        ("x={xuid}{cuid}&p={picc}&c={mac}", "", r"two texts of variable width"),
        ("p={picc}&c={mac} ", "", r"character 17: not allowed in a tap URL"),
        ("p={picc}#c={mac}", "", r"placeholders are either all before # or all behind it"),
        ("p={picc}&\xa0=1&c={mac}", "", r"character 10: not allowed in a tap URL"),
        ("p={picc}&\x7f=1&c={mac}", "", r"character 10: not allowed in a tap URL"),
        ("p=%4{picc}&c={mac}", "", r"character 3: not allowed in a tap URL"),
        ("p={picc}&c={mac}&v=" + "1" * 5000, "", r"longer than 4096 characters"),
    ],
)
def test_contradictions_are_refused_with_the_place(template: str, window: str, message: str) -> None:
    with pytest.raises(ProfileError, match=re.sub(r"[{}]", r"\\\g<0>", message)):
        compiled(template, window)


@pytest.mark.parametrize(
    ("template", "window", "offset", "message"),
    [
        ("p={picc}&c={mac}", "", 0, "tamper_offset: refers to file data"),
        ("p={picc}&e={enc:32}&c={mac}", "{enc}&c=", 15, "tamper_offset: must be between 0 and 14"),
        ("p={picc}&e={enc:32}&c={mac}", "{enc}&c=", -1, "tamper_offset: must be between 0 and 14"),
        ("p={picc}&t={tamper}&e={enc:32}&c={mac}", "{tamper}&e={enc}&c=", 0, "mirrors it in only one place"),
    ],
)
def test_tamper_offsets_are_checked(template: str, window: str, offset: int, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        compiled(template, window, tamper_offset=offset)


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="unknown chip scheme 'ntag425'; the schemes are ntag424-aes, desfire-ev3-aes"):
        compiled("p={picc}&c={mac}", scheme="ntag425")


@pytest.mark.parametrize("scheme", scheme_names())
def test_every_scheme_compiles(scheme: str) -> None:
    assert compiled("u={uid}&n={counter}&e={mac}", scheme=scheme).scheme.name == scheme


@pytest.mark.parametrize(
    ("template", "window"),
    [
        ("p={picc}&c={mac}", "ntag.example/424?p={picc}&c="),  # begins in the host name
        ("n={counter}&e={mac}", "{xuid}.tag.example/t?n={counter}&e="),  # an owner's text only in the host name
        ("/{uid}x{counter}x{mac}", "{uid}x{counter}x"),
        ("/dev/dna/{picc}/{mac}", "/"),
        ("e={picc}{enc:32}{mac}", "{enc}"),
        ("e={picc}{enc:512}{mac}", "{enc:512}"),
        ("?n={counter}&e={mac}", ""),
        ("/?n={counter}&e={mac}", ""),
        ("u={uid}&n={counter}&f={enc:32}&e={mac}", "{enc}&e="),  # file data beside a plain mirror
        ("v=1&n={counter}&e={mac}&s=a%20b", "&e="),
        ("/t/{xuid}/{picc}?m={mac}&c={cuid}", ""),
    ],
)
def test_unusual_but_possible_profiles_compile(template: str, window: str) -> None:
    assert compiled(template, window).name == "mine"


def test_the_longest_file_data_fits() -> None:
    slots = compiled(f"e={{picc}}{{enc:{2 * FILE_DATA_BYTES_MAX}}}{{mac}}", "{enc}").template.slots
    assert slots["enc"] == Slot("enc", 512)


def test_notation_is_rendered_as_it_was_read() -> None:
    template = "x={xuid}&m={uid}x{counter}&f={enc:64}&t={tamper}&e={mac}&v=1"
    assert render(compiled(template, "{enc}&t={tamper}&e=").template.parts) == template


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("x={xuid}&n={counter}&e={mac}", ("x", "n", "e")),
        ("m={uid}x{counter}&cmac={mac}&v=1", ("m", "cmac", "u", "n", "e")),
        ("/{picc}/{mac}", ("picc", "mac")),
        ("/{uid}{counter}{mac}", ("u", "n", "e")),
        ("/{uid}{counter}{mac}?e=1", ("u", "n", "mac")),
        ("/{picc}?m={mac}", ("m", "picc")),
        # "e" is the counter's own name here, so it cannot be the standard name of the MAC.
        ("e={counter}&u=1&c={mac}", ("e", "c", "n")),
    ],
)
def test_parameters_that_are_read(template: str, names: tuple[str, ...]) -> None:
    assert set(compiled(template).parameters) == set(names)


PLACEHOLDERS = ["{uid}", "{counter}", "{mac}", "{picc}", "{enc:32}", "{enc}", "{tamper}", "{xuid}", "{cuid}", "{aid}"]
fragments = st.sampled_from([*PLACEHOLDERS, "p=", "c=", "n=", "v=1", "/t", "%20", *"&&&/?x%{}é\t#:=+"])
texts = st.lists(fragments, max_size=12).map("".join) | st.text(max_size=40)
ID_CHARACTERS = string.ascii_letters + string.digits


@given(template=texts, window=texts, offset=st.none() | st.integers(-1, 20), lax=st.booleans(), url=texts)
@example("p={picc}&c={mac}", "", None, False, "p=&c=")
@example("/{uid}{counter}{mac}?e=1", "", None, False, "/x?e=1")
def test_nothing_but_a_profile_error_or_an_input_error(
    template: str, window: str, offset: int | None, lax: bool, url: str
) -> None:
    try:
        profile = compiled(template, window, tamper_offset=offset, allow_without_counter=lax)
    except ProfileError as error:
        assert "profile 'mine'" in str(error)
        return
    parameters = dict.fromkeys(profile.parameters, url)
    reads: list[Callable[[], object]] = [
        lambda: profile.read_url(url),
        lambda: profile.read_parameters(parameters),
    ]
    for read in reads:
        try:
            read()
        except InputError as error:
            assert error.code == "invalid_parameter"
            assert error.field


mirrors = st.permutations(["{uid}", "{counter}", "{tamper}", "v", "x"]) | st.permutations(["{picc}", "{tamper}", "%7B"])


@given(
    parts=mirrors,
    joins=st.lists(st.sampled_from(["", "x", "-", "%2F", "&a=", "/"]), min_size=5, max_size=5),
    as_path=st.booleans(),
    from_part=st.integers(0, 8),
    xuid=st.text(ID_CHARACTERS, min_size=1, max_size=64),
)
def test_whatever_compiles_reads_what_a_tag_writes(
    parts: list[str], joins: list[str], as_path: bool, from_part: int, xuid: str
) -> None:
    pieces = [piece for pair in zip(parts, joins, strict=False) for piece in pair]
    body = [*("/" if as_path else "p=", "{xuid}-"), *pieces]
    try:
        profile = compiled("".join(body) + "{mac}", "".join(body[from_part:]))
    except ProfileError:
        return
    tag = VirtualTag(profile, xuid=xuid, uid=bytes.fromhex("04112233445566"), file_key=bytes(16), current="O")
    url = tag.tap()
    for spelling in (url, url.lower(), url.partition("://")[2]):
        message = profile.read_url(spelling)
        assert isinstance(message, Message)
        evidence = profile.examine(
            message, uid=tag.uid, file_keys=tag.file_keys(), meta_keys=tag.meta_keys(), statics=tag.statics
        )
        assert evidence.authentic, evidence
        assert evidence.counter == 1
