"""A tap is read in every spelling of its URL and its parameters, and what cannot be read says why."""

import pytest

from ixfast.chips import CompiledProfile, Message, Missing, compile_profile
from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError
from ixfast.limits import PARAMETERS_MAX

UID = bytes.fromhex("04A1B2C3D4E5F6")


def compiled(template: str, window: str = "") -> CompiledProfile:
    return compile_profile(EncodingProfile(name="mine", scheme="ntag424-aes", template=template, window=window))


def read(profile: CompiledProfile, url: str) -> Message:
    message = profile.read_url(url)
    assert isinstance(message, Message)
    return message


def test_parameters_under_the_profiles_own_names() -> None:
    profile = compiled("uid={uid}&ctr={counter}&cmac={mac}")
    message = profile.read_parameters({"uid": "04A1B2C3D4E5F6", "ctr": "00003D", "cmac": "00112233445566FF", "utm": "x"})
    assert message == Message(mac=bytes.fromhex("00112233445566ff"), uid=UID, counter=61)


def test_parameters_under_the_standard_names() -> None:
    profile = compiled("m={uid}x{counter}&tt={tamper}&cmac={mac}", "{uid}x{counter}&tt={tamper}&cmac=")
    message = profile.read_parameters({"n": "00003d", "e": "00112233445566ff", "t": "co"})
    assert message == Message(mac=bytes.fromhex("00112233445566ff"), counter=61, tamper="CO")
    assert profile.read_parameters({"u": UID.hex(), "n": "00003d", "e": "0" * 16, "t": "CC"}) == Message(
        mac=bytes(8), uid=UID, counter=61, tamper="CC"
    )


def test_own_names_go_before_standard_ones() -> None:
    message = compiled("ctr={counter}&cmac={mac}").read_parameters({"ctr": "000001", "n": "000002", "e": "0" * 16})
    assert message == Message(mac=bytes(8), counter=1)


def test_a_standard_name_with_another_meaning_is_not_read() -> None:
    profile = compiled("e={counter}&cmac={mac}")
    assert profile.read_parameters({"e": "000001", "n": "000002"}) == Missing(("cmac",))


def test_parameters_of_a_path() -> None:
    assert compiled("/dev/{picc}/{mac}").read_parameters({"picc": "0" * 32, "mac": "1" * 16}) == Message(
        mac=b"\x11" * 8, picc=bytes(16)
    )
    assert compiled("/{uid}{counter}{mac}").read_parameters({"n": "000001", "e": "1" * 16}) == Message(mac=b"\x11" * 8, counter=1)


@pytest.mark.parametrize(
    ("template", "window", "parameters", "names"),
    [
        ("x={xuid}&u={uid}&n={counter}&e={mac}", "", {"x": "abc"}, ("n", "e")),
        ("uid={uid}&ctr={counter}&cmac={mac}", "", {"uid": "0" * 14, "cmac": "0" * 16}, ("ctr",)),
        ("m={uid}x{counter}&cmac={mac}", "", {}, ("m", "cmac")),
        ("p={picc}&f={enc:32}&c={mac}", "{enc}&c=", {"p": "0" * 32}, ("f", "c")),
        ("e={picc}{enc:32}{mac}", "{enc}", {"x": "abc"}, ("e",)),
        ("/{picc}/{mac}", "", {}, ("picc", "mac")),
        ("/{uid}{counter}{mac}", "", {"u": "0" * 14}, ("n", "e")),
        ("/{uid}{counter}{mac}?e=1", "", {}, ("n", "mac")),
        ("n={counter}&t={tamper}&e={mac}", "{tamper}&e=", {"n": "000001", "e": "0" * 16}, ("t",)),
    ],
)
def test_missing_parameters_are_named(template: str, window: str, parameters: dict[str, str], names: tuple[str, ...]) -> None:
    message = compiled(template, window).read_parameters(parameters)
    assert isinstance(message, Missing) and message.names == names


def test_tamper_text_outside_the_window_may_be_missing() -> None:
    profile = compiled("n={counter}&t={tamper}&e={mac}")
    assert profile.read_parameters({"n": "000001", "e": "0" * 16}) == Message(mac=bytes(8), counter=1)


@pytest.mark.parametrize(
    "value",
    [
        "00003",
        "0000003D",
        "00003G",
        "0x003D",
        " 0003D",
        "00 03D",
        "+0003D",
        "00003D\n",
        "\u0660" * 6,
        "00003\u212a",
    ],
)
def test_a_bad_value_names_the_parameter_and_is_not_echoed(value: str) -> None:
    with pytest.raises(InputError, match="must be 6 hex digits") as caught:
        compiled("ctr={counter}&cmac={mac}").read_parameters({"ctr": value, "cmac": "0" * 16})
    assert (caught.value.code, caught.value.field) == ("invalid_parameter", "ctr")
    assert value not in str(caught.value) or not value


@pytest.mark.parametrize(("letter", "look_alike"), [("k", "\u212a"), ("s", "\u017f")])
def test_ignoring_case_stays_inside_ascii(letter: str, look_alike: str) -> None:
    profile = compiled(f"n={letter}{{counter}}&e={{mac}}")
    assert isinstance(profile.read_parameters({"n": f"{letter.upper()}000001", "e": "0" * 16}), Message)
    with pytest.raises(InputError):
        profile.read_parameters({"n": f"{look_alike}000001", "e": "0" * 16})


def test_a_joined_parameter_is_described_as_a_whole() -> None:
    with pytest.raises(InputError, match="must be 14 hex digits then 'x' then 6 hex digits"):
        compiled("m={uid}x{counter}&c={mac}").read_parameters({"m": "0" * 20, "c": "0" * 16})


TAP = "picc_data=" + "AB" * 16 + "&cmac=" + "CD" * 8
MESSAGE = Message(mac=b"\xcd" * 8, picc=b"\xab" * 16)


@pytest.mark.parametrize(
    "url",
    [
        f"https://tag.example/t?{TAP}",
        f"HTTPS://TAG.EXAMPLE/T?{TAP.upper()}",
        f"https://tag.example/t?{TAP}".lower(),
        f"https://tag.example?{TAP}",
        f"https://user@[::1]:8443/a/b?{TAP}#there",
        f"lnurlw://?{TAP}",
        f"tag.example/t?{TAP}",
        f"/t?{TAP}",
        f"?{TAP}",
        TAP,
        f"{TAP}&next=https://elsewhere.example/?a=b",
        f"utm_source=a%26b&{TAP}&utm=1&utm=2&flag",
        TAP.replace("cmac", "%63mac").replace("AB", "%41B"),
    ],
)
def test_a_url_is_read_in_every_spelling(url: str) -> None:
    assert compiled("picc_data={picc}&cmac={mac}").read_url(url) == MESSAGE


@pytest.mark.parametrize(
    "url",
    [
        f"https://tag.example/dev/dna/{'AB' * 16}/{'CD' * 8}",
        f"https://tag.example/prefix/dev/dna/{'ab' * 16}/{'cd' * 8}?utm=1",
        f"/DEV/dna/{'AB' * 16}/{'CD' * 8}/",
        f"tag.example/dev/d%6Ea/{'AB' * 16}/{'CD' * 8}#x",
    ],
)
def test_a_path_is_read_from_its_end(url: str) -> None:
    assert compiled("/dev/dna/{picc}/{mac}").read_url(url) == MESSAGE


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("p={picc}&c={mac}", "https://tag.example/t"),
        ("p={picc}&c={mac}", "https://tag.example/t?x=abc"),
        ("p={picc}&c={mac}", ""),
        ("p={picc}&c={mac}&v=1", f"?p={'0' * 32}&c={'0' * 16}"),
        ("p={picc}&c={mac}&v=1", f"?p={'0' * 32}&c={'0' * 16}&v=2"),
        ("x={xuid}&n={counter}&e={mac}", "https://tag.example/t?x=q8w3sbcz"),
        ("/{picc}/{mac}", f"https://tag.example/{'0' * 20}/{'0' * 5}"),
        ("/{picc}/{mac}", f"https://tag.example/{'0' * 32}/products"),
        ("/{picc}/{mac}", f"https://tag.example/feed/{'0' * 40}"),
        ("/{picc}/{mac}", "https://tag.example/"),
        ("/{picc}/{mac}", f"/{'0' * 16}"),
        ("/dna/{picc}/{mac}", f"https://tag.example/dnb/{'0' * 32}/{'0' * 16}"),
    ],
)
def test_a_url_of_another_kind_is_none_of_this_profile(template: str, url: str) -> None:
    assert compiled(template).read_url(url) is None


MAC, PICC = "0" * 16, "0" * 32
CUT_PATHS = {
    ("/{picc}/{mac}", f"/t/{PICC}/{MAC[1:]}"): "mac in the path must be 16 hex digits (it has 15 characters).",
    ("/{picc}/{mac}", f"/t/{PICC}/{MAC}0/"): "mac in the path must be 16 hex digits (it has 17 characters).",
    ("/{picc}/{mac}", f"/t/{PICC[1:]}/{MAC}"): "picc in the path must be 32 hex digits (it has 31 characters).",
    ("/dna/{picc}/{mac}", f"/dna/{PICC[2:]}/{MAC[1:]}"): "picc in the path must be 32 hex digits (it has 30 characters).",
    ("/{cuid}/{uid}/{counter}/{mac}", f"/a%20b/{MAC[2:]}/00000/{MAC}"): "counter in the path must be 6 hex digits (it has 5 ",
    ("/{uid}x{counter}x{mac}", f"/t/{MAC[2:]}x000001x{MAC[1:]}"): "uid in the path must be 14 hex digits then 'x' then 6 hex",
    ("/t?c={mac}&n={counter}", "/t?n=000001"): None,
}


@pytest.mark.parametrize(("template", "url"), CUT_PATHS)
@pytest.mark.parametrize("host", ["https://tag.example", "", "https://tag.example/#"])
def test_a_path_that_was_cut_says_where(template: str, url: str, host: str) -> None:
    expected = CUT_PATHS[template, url]
    if expected is None:
        assert compiled(template).read_url(host + url) == Missing(("c",))
        return
    with pytest.raises(InputError) as caught:
        compiled(template).read_url(host + url)
    assert caught.value.code == "invalid_parameter" and str(caught.value).startswith(expected)


def test_a_path_that_lost_its_last_segments_is_incomplete() -> None:
    assert compiled("/{picc}/{mac}").read_url(f"https://tag.example/t/{PICC}") == Missing(("mac",), picc=bytes(16))
    read = compiled("/s/{cuid}/{uid}/{counter}/{mac}").read_url(f"/s/a%20b/{MAC[2:]}/")
    assert read == Missing(("counter", "mac"), uid=bytes(7), cuid="a b")


def test_a_url_that_lost_a_parameter_says_which() -> None:
    read = compiled("p={picc}&c={mac}").read_url(f"https://tag.example/t?p={'0' * 32}")
    assert read == Missing(("c",), picc=bytes(16)) and repr(read) == "Missing(('c',))"


@pytest.mark.parametrize(
    ("url", "field"),
    [
        (f"?n=00001&e={'0' * 16}", "n"),
        (f"?n=000001&n=000001&e={'0' * 16}", "n"),
        (f"?n=000001&e=%FF{'0' * 15}", "e"),
        ("?" + "&" * PARAMETERS_MAX, "url"),
        ("?n=" + "0" * 5000, "url"),
    ],
)
def test_a_bad_url_names_the_field(url: str, field: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled("n={counter}&e={mac}").read_url(url)
    assert (caught.value.code, caught.value.field) == ("invalid_parameter", field)


def test_the_owners_texts_are_read_for_finding_the_tag() -> None:
    message = read(compiled("/{aid}/{xuid}?c={cuid}&n={counter}&e={mac}"), f"/acme/q8?c=a%2Fb%20C&n=000001&e={'0' * 16}")
    assert (message.aid, message.xuid, message.cuid) == ("acme", "q8", "a/b C")


def test_a_message_does_not_show_its_code() -> None:
    message = read(compiled("n={counter}&e={mac}"), f"n=000001&e={'AB' * 8}")
    assert repr(message) == "Message(mac, counter)"


def test_a_real_tap_in_one_path_segment() -> None:
    profile = compiled("/validate/{uid}{counter}{mac}")
    message = read(profile, "https://tag.example/validate/043923627E7580000021F99802BF8FA8C446")
    assert message == Message(bytes.fromhex("F99802BF8FA8C446"), bytes.fromhex("043923627E7580"), 33)
