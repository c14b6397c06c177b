"""`ixfast profile detect`: JSON alone on standard output, keys from files, pipes and prompts, and never shown."""

from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from ixfast.cli import profile
from ixfast.cli.command_group import CommandGroup
from ixfast.cli.exit_codes import ExitCode
from ixfast.domain.model import EncodingProfile
from ixfast.keys.diversify import An10922
from ixfast.testing.virtual_tags import VirtualTag

UID = bytes.fromhex("04782e21801d80")
FILE_KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
META_KEY = bytes.fromhex("101112131415161718191a1b1c1d1e1f")


main = CommandGroup("ixfast", help="The command group alone, as `ixfast` mounts it.")
profile.register(main)


def tap(profile: str = "encrypted-file", file_key: bytes = FILE_KEY) -> str:
    return VirtualTag(profile, xuid="q8w3sbcz", uid=UID, file_key=file_key, meta_key=META_KEY).tap()


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["profile", "detect", *arguments], input=given)


def printed(result: Result) -> EncodingProfile:
    assert result.exit_code == 0, result.output
    return msgspec.json.decode(result.stdout, type=EncodingProfile)


def shows_a_key(result: Result) -> bool:
    return any(key.hex() in result.output.lower() for key in (FILE_KEY, META_KEY))


def test_the_profile_is_printed_as_json() -> None:
    result = run(tap(), "--key", FILE_KEY.hex(), "--meta-key", META_KEY.hex(), "--name", "mine")
    assert printed(result) == EncodingProfile(
        name="mine", scheme="ntag424-aes", template="picc_data={picc}&enc={enc:32}&cmac={mac}", window="{enc:32}&cmac="
    )
    assert "best: verifies the MAC of 1 of 1 URLs\n  with key 1 (" in result.stderr
    assert "mirror decrypted with meta key 1 (" in result.stderr
    assert not shows_a_key(result)


def test_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the fleet\n\n{FILE_KEY.hex()} # file\n{META_KEY.hex().upper()}\n{FILE_KEY.hex()}\n")
    result = run(tap(), "--key", f"@{file}")
    assert printed(result).window == "{enc:32}&cmac="
    assert "with key 1" in result.stderr
    assert "mirror decrypted with key 2" in result.stderr


def test_keys_of_standard_input() -> None:
    assert printed(run(tap(), "--key", "-", given=f"{META_KEY.hex()}\n{FILE_KEY.hex()}\n"))


def test_keys_of_a_prompt_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_prompt_keys", lambda: (FILE_KEY.hex(), META_KEY.hex()))
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    result = run(tap())
    assert printed(result)
    assert not shows_a_key(result)


def test_the_prompt_takes_nothing_for_factory_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def prompt(text: str, **options: object) -> str:
        asked.append(options)
        return f" {FILE_KEY.hex()} "

    monkeypatch.setattr(click, "prompt", prompt)
    assert profile._prompt_keys() == (FILE_KEY.hex(),)
    assert asked[0]["hide_input"] is True


def test_without_keys_factory_keys_are_tried() -> None:
    result = run(VirtualTag("encrypted", xuid="q8w3sbcz", uid=UID, file_key=bytes(16)).tap())
    assert printed(result).template == "picc_data={picc}&cmac={mac}"
    assert "factory keys, which are public" in result.stderr


def test_derived_keys() -> None:
    file_key = An10922(input="{uid}3042f5").derive_file_key(FILE_KEY, UID)
    result = run(tap("plain-joined", file_key), "--key", FILE_KEY.hex(), "--an10922", "{uid}3042f5")
    assert printed(result).template == "m={uid}x{counter}&cmac={mac}"
    assert 'derivation: {"scheme":"an10922","input":"{uid}3042f5"' in result.stderr


def test_a_uid_that_is_not_sent() -> None:
    tag = VirtualTag("ixkio-plain", xuid="q8w3sbcz", uid=UID, file_key=FILE_KEY)
    url = "https://tag.example/t?" + "&".join(f"{name}={text}" for name, text in tag.tap_parameters().items())
    assert "u={uid}" in printed(run(url, "--key", FILE_KEY.hex(), "--uid", UID.hex())).template


def test_the_profiles_of_two_groups() -> None:
    result = run(tap("plain-joined"), tap(), "https://tag.example/?a=1", "--key", FILE_KEY.hex(), "--key", META_KEY.hex())
    assert printed(result)
    assert result.stderr.count("the MAC of 1 of 3 URLs") == 2
    assert "also: verifies the MAC of 1 of 3 URLs" in result.stderr
    assert "not explained: no field can be a MAC" in result.stderr


def test_nothing_found_is_a_failure_with_reasons() -> None:
    result = run(tap(), "--key", FILE_KEY.hex())
    assert result.exit_code == ExitCode.NEGATIVE
    assert result.stdout == ""
    assert (
        "not explained: picc_data is an encrypted mirror that neither your key nor the factory key decrypts, as they are or "
        "derived" in result.stderr
    )
    assert "no profile verifies the MAC of any of these URLs" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--key", FILE_KEY.hex()[:-1] + "g"), "--key: must be 32 hex digits"),
        (("--meta-key", FILE_KEY.hex()[:-2]), "--meta-key: must be 32 hex digits"),
        (("--uid", "04"), "--uid: must be 14 hex digits"),
        (("--key", "@/nowhere/keys"), "--key: cannot read the file /nowhere/keys"),
        (("--an10922", "{uid}{name}"), "--an10922: input must consist of pairs of hex digits"),
    ],
)
def test_mistakes_are_told_without_the_value(arguments: tuple[str, str], message: str) -> None:
    result = run(tap(), *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert FILE_KEY.hex()[:-2] not in result.output


def test_too_many_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n".join(f"{number:032x}" for number in range(65)))
    result = run(tap(), "--key", f"@{file}")
    assert result.exit_code == 2
    assert "at most 64 keys" in result.output


@pytest.mark.parametrize("around", ['"{}"', "<{}>", "{}'", "[x]({})", "{}."])
def test_a_url_with_quotes_around_it_gives_the_same_profile(around: str) -> None:
    plain, wrapped = tap(), around.format(tap())
    result = run(plain, wrapped, "--key", FILE_KEY.hex(), "--key", META_KEY.hex())
    assert result.stderr.startswith(
        "URL 2: read without the quotes, brackets or punctuation around it\nbest: verifies the MAC of 2 of 2"
    )
    assert printed(result) == printed(run(plain, "--key", FILE_KEY.hex(), "--key", META_KEY.hex()))


def test_the_command_is_mounted() -> None:
    from ixfast.cli import main as ixfast

    result = CliRunner().invoke(ixfast, ["profile", "detect", "--help"])
    assert result.exit_code == 0
    assert "@FILE" in result.output
    failed = CliRunner().invoke(ixfast, ["profile", "detect", "https://tag.example/a b"], input="")
    assert failed.exit_code == 1
    assert "percent-encoded" in failed.output
