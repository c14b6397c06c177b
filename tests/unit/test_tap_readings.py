"""What is around a copied URL: the readings of a text, of which the text as it was given is always the first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast.domain.tap_readings import parameter_readings, readings

TAP = "uid=04A1B2C3D4E5F6&ctr=000001&cmac=C49606EE6F334D39"


def last_reading(text: str) -> str:
    return [*readings(text)][-1]


WRAPPED = (
    '"@"', "'@'", "`@`", "<@>", "(@)", "[@]", "{@}", "**@**", r"\"@\"", "\u201c@\u201d", "\u201e@\u201c", "\u2018@\u2019",
    "\xab@\xbb", "@,", "@.", "@;", "@:", "@!", "@?", "@\u2026", "@...", '@"', "@'", "@>", "@)", "@]", "@\u201d,",
    '"@', "<@", "(@", '"@",', '"@".', '"@."', '("@").', "<@>,", " <@> \n", "<URL:@>", "<@|the tap>",
    "\uff08@\uff09", "「@」", "『@』", "【@】", "《@》", "@。", "@\uff0c", "「@」。", "@&", "[[@|the tap]]", "[[@]]",
    "[[@][the tap]]", 'href="@"', "href=@", "<a href='@'>the tap</a>", '<a class="t" href="@">', "url=@", "URL: @", "url:@.",
    "[x](@)", "[@](@)", "![x](@)", "[x](<@>)", '[x](@ "a title")', "[x](@).", "* @", "@%22", "@%3E", "@%E2%80%9D",
)  # fmt: skip


@pytest.mark.parametrize("around", WRAPPED)
@pytest.mark.parametrize(
    "url",
    [
        f"https://h.example/t?{TAP}",
        "https://h.example/q8w3sbcz",
        "https://h.example/?x=abcdefgh",
        "tagapp://04A1B2C3D4E5F6x000001x08E3FB77C36CF2FB",
    ],
)
def test_what_people_copy_with_a_url_is_not_part_of_a_tap(around: str, url: str) -> None:
    text = around.replace("@", url)
    assert last_reading(text) == url
    assert next(readings(text)) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        f"https://h.example/t?{TAP}",
        f"?c=(a)&{TAP}",
        f"[::1]:8080/t?{TAP}",
        f"http://[::1]:8080/t?{TAP}",
        f"https://h.example/t?maker='Acme'&{TAP}",
        f"https://h.example/t?{TAP}&n=%2B",
        "",
        "ü",
    ],
)
def test_what_a_template_may_have_is_kept(text: str) -> None:
    assert last_reading(text) == text
    assert [*readings(f" {text}\n")] == [text]


@given(st.text("\"'<>()[]{}*\\,.;:!?%2A]( ", max_size=40))
def test_only_the_ends_are_taken_away(text: str) -> None:
    assert last_reading(text) in text


def test_a_long_text_of_brackets_is_left_alone() -> None:
    assert last_reading("(" * 1_000_000) == "(" * 1_000_000
    assert len(last_reading("[](" * 2_000 + ")" * 2_000)) <= 8_000


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ('"h?id=SN-123456."', ["h?id=SN-123456.", "h?id=SN-123456"]),
        ("h?id=(AB1234)", ["h?id=(AB1234"]),
        ("h?id=A1B2C3;", ["h?id=A1B2C3"]),
        ("h?maker=Acme Inc.", ["h?maker=Acme Inc"]),
        ("<h?id=77777A'>.", ["<h?id=77777A'>", "h?id=77777A'", "h?id=77777A"]),
        (f"url=https://h/?{TAP}", [f"https://h/?{TAP}"]),
        (f"url={TAP}", []),
        (f"https://href.example/?{TAP}", []),
    ],
)
def test_one_layer_is_taken_away_at_a_time(text: str, layers: list[str]) -> None:
    assert [*readings(text)] == [text, *layers]


def test_only_the_last_parameter_has_what_is_behind_a_url() -> None:
    sent = {"c": "SN-123456.", "e": "00112233", "id": 'SN-123456."'}
    assert [*parameter_readings(sent)] == [sent, {**sent, "id": "SN-123456."}, {**sent, "id": "SN-123456"}]
    assert [*parameter_readings({"c": "SN-123456.", "e": "0"})] == [{"c": "SN-123456.", "e": "0"}]
    assert [*parameter_readings({})] == [{}]
