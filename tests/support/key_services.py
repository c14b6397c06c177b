"""Local stand-ins for key services, each with the real protocol and real encryption on 127.0.0.1.

They do not implement policies, quotas or key lifecycles.
"""

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import os
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud import kms

VAULT_TOKEN = "hvs.c4nary-token"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: ClassVar[Any]

    def log_message(self, *_: object) -> None: ...

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, body = self.service.answer(self.command, self.path.partition("?")[0], self.headers, content)
        encoded = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(encoded)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815


class HttpService:
    """A service that runs between `start` and `stop` and refuses connections while stopped. It keeps its port."""

    tls: ssl.SSLContext | None = None

    def __init__(self) -> None:
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self.requests: list[str] = []

    def answer(self, method: str, path: str, headers: Any, content: bytes) -> tuple[int, dict[str, str], object]:
        raise NotImplementedError

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()


class Vault(HttpService):
    """The transit engine at `transit/`, with versioned AES-256-GCM keys. If `failure` is set, that HTTP status is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, list[bytes]] = {"ixfast": [os.urandom(32)]}
        self.failure: int | None = None

    @property
    def environ(self) -> dict[str, str]:
        return {"VAULT_ADDR": f"http://127.0.0.1:{self.port}", "VAULT_TOKEN": VAULT_TOKEN}

    def answer(self, method: str, path: str, headers: Any, content: bytes) -> tuple[int, dict[str, str], object]:
        self.requests.append(path)
        if self.failure is not None:
            return self.failure, {"Location": "http://127.0.0.1:1/"}, {"errors": ["Vault is sealed"]}
        if headers.get("X-Vault-Token") != VAULT_TOKEN:
            return 403, {}, {"errors": ["permission denied"]}
        parts = path.split("/")
        if len(parts) != 5 or parts[:3] != ["", "v1", "transit"] or parts[4] not in self.keys:
            return 400, {}, {"errors": ["encryption key not found"]}
        versions, given = self.keys[parts[4]], json.loads(content)
        if parts[3] == "encrypt":
            nonce = os.urandom(12)
            sealed = nonce + AESGCM(versions[-1]).encrypt(nonce, base64.b64decode(given["plaintext"], validate=True), None)
            return 200, {}, {"data": {"ciphertext": f"vault:v{len(versions)}:{base64.b64encode(sealed).decode()}"}}
        try:
            _, version, text = given["ciphertext"].split(":")
            sealed = base64.b64decode(text, validate=True)
            opened = AESGCM(versions[int(version[1:]) - 1]).decrypt(sealed[:12], sealed[12:], None)
        except (ValueError, IndexError, InvalidTag):
            return 400, {}, {"errors": ["invalid ciphertext: unable to decrypt"]}
        return 200, {}, {"data": {"plaintext": base64.b64encode(opened).decode()}}


class AzureVault(HttpService):
    """A key vault with versioned RSA keys, behind a bearer-token challenge, over TLS with its own certificate."""

    TOKEN = "c4nary-bearer"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.versions = {"v1": rsa.generate_private_key(65537, 2048)}
        self.certificate = folder / "vault.pem"
        self.certificate.write_bytes(_self_signed())
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(self.certificate)

    @property
    def key_id(self) -> str:
        return f"https://127.0.0.1:{self.port}/keys/ixfast"

    def answer(self, method: str, path: str, headers: Any, content: bytes) -> tuple[int, dict[str, str], object]:
        self.requests.append(f"{method} {path}")
        if headers.get("Authorization") != f"Bearer {self.TOKEN}":
            challenge = 'Bearer authorization="https://login.example/tenant", resource="https://vault.example"'
            return 401, {"WWW-Authenticate": challenge}, {"error": {"code": "Unauthorized", "message": "who are you"}}
        name, version, act = [*path.removeprefix("/keys/").split("/"), "", ""][:3]
        version = version or list(self.versions)[-1]
        if name != "ixfast" or version not in self.versions:
            return 404, {}, {"error": {"code": "KeyNotFound", "message": "there is no such key"}}
        key = self.versions[version]
        kid = f"{self.key_id}/{version}"
        if method == "GET":
            numbers = key.public_key().public_numbers()
            public = {"n": _base64url(numbers.n.to_bytes(256)), "e": _base64url(numbers.e.to_bytes(3))}
            described = {"kid": kid, "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"], **public}
            return 200, {}, {"key": described, "attributes": {"enabled": True}}
        given = json.loads(content)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        value = base64.urlsafe_b64decode(given["value"] + "==")
        try:
            done = key.decrypt(value, oaep) if act == "unwrapkey" else key.public_key().encrypt(value, oaep)
        except ValueError:
            return 400, {}, {"error": {"code": "BadParameter", "message": "it does not unwrap"}}
        return 200, {}, {"kid": kid, "value": _base64url(done)}


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _self_signed() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret + certificate.public_bytes(serialization.Encoding.PEM)


class GoogleKms:
    """`Encrypt` and `Decrypt` of Cloud KMS, over gRPC without TLS."""

    NAME = "projects/p/locations/l/keyRings/r/cryptoKeys/ixfast"

    def __init__(self) -> None:
        self._key = AESGCM(os.urandom(32))
        self._server = grpc.server(ThreadPoolExecutor(2))
        methods = {
            "Encrypt": _unary(self._encrypt, kms.EncryptRequest, kms.EncryptResponse),
            "Decrypt": _unary(self._decrypt, kms.DecryptRequest, kms.DecryptResponse),
        }
        handler = grpc.method_handlers_generic_handler("google.cloud.kms.v1.KeyManagementService", methods)
        self._server.add_generic_rpc_handlers((handler,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def client(self) -> Any:
        transport = kms.KeyManagementServiceClient.get_transport_class("grpc")
        return kms.KeyManagementServiceClient(transport=transport(channel=grpc.insecure_channel(f"127.0.0.1:{self.port}")))

    def _encrypt(self, request: Any, context: Any) -> Any:
        if request.name != self.NAME:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such key")
        nonce = os.urandom(12)
        sealed = nonce + self._key.encrypt(nonce, request.plaintext, request.additional_authenticated_data)
        return kms.EncryptResponse(name=f"{request.name}/cryptoKeyVersions/1", ciphertext=sealed)

    def _decrypt(self, request: Any, context: Any) -> Any:
        sealed = request.ciphertext
        try:
            opened = self._key.decrypt(sealed[:12], sealed[12:], request.additional_authenticated_data)
        except (ValueError, InvalidTag):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed: the ciphertext is invalid.")
        return kms.DecryptResponse(plaintext=opened)


def _unary(method: Any, request: Any, response: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        method, request_deserializer=request.deserialize, response_serializer=response.serialize
    )
