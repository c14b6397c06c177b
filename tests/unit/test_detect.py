"""Detection finds a profile from taps and keys that verifies those taps; what it cannot find, it explains."""

import re
from pathlib import Path
from urllib.parse import parse_qs, quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixfast.chips import PRESETS, CompiledProfile, Message, compile_profile, find_scheme, preset, scheme_names
from ixfast.chips import detect as detect_module
from ixfast.chips.detect import KEYS_MAX, SAMPLES_MAX, Detection, Proposal, detect
from ixfast.domain.model import EncodingProfile, Key
from ixfast.errors import InputError
from ixfast.keys import check_value
from ixfast.keys.diversify import USUAL_DERIVATIONS, An10922, BoltCard, Derivation, SdmBackend, SdmBackendLegacy
from ixfast.limits import COUNTER_MAX
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

UIDS = tuple(bytes.fromhex(f"04782e21801d{last:02x}") for last in (0x80, 0x81, 0x82))
FILE_KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
META_KEY = bytes.fromhex("101112131415161718191a1b1c1d1e1f")
STRANGER = bytes.fromhex("00112233445566778899aabbccddeeff")


def key(value: bytes) -> Key:
    return Key(1, value, check_value(value))


def tags_of(profile: CompiledProfile | str, file_keys: tuple[bytes, ...] = (FILE_KEY,) * 3, **more: bytes) -> list[VirtualTag]:
    meta_key = more.get("meta_key", META_KEY)
    return [
        VirtualTag(profile, xuid=f"q8w3sbc{place}", uid=uid, file_key=file_key, meta_key=meta_key, aid="acme", current="O")
        for place, (uid, file_key) in enumerate(zip(UIDS, file_keys, strict=True))
    ]


def taps(tags: list[VirtualTag], times: int = 2) -> list[str]:
    return [tag.tap() for tag in tags for _ in range(times)]


def best(found: Detection) -> Proposal:
    assert found.proposals, found.reasons
    return found.proposals[0]


def holds(profile: EncodingProfile, url: str, uid: bytes | None, file_key: bytes = FILE_KEY) -> bool:
    """Whether the tap is authentic under the profile after a round trip through JSON."""
    compiled = compile_profile(msgspec.json.decode(msgspec.json.encode(profile), type=EncodingProfile))
    message = compiled.read_url(url)
    assert isinstance(message, Message)
    return compiled.examine(message, uid=uid, file_keys=(key(file_key),), meta_keys=(key(META_KEY),)).authentic


def same(a: str, b: str) -> bool:
    """Whether two schemes compute the same MACs."""
    first, second = find_scheme(a), find_scheme(b)
    return type(first) is type(second) and first.mirrors == second.mirrors and first.picc_chars == second.picc_chars


@pytest.mark.parametrize("change", [str, str.lower], ids=["verbatim", "lower-cased"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_found(name: str, change: type[str]) -> None:
    tags = tags_of(name)
    urls = [change(url) for url in taps(tags)]
    found = detect(urls, [key(STRANGER), key(FILE_KEY)], [key(META_KEY)])
    proposal = best(found)
    assert sorted(proposal.verified) == list(range(6))
    assert found.unexplained == ()
    assert found.reasons == ()
    assert proposal.file_keys == (f"key 2 ({check_value(FILE_KEY).hex()})",)
    assert same(proposal.profile.scheme, preset(name).scheme)
    detected, expected = compile_profile(proposal.profile), compile_profile(preset(name))
    assert detected.template.parts == expected.template.parts
    assert detected.template.window == expected.template.window
    assert proposal.profile.tamper_offset == preset(name).tamper_offset
    assert proposal.profile.allow_without_counter is preset(name).allow_without_counter
    assert all(holds(proposal.profile, url, tag.uid) for url, tag in zip(urls, [t for t in tags for _ in range(2)], strict=True))


@pytest.mark.parametrize(
    ("template", "window"),
    [
        ("picc={picc}&cmac={mac}", "picc={picc}&cmac="),
        ("picc={picc}&cmac={mac}", "{picc}&cmac="),
        ("picc={picc}&cmac={mac}", "&cmac="),
        ("picc={picc}&cmac={mac}", "cmac="),
        ("picc={picc}&cmac={mac}", "="),
        ("picc={picc}&cmac={mac}", "?picc={picc}&cmac="),
        ("picc={picc}&cmac={mac}", "tag.example/t?picc={picc}&cmac="),
        ("picc={picc}&cmac={mac}", "https://tag.example/t?picc={picc}&cmac="),
        ("picc={picc}&cmac={mac}", "t?picc={picc}&cmac="),
        ("m={picc}x{enc:32}x{mac}", "{enc:32}x"),
        ("m={uid}x{counter}x{mac}", "{uid}x{counter}x"),
        ("m={uid}x{counter}x{mac}", "x"),
        ("/{picc}/{mac}", "/"),
        ("/{picc}/{mac}", "{picc}/"),
        ("/{uid}/{counter}?c={mac}", "/{uid}/{counter}?c="),
        ("v=2&u={uid}&lang=en&n={counter}&e={mac}", "v=2&u={uid}&lang=en&n={counter}&e="),
        ("x={xuid}&n={counter}&e={mac}", "{xuid}&n={counter}&e="),
        ("e={picc}{enc:64}{mac}", "{picc}{enc:64}"),
    ],
)
def test_every_window_is_found(template: str, window: str) -> None:
    profile = compile_profile(EncodingProfile(name="mine", scheme="ntag424-aes", template=template, window=window))
    proposal = best(detect(taps(tags_of(profile)), [key(FILE_KEY), key(META_KEY)]))
    assert len(proposal.verified) == 6
    assert compile_profile(proposal.profile).template.window == profile.template.window


@pytest.mark.parametrize("scheme", [name for name in scheme_names() if "picc" in find_scheme(name).mirrors])
@pytest.mark.parametrize(("mirrors_uid", "mirrors_counter"), [(True, True), (True, False), (False, True)])
def test_every_session_form_is_found(scheme: str, mirrors_uid: bool, mirrors_counter: bool) -> None:
    profile = msgspec.structs.replace(preset("encrypted"), scheme=scheme, allow_without_counter=True)
    tag = VirtualTag(
        profile, xuid="q8w3sbcz", uid=UIDS[0], file_key=FILE_KEY, meta_key=META_KEY,
        mirrors_uid=mirrors_uid, mirrors_counter=mirrors_counter,
    )  # fmt: skip
    proposal = best(detect([tag.tap()], [key(FILE_KEY)], [key(META_KEY)]))
    assert same(proposal.profile.scheme, scheme)
    assert proposal.profile.allow_without_counter is not mirrors_counter
    assert any("replayed forever" in note for note in proposal.notes) is not mirrors_counter


def test_factory_keys_need_not_be_given() -> None:
    urls = taps(tags_of("encrypted-file", (bytes(16),) * 3, meta_key=bytes(16)))
    proposal = best(detect(urls, []))
    assert proposal.file_keys == proposal.meta_keys == ("the all-zero key",)
    assert any("factory keys" in note for note in proposal.notes)


def test_a_key_a_tag() -> None:
    keys = (FILE_KEY, META_KEY, STRANGER)
    proposal = best(detect(taps(tags_of("plain-counter-only", keys)), [key(value) for value in keys]))
    assert len(proposal.verified) == 6
    assert [label[:5] for label in proposal.file_keys] == ["key 1", "key 2", "key 3"]


@pytest.mark.parametrize(
    "derivation",
    [
        An10922(),
        An10922(input="{uid}{key_number}", key_number=3),
        BoltCard(),
        SdmBackend(),
        SdmBackend(key_number=1),
        SdmBackendLegacy(),
    ],
)
def test_derived_keys_are_found(derivation: Derivation) -> None:
    keys = tuple(derivation.derive_file_key(STRANGER, uid) for uid in UIDS)
    meta_key = derivation.derive_meta_key(STRANGER) or STRANGER
    found = detect(taps(tags_of("encrypted", keys, meta_key=meta_key)), [key(STRANGER)], derivations=USUAL_DERIVATIONS)
    proposal = best(found)
    assert len(proposal.verified) == 6
    assert proposal.derivation == derivation
    assert "derived by" in proposal.file_keys[0]
    assert STRANGER.hex() not in repr(found)


def test_a_derivation_of_ones_own() -> None:
    derivation = An10922(input="{uid}{aid}{system_id}", aid="3042f5", system_id="4e58502041")
    keys = tuple(derivation.derive_file_key(STRANGER, uid) for uid in UIDS)
    urls = taps(tags_of("plain-joined", keys))
    assert detect(urls, [key(STRANGER)], derivations=USUAL_DERIVATIONS[:3]).proposals == ()
    assert best(detect(urls, [key(STRANGER)], derivations=[derivation])).derivation == derivation


def test_a_uid_that_is_signed_but_not_sent() -> None:
    """A web server forwards the tag code, counter and MAC of a chip that also mirrors its UID."""
    tag = tags_of("ixkio-plain")[0]
    url = "https://tag.example/t?" + "&".join(f"{name}={text}" for name, text in tag.tap_parameters().items())
    assert detect([url], [key(FILE_KEY)]).proposals == ()
    proposal = best(detect([url], [key(FILE_KEY)], uids=[UIDS[1], tag.uid]))
    assert proposal.profile.template == "x={xuid}&n={counter}&e={mac}&u={uid}"
    assert any("register the tags' UIDs" in note for note in proposal.notes)
    assert holds(proposal.profile, url, tag.uid)
    assert not holds(proposal.profile, url, UIDS[1])


def test_a_counter_only_tag_with_a_derived_key() -> None:
    derivation = BoltCard()
    tag = tags_of("plain-counter-only", tuple(derivation.derive_file_key(STRANGER, uid) for uid in UIDS))[0]
    proposal = best(detect([tag.tap()], [key(STRANGER)], derivations=[derivation], uids=[tag.uid]))
    assert "uid" not in compile_profile(proposal.profile).template.slots
    assert proposal.derivation == derivation


def test_the_profile_that_explains_the_most_comes_first() -> None:
    few, many = taps(tags_of("plain-joined"), 1)[:1], taps(tags_of("encrypted"), 2)
    found = detect([*few, "https://tag.example/t?a=1", *many], [key(FILE_KEY)], [key(META_KEY)])
    assert [len(proposal.verified) for proposal in found.proposals] == [6, 1]
    assert found.proposals[0].profile.template == preset("encrypted").template
    assert found.unexplained == (1,)
    assert len(found.reasons) == 1


def test_a_verbatim_sample_gives_the_names_their_case() -> None:
    profile = compile_profile(
        EncodingProfile(name="mine", scheme="ntag424-aes", template="Picc={picc}&CMAC={mac}", window="&CMAC=")
    )
    urls = taps(tags_of(profile))
    found = detect([url.lower() for url in urls[:3]] + urls[3:], [key(FILE_KEY)], [key(META_KEY)])
    assert best(found).profile.template == "Picc={picc}&CMAC={mac}"
    assert len(best(found).verified) == 6


def test_tamper_characters_at_several_places_are_left_to_the_owner() -> None:
    tags = tags_of("encrypted-file")
    for tag in tags:
        tag.file_data = b"CO--OC"
    proposal = best(detect(taps(tags), [key(FILE_KEY)], [key(META_KEY)]))
    assert proposal.profile.tamper_offset is None
    assert proposal.notes == ("file data could have tamper characters at offsets 0, 4; set tamper_offset",)


def test_tamper_text_outside_the_window_is_no_state() -> None:
    template = "m={uid}x{counter}&cmac={mac}&tt={tamper}"
    profile = compile_profile(EncodingProfile(name="mine", scheme="ntag424-aes", template=template))
    proposal = best(detect(taps(tags_of(profile)), [key(FILE_KEY)]))
    assert proposal.profile.template == "m={uid}x{counter}&cmac={mac}"


@pytest.mark.parametrize(
    ("name", "file_key", "meta_key", "reason"),
    [
        (
            "encrypted",
            FILE_KEY,
            STRANGER,
            r"6 x picc_data is an encrypted mirror that none of your 2 keys, nor the factory",
        ),
        (
            "encrypted",
            STRANGER,
            META_KEY,
            r"picc_data is decrypted by meta key 1 \(3e451e\): UID 04782E21801D80, counter 1; but the MAC in",
        ),
        (
            "plain-joined",
            STRANGER,
            META_KEY,
            r"the MAC in cmac does not match under any of the 2 keys, as they are, over any window, with uid",
        ),
        ("bulk", STRANGER, META_KEY, r"e is decrypted by meta key 1 .*the MAC in e does not match under any"),
        ("path", STRANGER, META_KEY, r"a path segment is decrypted by .*the MAC in a path segment does not match under any"),
    ],
)
def test_reasons(name: str, file_key: bytes, meta_key: bytes, reason: str) -> None:
    found = detect(taps(tags_of(name)), [key(file_key)], [key(meta_key)])
    assert found.proposals == ()
    assert found.unexplained == tuple(range(6))
    assert any(re.search(reason, shown) for shown in found.reasons), found.reasons


def test_reasons_of_a_derivation_say_so() -> None:
    found = detect(taps(tags_of("plain-joined"), 1), [key(STRANGER)], derivations=[BoltCard()])
    assert "as they are or derived" in found.reasons[0]


def test_a_url_without_a_mac_is_described() -> None:
    found = detect(["https://tag.example/t?a=123&b="], [key(FILE_KEY)])
    assert found.reasons == (
        "no field can be a MAC (16 hex digits) together with a mirror; the URL has:"
        " a path segment (1 characters), a (3 characters), b (0 characters)",
    )
    assert "the URL has: no parameters" in detect(["https://tag.example"], []).reasons[0]


def test_a_counter_of_0_is_told() -> None:
    found = detect([tags_of("plain-joined")[0].tap_at(0)], [key(FILE_KEY)])
    assert found.proposals == ()
    assert "the MAC matches, but the tap is refused: the counter is 0" in found.reasons[0]
    off = best(detect([tags_of("ntag22x-sd")[0].tap_at(0)], [key(FILE_KEY)]))
    assert off.profile.allow_without_counter


def test_bounds() -> None:
    url = tags_of("plain-joined")[0].tap()
    for urls, keys, field in (
        ([], 1, "urls"),
        ([url] * (SAMPLES_MAX + 1), 1, "urls"),
        ([url], KEYS_MAX + 1, "keys"),
        (["a\x7f"], 1, "url"),
    ):
        with pytest.raises(InputError) as refused:
            detect(urls, [key(FILE_KEY)] * keys)
        assert refused.value.field == field


def test_nothing_that_is_returned_has_a_key() -> None:
    found = detect(
        taps(tags_of("encrypted-file")), [key(FILE_KEY), key(STRANGER)], [key(META_KEY)], derivations=USUAL_DERIVATIONS
    )
    for text in (repr(found), msgspec.json.encode(found).decode()):
        assert not any(value.hex() in text.lower() or repr(value) in text for value in (FILE_KEY, META_KEY, STRANGER))


@pytest.mark.parametrize("name", ["plain-joined", "encrypted-file", "ntag22x-sd"])
def test_no_bit_of_a_mac_can_be_changed(name: str) -> None:
    url = tags_of(name)[0].tap()
    mac = url[-16:]
    assert detect([url], [key(FILE_KEY)], [key(META_KEY)]).proposals
    for bit in range(64):
        forged = f"{int(mac, 16) ^ 1 << bit:016X}"
        assert detect([url[:-16] + forged], [key(FILE_KEY)], [key(META_KEY)]).proposals == ()


def test_control_without_its_windows_the_file_preset_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_module, "mac_windows", lambda encoding, scheme: [("", b"")])
    assert detect(taps(tags_of("encrypted")), [key(FILE_KEY)], [key(META_KEY)]).proposals
    assert detect(taps(tags_of("encrypted-file")), [key(FILE_KEY)], [key(META_KEY)]).proposals == ()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(PRESETS)),
    seed=st.integers(0, 2**32),
    counters=st.lists(st.integers(1, COUNTER_MAX), min_size=1, max_size=4, unique=True),
    lower=st.booleans(),
)
def test_any_fleet(name: str, seed: int, counters: list[int], lower: bool) -> None:
    fleet = VirtualFleet(seed, 2, name)
    urls = [tag.tap_at(counter) for tag in fleet for counter in counters]
    found = detect([url.lower() for url in urls] if lower else urls, [key(tag.file_key) for tag in fleet], [key(fleet.meta_key)])
    assert len(best(found).verified) == len(urls)
    assert same(best(found).profile.scheme, preset(name).scheme)


# --- texts of the owner's -------------------------------------------------------------------------

GS1_KEYS = [key(FILE_KEY), key(META_KEY)]


def gs1(urls: list[str], *, tags: int = 3) -> list[str]:
    """The same taps as GS1 Digital Links: GTIN, lot and serial in the path, a date and a language in the query, for each tag."""
    links = []
    for place, url in enumerate(urls):
        tag = place * tags // len(urls)
        query = url.partition("?")[2]
        path = f"01/0950600013435{tag}/10/LOT{tag}/21/{tag}0A1B2C3D4E{tag}"
        links.append(f"https://id.tag.example/{path}?17=27010{tag}&lang={('en', 'de', 'fr')[tag]}&{query}&15=26120{tag}")
    return links


def test_a_gs1_digital_link_with_its_published_taps() -> None:
    urls = [
        "https://id.h.example/01/09506000134352/10/LOT0/21/S0?17=270100&lang=en"
        "&picc_data=A2985A66BD202130E5746D91C099A9B5&cmac=C49606EE6F334D39",
        "https://id.h.example/01/09506000134369/10/LOT1/21/S1?17=270101&lang=de"
        "&picc_data=CBBBC3D3D29FC406B9F7FCFBB0952897&cmac=5771EAC97C3CBF47",
    ]
    for samples in (urls, urls[:1], [url.lower() for url in urls]):
        proposal = best(detect(samples, GS1_KEYS))
        assert proposal.profile.template == "picc_data={picc}&cmac={mac}"
        assert len(proposal.verified) == len(samples)


@pytest.mark.parametrize("change", [str, str.lower], ids=["verbatim", "lower-cased"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", [name for name, each in PRESETS.items() if not each.template.startswith("/")])
def test_more_texts_of_the_owners_than_have_names(name: str, times: int, change: type[str]) -> None:
    tags = tags_of(name)
    urls = [
        change(url) for url in gs1([tag.tap_at(7 * place + tap) for place, tag in enumerate(tags, 1) for tap in range(times)])
    ]
    found = detect(urls, [key(FILE_KEY)], [key(META_KEY)])
    proposal = best(found)
    assert sorted(proposal.verified) == list(range(len(urls)))
    for url, tag in zip(urls, (tag for tag in tags for _ in range(times)), strict=True):
        assert holds(proposal.profile, url, tag.uid)
    assert "lang" not in proposal.profile.template and "LOT" not in proposal.profile.template.upper()


def test_texts_of_the_owners_in_a_path() -> None:
    urls = [
        url.replace("/t/", f"/{tag}A/LOT{tag}/{tag}{tag}B1C2D3/{('en', 'de', 'fr')[tag]}/S{tag}/", 1)
        for tag, url in enumerate(taps(tags_of(path_profile("/{picc}/{mac}")), 1))
    ]
    assert best(detect(urls, GS1_KEYS)).profile.template == "/{picc}/{mac}"
    behind = [f"{url}/LOT{tag}" for tag, url in enumerate(urls)]
    assert best(detect(behind, GS1_KEYS)).profile.template == "/{picc}/{mac}/{xuid}"
    constant = [f"{url}/verify" for url in urls]
    proposal = best(detect(constant, GS1_KEYS))
    assert (proposal.profile.template, len(proposal.verified)) == ("/{picc}/{mac}/verify", 3)


GLUED = compile_profile(EncodingProfile(name="mine", scheme="ntag424-aes", template="d={uid}{counter}{mac}"))


def path_profile(template: str, window: str = "") -> CompiledProfile:
    return compile_profile(EncodingProfile(name="mine", scheme="ntag424-aes", template=template, window=window))


CODES = ("4f9e8d7c6b5a49382716f5e4d3c2b1a0", "0123456789abcdef0123456789abcdef", "a0b1c2d3e4f5061728394a5b6c7d8e9f")
OWN_TEXTS = {
    "32 hex digits": CODES,
    "6 hex digits": ("4f9e8d", "012345", "a0b1c2"),
    "9 digits": ("123456789", "234567891", "345678912"),
    "16 hex digits": tuple(code[:16] for code in CODES),
    "letters": ("LOTA", "LOTB", "LOTC"),
    "of different lengths": ("B7", "C1234", "D12345678"),
}


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("texts", OWN_TEXTS.values(), ids=OWN_TEXTS.keys())
@pytest.mark.parametrize(
    ("template", "layout"),
    [
        ("m={uid}x{counter}x{mac}", "m=Ux{C}x{M}x{T}"),
        ("m={uid}x{counter}&cmac={mac}", "m=Ux{C}&cmac={M}-{T}"),
        ("m={uid}-{counter}-{mac}", "m={T}-U-{C}-{M}"),
        ("m={uid}.{counter}.{mac}", "m=U.{C}.{T}.{M}"),
        ("m={picc}&c={mac}", "m={P}_{T}&c={M}"),
        ("m={picc}&c={mac}", "m={T}:{P}&c={M}&v=2"),
    ],
)
def test_a_text_of_the_owners_beside_mirrors(template: str, layout: str, texts: tuple[str, ...], samples: int) -> None:
    urls = []
    for tag, text in zip(tags_of(path_profile(template)), texts, strict=True):
        url = tag.tap()
        message = path_profile(template).read_url(url)
        assert isinstance(message, Message)
        filled = layout.replace("U", tag.uid.hex().upper(), 1).replace("{C}", "000001").replace("{M}", message.mac.hex().upper())
        filled = filled.replace("{P}", message.picc.hex().upper() if message.picc else "").replace("{T}", text)
        urls.append(f"https://tag.example/t?{filled}")
    found = detect(urls[:samples], GS1_KEYS)
    expected = layout.replace("U", "{uid}", 1).replace("{C}", "{counter}").replace("{M}", "{mac}").replace("{P}", "{picc}")
    assert best(found).profile.template == expected.replace("{T}", "{xuid}").removesuffix("&v=2")
    assert len(best(found).verified) == samples
    for url, tag in zip(urls, tags_of(path_profile(template)), strict=True):
        assert holds(best(found).profile, url, tag.uid)  # also for a tag that was not among the samples


def test_a_code_of_the_owners_with_its_published_tap() -> None:
    url = "https://h.example/?m=04A1B2C3D4E5F6x000001xC49606EE6F334D39x4f9e8d7c6b5a49382716f5e4d3c2b1a0"
    assert best(detect([url], [key(FILE_KEY)])).profile.template == "m={uid}x{counter}x{mac}x{xuid}"
    glued = url.replace("39x4f", "394f")
    assert best(detect([glued], [key(FILE_KEY)])).profile.template == "m={uid}x{counter}x{mac}{xuid}"


def test_a_text_of_the_owners_in_the_window() -> None:
    for template, window in (
        ("m={uid}x{counter}x{xuid}x{mac}", "{uid}x{counter}x{xuid}x"),
        ("lot={xuid}&m={uid}x{counter}&cmac={mac}", "lot={xuid}&m={uid}x{counter}&cmac="),
    ):
        urls = taps(tags_of(path_profile(template, window)))
        proposal = best(detect(urls, GS1_KEYS))
        assert (proposal.profile.template, proposal.profile.window) == (template, window)
        assert len(proposal.verified) == 6


def test_a_constant_text_beside_mirrors_is_a_constant() -> None:
    urls = [f"{url}x{CODES[0]}" for url in taps(tags_of(path_profile("m={uid}x{counter}x{mac}")))]
    assert best(detect(urls, GS1_KEYS)).profile.template == f"m={{uid}}x{{counter}}x{{mac}}x{CODES[0]}"


def test_a_counter_is_never_a_text_of_the_owners() -> None:
    for template in ("m={uid}x{counter}x{mac}", "m={uid}x{counter}&cmac={mac}"):
        assert detect([tags_of(path_profile(template))[0].tap_at(0)], [key(FILE_KEY)]).proposals == ()


# --- mirrors that are cut -------------------------------------------------------------------------

CUT = {
    "picc_data=A2985A66BD202130E5746D91C099A9": "picc_data has 30 hex digits; an encrypted mirror has 32 or 48",
    "picc_data=A2985A66BD202130E5746D91C099A9B": "picc_data has 31 hex digits; an encrypted mirror has 32 or 48",
    "picc_data=A2985A66BD202130E5746D91C099A9B500": "picc_data has 34 hex digits; an encrypted mirror has 32 or 48",
    "d=A2985A66BD202130E5746D91C099A9B": "d has 31 hex digits; an encrypted mirror has 32 or 48",
    "picc_data=A2985A66BD202130E5746D91C099A9BG": "picc_data has characters that are not hex digits",
    "picc_data=00000000000000000000000000000000": "picc_data is all zeros: the chip did not fill it in; is SDM enabled?",
    "uid=04A1B2C3D4E5F&ctr=000001": "uid has 13 hex digits; a UID has 14",
    "uid=04A1B2C3D4E5F6&ctr=00001": "ctr has 5 hex digits; a counter has 6",
}


@pytest.mark.parametrize(("query", "reason"), CUT.items())
def test_a_mirror_that_is_cut_is_described(query: str, reason: str) -> None:
    found = detect([f"https://h.example/tag?cmac=C49606EE6F334D39&{query}"], [key(FILE_KEY)], [key(META_KEY)])
    assert found.proposals == ()
    assert reason in found.reasons[0].split("; ", 1)[-1] or reason == found.reasons[0]


@pytest.mark.parametrize(
    ("mac", "reason"),
    [
        ("C49606EE6F334D3", "cmac has 15 hex digits; a MAC has 16"),
        ("C49606EE6F334D390", "cmac has 17 hex digits; a MAC has 16"),
        ("C49606EE", "cmac has 8 hex digits; a MAC has 16"),
        ("0000000000000000", "cmac is all zeros: the chip did not fill it in; is SDM enabled?"),
    ],
)
def test_a_mac_that_is_cut_is_described(mac: str, reason: str) -> None:
    found = detect([f"https://h.example/?uid=04A1B2C3D4E5F6&ctr=000001&cmac={mac}"], [key(FILE_KEY)])
    assert found.reasons[0].endswith(reason)


def test_zeros_of_the_owners_hinder_nothing() -> None:
    urls = [f"{url}&r={'0' * 16}" for url in taps(tags_of("encrypted"))]
    assert best(detect(urls, GS1_KEYS)).profile.template == "picc_data={picc}&cmac={mac}"


def test_the_documented_reasons_are_those_that_are_given() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/detect-a-profile.md").read_text()
    table = page.partition("| Reason | How to fix it |")[2].partition("\n\n")[0]
    rows = [row for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) if "--key" not in row]
    urls = [
        taps(tags_of("encrypted"))[0],
        tags_of("plain-joined", (STRANGER,) * 3)[0].tap(),
        "https://tag.example/t?a=123&b=",
        f"https://h.example/?picc_data={'A2' * 15}&cmac=C49606EE6F334D39",
        f"https://h.example/?picc_data={'0' * 32}&cmac={'0' * 16}",
        "https://h.example/?uid=F6E5D4C3B2A104&ctr=000001&cmac=C49606EE6F334D39",
        "https://h.example/?d=ABCDEF04A1B2C3D4E5F6000001C49606EE6F334D38ABCDEFABCDEF",
        "https://h.example/?d=ABCDEF04A1B2C3D4E5F6000001C49606EE6F334D39ABCDEF",
    ]
    several = [key(FILE_KEY), key(bytes(15) + b"1")]
    given = [detect([url], keys, derivations=USUAL_DERIVATIONS).reasons[0] for url in urls for keys in (several[:1], several)]
    both = [f"https://h.example/?d={tag.uid[6]:06x}{tag.tap().partition('=')[2]}{tag.uid[6]:08x}" for tag in tags_of(GLUED)]
    given += detect(both, several).reasons
    given += detect([f"{tags_of(path_profile('d={picc}{mac}'))[0].tap()}A"], GS1_KEYS).reasons
    # The chip stores "a b)" and "c d)", of which a program has escaped more than a browser does.
    url = "https://h.example/?s={}%29&uid=04A1B2C3D4E5F6&ctr={}&cmac={}"
    escaped = [url.format("a%20b", "000001", "52483106BCAD31A9"), url.format("c%20d", "000002", "EBAD1717A814E6D1")]
    given += detect(escaped, several).reasons
    given = [re.sub(r"^\d x ", "", text) for text in given]
    for row in rows:
        for reason in re.findall("`([^`]+)`", row):
            pattern = ".+".join(map(re.escape, reason.split("…")))
            assert any(re.fullmatch(f"{pattern}.*", text) or re.search(f"; {pattern}$", text) for text in given), reason


def test_a_uid_of_no_nxp_chip_is_hardly_one() -> None:
    found = detect(["https://h.example/?a=F6E5D4C3B2A104&c=C49606EE6F334D39"], [key(FILE_KEY)])
    assert "with uid F6E5D4C3B2A104, which does not begin with 04 as UIDs do; is the tag's key among them?" in found.reasons[0]
    found = detect(["https://h.example/?uid=F6E5D4C3B2A104&ctr=000001&cmac=C49606EE6F334D39"], [key(FILE_KEY)])
    assert found.reasons[0].endswith(
        "; uid: the bytes of the UID are in reverse order: they end with 04 instead of beginning with it"
    )
    gs1_link = "https://id.h.example/01/09506000134352?17=270100&p=A2985A66BD202130E5746D91C099A9B5&c=C49606EE6F334D39"
    found = detect([gs1_link], [key(FILE_KEY)])
    assert found.reasons == (
        "p is an encrypted mirror that neither your key nor the factory key decrypts, as they are or derived",
    )


@pytest.mark.parametrize(
    ("tail", "where"),
    [
        ("t?uid={U}&ctr=000001&cmac={M}", "uid"),
        ("t?u={U}&n=000001&c={M}", "u"),
        ("t?u={U}&n=000001&e={M}", "u"),
        ("t?m={U}x000001x{M}", "m"),
        ("t?m={U}x000001x{M}xLOT1", "m"),
        ("t?d={U}000001{M}", "d"),
        ("{U}/000001/{M}", "a path segment"),
        ("01/09506000134352?u={U}&n=000001&c={M}", "u"),
    ],
)
def test_a_reversed_uid_is_named_wherever_it_is(tail: str, where: str) -> None:
    url = f"https://h.example/{tail}".replace("{M}", "C49606EE6F334D39")
    fault = f"{where}: the bytes of the UID are in reverse order: they end with 04 instead of beginning with it"
    for keys in ([], [key(FILE_KEY)]):
        assert detect([url.replace("{U}", "F6E5D4C3B2A104")], keys).reasons[0].split("; ").count(fault) == 1
        for uid in ("04E5D4C3B2A104", "F6E5D4C3B2A105"):
            assert "reverse order" not in detect([url.replace("{U}", uid)], keys).reasons[0]


def test_a_gtin_beside_mirrors_is_no_reversed_uid() -> None:
    for query in ("u=04A1B2C3D4E5F6&n=000001&c=C49606EE6F334D38", "p=A2985A66BD202130E5746D91C099A9B5&c=C49606EE6F334D39"):
        found = detect([f"https://h.example/01/09506000134304?{query}"], [key(FILE_KEY)])
        assert "reverse order" not in found.reasons[0]


@pytest.mark.parametrize(
    ("path", "noted"),
    [("api/v1/scan/q8w3sbc0", True), ("k/0a1b2c3d4e5f", True), ("api/v1/scan", False), ("shop", False)],
)
def test_a_text_in_the_path_of_one_tag_that_may_be_its_code(path: str, noted: bool) -> None:
    tag = tags_of("boltcard")[0]
    urls = [f"https://pay.example/{path}?{tag.tap().partition('?')[2]}" for _ in "12"]
    proposal = best(detect(urls, [key(FILE_KEY)], [key(META_KEY)]))
    assert proposal.profile.template == "p={picc}&c={mac}" or "{xuid}" in proposal.profile.template
    about = [note for note in proposal.notes if "may be the tag's code" in note]
    assert bool(about) is noted and all("must begin with /{xuid}?" in note for note in about)


WORDS, WORDED = ("alpha", "beta", "gamma"), ("04A1B2C3D4E5F6", "04112233445566", "04FEDCBA987654")
# In front of the window, the window's own texts, and behind the MAC: {0} and {1} differ between tags.
TEXTS_AROUND = [
    ("lot=L{0}&", "s={0}&", ""), ("", "s={0}&", "&lang={1}"), ("", "s={0}&v={1}&", ""), ("lot={1}&", "s={0}&v={1}&", "&l={0}"),
    ("s={0}&", "v={1}&", ""), ("a={0}&b={1}&c={0}&", "d={1}&", ""), ("q={0}&", "s={0} x&v={1}&", "&l={1}"), ("", "s={0}-1&", ""),
]  # fmt: skip


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(("front", "inside", "behind"), TEXTS_AROUND)
def test_only_texts_inside_the_window_have_placeholders(front: str, inside: str, behind: str, encrypted: bool) -> None:
    profile = compile_profile(preset("encrypted" if encrypted else "plain-uid-counter"))
    urls, statics = [], []
    for at, uid in enumerate(WORDED):
        texts = [WORDS[at], WORDS[2 - at]]
        mirror = f"p={profile.scheme.write_picc(META_KEY, bytes.fromhex(uid), at + 1, bytes(16)).hex().upper()}"
        mirror = mirror if encrypted else f"uid={uid}&ctr=00000{at + 1}"
        window = f"{quote(inside.format(*texts), safe='=&')}{mirror}&cmac="
        mac = profile.scheme.simulated_mac(FILE_KEY, bytes.fromhex(uid), at + 1, window.encode())
        urls.append(f"https://h.example/t?{front.format(*texts)}{window}{mac.hex().upper()}{behind.format(*texts)}")
        statics.append(parse_qs(inside.format(*texts)))
    found = best(detect(urls, [key(FILE_KEY)], [key(META_KEY)]))
    assert found.verified == (0, 1, 2)
    template = found.profile.template
    assert template == f"{found.profile.window}{{mac}}" and "{aid}" not in template
    names = dict(re.findall(r"(\w+)=\{(xuid|cuid|batch)\}", template))
    assert [*names] == [*parse_qs(inside)]
    (note,) = [note for note in found.notes if note.startswith("the MAC covers texts of your own")]
    compiled = compile_profile(found.profile)
    for at, url in enumerate(urls):
        registered = {names[field]: text for field, (text,) in statics[at].items()}
        assert "xuid" not in registered or registered["xuid"].isalnum()
        message = compiled.read_url(url)
        assert isinstance(message, Message)
        known = {"file_keys": (key(FILE_KEY),), "meta_keys": (key(META_KEY),), "statics": registered}
        assert compiled.examine(message, uid=bytes.fromhex(WORDED[at]), **known).authentic
    assert all(f"{field} is " in note for field in names)
