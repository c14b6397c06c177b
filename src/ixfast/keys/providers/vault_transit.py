"""The transit engine of HashiCorp Vault or OpenBao, over its HTTP API.

A reference is `MOUNT/KEY`, usually `transit/ixfast`. The rest is configured by the environment as for Vault's own tools:
`VAULT_ADDR`, `VAULT_TOKEN` (or `VAULT_TOKEN_FILE`, or `~/.vault-token` as an agent writes it), `VAULT_NAMESPACE`,
`VAULT_CACERT`. A rotated transit key still opens what its older versions sealed.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ixfast import secret_files
from ixfast.errors import ConfigurationError
from ixfast.keys.provider import ANSWER_TIMEOUT_S, ProviderError, Sealed

_REFERENCE = re.compile(r"([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)/([A-Za-z0-9_.-]+)")
_ANSWER_BYTES_MAX = 64 * 1024
_SERVICE = "Vault"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send the token to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


class VaultTransit:
    """Provider `vault-transit`."""

    def seal(self, reference: str, key32: bytes, kek_id: str) -> Sealed:
        ciphertext = _ask(reference, "encrypt", "plaintext", base64.b64encode(key32).decode(), "ciphertext")
        return Sealed(reference, ciphertext.encode())

    def open(self, reference: str, blob: bytes, kek_id: str) -> bytes:
        plaintext = _ask(reference, "decrypt", "ciphertext", blob.decode("ascii", "replace"), "plaintext")
        try:
            return base64.b64decode(plaintext, validate=True)
        except ValueError:
            raise ProviderError(_SERVICE, "unexpected response from the transit engine") from None


def _ask(reference: str, act: str, given: str, value: str, wanted: str) -> str:
    """Send one request and return the member `wanted` of the response's data."""
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise ConfigurationError("The reference of a Vault key must be MOUNT/KEY, such as transit/ixfast.")
    address = os.environ.get("VAULT_ADDR", "").rstrip("/")
    if not address.startswith(("https://", "http://")):
        raise ConfigurationError("VAULT_ADDR must be the URL of Vault, such as https://vault.example:8200.")
    headers = {"Content-Type": "application/json", "X-Vault-Token": _token(), "X-Vault-Request": "true"}
    if os.environ.get("VAULT_NAMESPACE"):
        headers["X-Vault-Namespace"] = os.environ["VAULT_NAMESPACE"]
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked above
        f"{address}/v1/{parts[1]}/{act}/{parts[2]}", json.dumps({given: value}).encode(), headers, method="POST"
    )
    context = ssl.create_default_context(cafile=os.environ.get("VAULT_CACERT") or None)
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=ANSWER_TIMEOUT_S) as response:
            answer = json.loads(response.read(_ANSWER_BYTES_MAX))
        text = answer["data"][wanted]
    except urllib.error.HTTPError as error:
        with error:
            raise ProviderError(_SERVICE, f"HTTP {error.code} {_errors_in(error)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ProviderError(_SERVICE, getattr(error, "reason", error)) from None
    except (ValueError, KeyError, TypeError):
        raise ProviderError(_SERVICE, "unexpected response from the transit engine") from None
    return str(text)


def _token() -> str:
    token = os.environ.get("VAULT_TOKEN", "")
    if token:
        return token
    path = Path(os.environ.get("VAULT_TOKEN_FILE") or "~/.vault-token").expanduser()
    try:
        return secret_files.read_line(path, "token file, because VAULT_TOKEN is not set")
    except ConfigurationError as error:
        raise ProviderError(_SERVICE, error) from None


def _errors_in(error: urllib.error.HTTPError) -> str:
    try:
        return "; ".join(str(each) for each in json.loads(error.read(_ANSWER_BYTES_MAX))["errors"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)
