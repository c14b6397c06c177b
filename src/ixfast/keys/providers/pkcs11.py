"""A hardware security module, or SoftHSM, over PKCS#11: an AES key that never leaves the token, used with AES-GCM.

A reference is a PKCS#11 URI (RFC 7512) that names a token, a secret key in it, the module, and a file with the PIN:
`pkcs11:token=prod;object=ixfast?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/secrets/hsm-pin`.
A blob consists of a 12-byte nonce and the token's output, ciphertext and tag. The key's id is the associated data.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pkcs11
from pkcs11.exceptions import PKCS11Error

from ixfast import secret_files
from ixfast.errors import ConfigurationError
from ixfast.keys.provider import ProviderError, Sealed

_NONCE_BYTES = 12
_TAG_BITS = 128
_SERVICE = "PKCS#11"
_ATTRIBUTES = frozenset({"token", "object", "serial", "type"})
_QUERY = frozenset({"module-path", "pin-source"})


class Pkcs11Token:
    """Provider `pkcs11`."""

    def seal(self, reference: str, key32: bytes, kek_id: str) -> Sealed:
        nonce = os.urandom(_NONCE_BYTES)
        with _key(reference) as key:
            return Sealed(reference, nonce + bytes(key.encrypt(key32, **_gcm(nonce, kek_id))))

    def open(self, reference: str, blob: bytes, kek_id: str) -> bytes:
        nonce, ciphertext = blob[:_NONCE_BYTES], blob[_NONCE_BYTES:]
        with _key(reference) as key:
            return bytes(key.decrypt(ciphertext, **_gcm(nonce, kek_id)))


def _gcm(nonce: bytes, kek_id: str) -> dict[str, Any]:
    parameters = pkcs11.GCMParams(nonce, kek_id.encode(), _TAG_BITS)
    return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}


@contextlib.contextmanager
def _key(reference: str) -> Iterator[Any]:
    """The key in an open session, which is closed on exit."""
    named = _parse(reference)
    try:
        library = pkcs11.lib(named["module-path"])
        tokens = library.get_tokens(token_label=named.get("token"), token_serial=named.get("serial", "").encode() or None)
        with _one(tokens, "token").open(user_pin=_pin(named["pin-source"])) as session:
            yield session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=named["object"])
    except (PKCS11Error, RuntimeError) as error:  # RuntimeError: the module is not a PKCS#11 library
        raise ProviderError(_SERVICE, f"{type(error).__name__} {error}".strip()) from None


def _one(tokens: Any, what: str) -> Any:
    found = list(tokens)
    if len(found) != 1:
        raise ProviderError(_SERVICE, f"{len(found)} {what}s match the reference; there must be exactly one")
    return found[0]


def _pin(source: str) -> str:
    path = Path(source.removeprefix("file:"))
    try:
        return secret_files.read_line(path, "pin-source")
    except ConfigurationError as error:
        raise ProviderError(_SERVICE, error) from None


def _parse(reference: str) -> dict[str, str]:
    scheme, _, rest = reference.partition(":")
    path, _, query = rest.partition("?")
    named = {}
    for parts, known in ((path.split(";"), _ATTRIBUTES), (query.split("&"), _QUERY)):
        for part in filter(None, parts):
            name, _, value = part.partition("=")
            if name not in known:
                raise ConfigurationError(f"{name} is not allowed in the PKCS#11 URI of a key; {_usage()}")
            named[name] = unquote(value)
    if (
        scheme != "pkcs11"
        or not {"object", "module-path", "pin-source"} <= named.keys()
        or not {"token", "serial"} & named.keys()
    ):
        raise ConfigurationError(f"The reference is not the PKCS#11 URI of a key; {_usage()}")
    return named


def _usage() -> str:
    return "write pkcs11:token=NAME;object=NAME?module-path=LIBRARY&pin-source=FILE."
