"""Google Cloud KMS: symmetric keys, `Encrypt` and `Decrypt`.

A reference is the resource name of a key, `projects/…/locations/…/keyRings/…/cryptoKeys/…`. Its primary version seals, and the
version that sealed opens. Credentials are Google's application default credentials.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud import kms

from ixfast.keys.provider import ANSWER_TIMEOUT_S, ProviderError, Sealed, hush


class GcpKms:
    """Provider `gcp-kms`. Pass `make_client` to use another endpoint."""

    def __init__(self, make_client: Callable[[], Any] = kms.KeyManagementServiceClient) -> None:
        self._make_client = make_client

    def seal(self, reference: str, key32: bytes, kek_id: str) -> Sealed:
        request = {"name": reference, "plaintext": key32, "additional_authenticated_data": kek_id.encode()}
        with self._client() as client:
            answer = client.encrypt(request=request, timeout=ANSWER_TIMEOUT_S, retry=None)
        return Sealed(reference, answer.ciphertext)

    def open(self, reference: str, blob: bytes, kek_id: str) -> bytes:
        request = {"name": reference, "ciphertext": blob, "additional_authenticated_data": kek_id.encode()}
        with self._client() as client:
            answer = client.decrypt(request=request, timeout=ANSWER_TIMEOUT_S, retry=None)
        plaintext: bytes = answer.plaintext
        return plaintext

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        hush("google", "grpc", "urllib3")
        try:
            client = self._make_client()
            try:
                yield client
            finally:
                client.transport.close()
        except (GoogleAPIError, GoogleAuthError) as error:
            raise ProviderError("Google Cloud KMS", error) from None
