"""Every provider against its service: moto for AWS KMS, SoftHSM for PKCS#11, and protocol-level stand-ins for the rest."""

import base64
import logging
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pkcs11
import pytest
from azure.core.credentials import AccessToken
from cryptography.hazmat.primitives.asymmetric import rsa
from moto.server import ThreadedMotoServer
from support.key_services import VAULT_TOKEN, AzureVault, GoogleKms, Vault
from support.requirements import requires

from ixfast.errors import ConfigurationError
from ixfast.keys import KekFileError, KeyEncryptionKeys, ProviderError, key_file, provider, sealing
from ixfast.keys.kek import kek_id
from ixfast.keys.key_file import KeyLine
from ixfast.keys.provider import KeyProvider, provider_named, provider_names
from ixfast.keys.providers.azure_keyvault import AzureKeyVault
from ixfast.keys.providers.gcp_kms import GcpKms

HSM_MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
HSM_PIN = "c4nary-9182"


class Place(NamedTuple):
    """A running service: its provider, a key that it has, one that it does not have, and how to make it unreachable."""

    provider: KeyProvider
    reference: str
    absent: str
    leave: Callable[[], None]


@pytest.fixture(scope="module")
def moto_server() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def aws(moto_server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Place:
    host, port = moto_server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    client = boto3.client("kms", region_name="eu-central-1")
    arn = client.create_key()["KeyMetadata"]["Arn"]
    client.close()
    absent = arn.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000"
    return Place(provider_named("aws-kms"), arn, absent, lambda: monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1"))


@pytest.fixture
def gcp() -> Iterator[Place]:
    service = GoogleKms()
    service.start()
    yield Place(GcpKms(service.client), service.NAME, f"{service.NAME}x", service.stop)
    service.stop()


class Credential:
    def get_token(self, *_: object, **__: object) -> AccessToken:
        return AccessToken(AzureVault.TOKEN, int(time.time()) + 3600)


@pytest.fixture
def azure_vault(tmp_path: Path) -> Iterator[AzureVault]:
    service = AzureVault(tmp_path)
    with service.running():
        yield service


@pytest.fixture
def azure(azure_vault: AzureVault) -> Place:
    ours = AzureKeyVault(Credential(), connection_verify=str(azure_vault.certificate), verify_challenge_resource=False)
    return Place(ours, azure_vault.key_id, azure_vault.key_id + "x", azure_vault.stop)


@pytest.fixture
def transit() -> Iterator[Vault]:
    service = Vault()
    with service.running():
        yield service


@pytest.fixture
def vault(transit: Vault, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in transit.environ.items():
        monkeypatch.setenv(name, value)
    return Place(provider_named("vault-transit"), "transit/ixfast", "transit/absent", transit.stop)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SoftHSM token with an AES key; the module reads its configuration only once per process."""
    program = requires("softhsm2-util", package="softhsm2")
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    (folder / "pin").write_text(HSM_PIN + "\n")
    (folder / "pin").chmod(0o600)
    changed = pytest.MonkeyPatch()
    changed.setenv("SOFTHSM2_CONF", str(folder / "conf"))
    label = f"t{secrets.token_hex(4)}"
    subprocess.run(
        [program, "--init-token", "--free", "--label", label, "--pin", HSM_PIN, "--so-pin", HSM_PIN],
        check=True,
        capture_output=True,
    )
    with pkcs11.lib(str(HSM_MODULE)).get_token(token_label=label).open(rw=True, user_pin=HSM_PIN) as session:
        session.generate_key(pkcs11.KeyType.AES, 256, label="our key", store=True)
    yield f"pkcs11:token={label};object=our%20key?module-path={HSM_MODULE}&pin-source=file:{folder}/pin"
    changed.undo()


@pytest.fixture
def hsm(token: str) -> Iterator[Place]:
    pin = Path(token.rpartition("file:")[2])
    away = pin.with_name("pin-elsewhere")
    yield Place(provider_named("pkcs11"), token, token.replace("our%20key", "absent"), lambda: pin.rename(away) and None)
    if away.exists():
        away.rename(pin)


@pytest.fixture(params=["aws", "gcp", "azure", "vault", "hsm"])
def place(request: pytest.FixtureRequest) -> Place:
    service: Place = request.getfixturevalue(request.param)
    return service


def test_what_was_sealed_opens_and_is_not_the_key(place: Place) -> None:
    key32 = secrets.token_bytes(32)
    id_ = kek_id(key32)
    first, second = (place.provider.seal(place.reference, key32, id_) for _ in range(2))
    assert first.blob != second.blob
    assert key32 not in first.blob
    assert first.reference.startswith(place.reference)
    assert not any(letter.isspace() for letter in first.reference)
    for sealed in (first, second):
        assert place.provider.open(sealed.reference, sealed.blob, id_) == key32


def test_an_altered_blob_and_an_absent_key_are_told(place: Place) -> None:
    key32 = secrets.token_bytes(32)
    id_ = kek_id(key32)
    sealed = place.provider.seal(place.reference, key32, id_)
    middle = len(sealed.blob) // 2
    altered = sealed.blob[:middle] + bytes([sealed.blob[middle] ^ 1]) + sealed.blob[middle + 1 :]
    for blob in (altered, sealed.blob[:20], b"\xff"):
        with pytest.raises(ProviderError):
            place.provider.open(sealed.reference, blob, id_)
    with pytest.raises(ProviderError) as caught:
        place.provider.seal(place.absent, key32, id_)
    assert caught.value.__suppress_context__


def test_an_unreachable_service_is_told_in_time(place: Place) -> None:
    key32 = secrets.token_bytes(32)
    sealed = place.provider.seal(place.reference, key32, kek_id(key32))
    place.leave()
    began = time.monotonic()
    with pytest.raises(ProviderError) as caught:
        place.provider.open(sealed.reference, sealed.blob, kek_id(key32))
    assert time.monotonic() - began < 15
    assert len(str(caught.value)) < 400


def test_no_library_logs_a_key_even_at_its_most_talkative(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    key32 = secrets.token_bytes(32)
    with caplog.at_level(logging.DEBUG):
        sealed = place.provider.seal(place.reference, key32, kek_id(key32))
        place.provider.open(sealed.reference, sealed.blob, kek_id(key32))
    said = caplog.text + "".join(repr(record.args) + repr(record.__dict__) for record in caplog.records)
    for shape in (base64.b64encode(key32).decode(), key32.hex(), repr(key32)[2:-1], VAULT_TOKEN, HSM_PIN):
        assert shape not in said


def test_a_key_of_another_name_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that opens in a line that names another key, as after swapping lines, whatever context the service binds."""
    monkeypatch.setattr(sealing, "provider_named", lambda _name: place.provider)
    line = sealing.make_line("some-service", place.reference)
    other = sealing.make_line("some-service", place.reference)
    assert sealing.open_line(line).id == line.id
    with pytest.raises(ProviderError):
        sealing.open_line(KeyLine(line.id, line.provider, line.reference, other.sealed))


# Particularities of single services.


def test_aws_names_the_key_in_the_encryption_context(aws: Place) -> None:
    key32 = secrets.token_bytes(32)
    sealed = aws.provider.seal(aws.reference, key32, kek_id(key32))
    with pytest.raises(ProviderError, match="AWS KMS"):
        aws.provider.open(aws.reference, sealed.blob, "0" * 16)


def test_aws_without_credentials(aws: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ProviderError, match="credentials"):
        aws.provider.open(aws.reference, b"x", "0" * 16)


def test_azure_keeps_the_version_that_wrapped(azure: Place, azure_vault: AzureVault) -> None:
    key32 = secrets.token_bytes(32)
    sealed = azure.provider.seal(azure.reference, key32, kek_id(key32))
    assert sealed.reference == f"{azure_vault.key_id}/v1"
    azure_vault.versions["v2"] = rsa.generate_private_key(65537, 2048)
    assert azure.provider.open(sealed.reference, sealed.blob, kek_id(key32)) == key32
    assert azure.provider.seal(azure.reference, key32, kek_id(key32)).reference == f"{azure_vault.key_id}/v2"
    assert not any("/wrapkey" in request for request in azure_vault.requests)  # wrapping uses the public key locally


def test_vault_opens_what_older_versions_sealed(vault: Place, transit: Vault) -> None:
    key32 = secrets.token_bytes(32)
    sealed = vault.provider.seal(vault.reference, key32, kek_id(key32))
    transit.keys["ixfast"].append(os.urandom(32))
    assert vault.provider.seal(vault.reference, key32, kek_id(key32)).blob.startswith(b"vault:v2:")
    assert vault.provider.open(vault.reference, sealed.blob, kek_id(key32)) == key32


def test_vault_says_what_is_wrong(vault: Place, transit: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for status in (503, 307):
        transit.failure = status
        with pytest.raises(ProviderError, match=f"Vault: HTTP {status} Vault is sealed"):
            vault.provider.open(vault.reference, b"vault:v1:AAAA", "0" * 16)
    transit.failure = None
    monkeypatch.setenv("VAULT_TOKEN", "another")
    with pytest.raises(ProviderError, match="permission denied"):
        vault.provider.open(vault.reference, b"vault:v1:AAAA", "0" * 16)
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ProviderError, match="VAULT_TOKEN is not set: cannot read"):
        vault.provider.open(vault.reference, b"vault:v1:AAAA", "0" * 16)
    (tmp_path / "token").write_text(VAULT_TOKEN + "\n")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(ProviderError, match=r"/token is accessible to all users \(mode 0644\)"):
        vault.provider.open(vault.reference, b"vault:v1:AAAA", "0" * 16)
    (tmp_path / "token").chmod(0o600)
    key32 = secrets.token_bytes(32)
    assert vault.provider.open(vault.reference, vault.provider.seal(vault.reference, key32, "").blob, "") == key32
    with pytest.raises(ConfigurationError, match="MOUNT/KEY"):
        vault.provider.open("ixfast", b"vault:v1:AAAA", "0" * 16)
    monkeypatch.setenv("VAULT_ADDR", "file:///etc/passwd")
    with pytest.raises(ConfigurationError, match="VAULT_ADDR"):
        vault.provider.open(vault.reference, b"vault:v1:AAAA", "0" * 16)


@pytest.mark.parametrize(
    "reference",
    [
        "ixfast",
        "pkcs11:token=t;object=o",
        "pkcs11:object=o?module-path=/m&pin-source=/p",
        "pkcs11:token=t;object=o?module-path=/m&pin-value=1234",
    ],
)
def test_a_pkcs11_reference_that_cannot_be_one(reference: str) -> None:
    with pytest.raises(ConfigurationError, match="write pkcs11:token=NAME"):
        provider_named("pkcs11").open(reference, b"x" * 64, "0" * 16)


def test_a_pkcs11_token_that_is_not_there(hsm: Place, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="0 tokens match"):
        hsm.provider.open(hsm.reference.replace("token=t", "token=u"), b"x" * 64, "0" * 16)
    with pytest.raises(ProviderError, match="PKCS#11"):
        hsm.provider.open(hsm.reference.replace(str(HSM_MODULE), str(tmp_path / "none.so")), b"x" * 64, "0" * 16)
    (tmp_path / "pin").write_text("wrong")
    (tmp_path / "pin").chmod(0o644)
    wrong = f"{hsm.reference.partition('pin-source=')[0]}pin-source={tmp_path}/pin"
    with pytest.raises(ProviderError, match=r"pin-source: .*/pin is accessible to all users \(mode 0644\)"):
        hsm.provider.open(wrong, b"x" * 64, "0" * 16)
    (tmp_path / "pin").chmod(0o600)
    with pytest.raises(ProviderError, match="PinIncorrect"):
        hsm.provider.open(wrong, b"x" * 64, "0" * 16)


def test_azure_refuses_what_is_no_key(azure: Place) -> None:
    with pytest.raises(ConfigurationError, match="not a key identifier"):
        azure.provider.seal("ixfast", bytes(32), "0" * 16)


# Finding providers, and key files with their lines.


def test_the_providers_of_this_package_are_found() -> None:
    assert {"aws-kms", "azure-keyvault", "gcp-kms", "pkcs11", "vault-transit"} <= set(provider_names())
    with pytest.raises(ConfigurationError, match="no key provider 'aws'; available are file, aws-kms"):
        provider_named("aws")


def test_a_provider_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "aws-kms"

        def load(self) -> Any:
            raise ModuleNotFoundError("No module named 'boto3'")

    monkeypatch.setattr(provider, "entry_points", lambda **_: [Point()])
    with pytest.raises(ConfigurationError, match=r"No module named 'boto3'.*install ixfast\[aws\]"):
        provider_named("aws-kms")


def test_a_file_with_keys_of_several_providers(vault: Place, hsm: Place, aws: Place, tmp_path: Path) -> None:
    lines = [
        sealing.make_line("vault-transit", vault.reference),
        sealing.make_line("pkcs11", hsm.reference),
        sealing.make_line("aws-kms", aws.reference),
        sealing.make_line("file", ""),
    ]
    key_file.create(tmp_path / "kek", lines[0])
    for line in lines[1:]:
        key_file.edit(tmp_path / "kek", lambda file, line=line: file.with_line(line, current=False))  # type: ignore[misc]
    sealing.check_file(tmp_path / "kek")
    assert KeyEncryptionKeys.load_file(tmp_path / "kek").ids == tuple(line.id for line in lines)
    vault.leave()
    with pytest.raises(ProviderError, match="Vault"):
        KeyEncryptionKeys.load_file(tmp_path / "kek")
    sealing.check_file(tmp_path / "kek")


def test_a_line_needs_a_reference_that_fits_in_it() -> None:
    for reference in ("", "two words"):
        with pytest.raises(ConfigurationError, match="requires a key reference"):
            sealing.make_line("vault-transit", reference)
    with pytest.raises(ConfigurationError, match="takes no key reference"):
        sealing.make_line("file", "transit/ixfast")
    with pytest.raises(KekFileError, match="no key file"):
        sealing.check_file(Path("/nowhere/kek"))
