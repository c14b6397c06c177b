"""AWS KMS: symmetric keys, `Encrypt` and `Decrypt`.

A reference is a KeyId as KMS accepts it: the ARN of a key or an alias, `alias/…`, or the id of a key. Credentials, and the region
unless an ARN contains it, are found as by every AWS tool. The encryption context names the key, so that policies can require it
and CloudTrail shows which key was opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ixfast.keys.provider import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, ProviderError, Sealed, hush

CONTEXT = "ixfast-key-encryption-key"


class AwsKms:
    """Provider `aws-kms`."""

    def seal(self, reference: str, key32: bytes, kek_id: str) -> Sealed:
        with _client(reference) as client:
            answer = client.encrypt(KeyId=reference, Plaintext=key32, EncryptionContext={CONTEXT: kek_id})
        return Sealed(reference, answer["CiphertextBlob"])

    def open(self, reference: str, blob: bytes, kek_id: str) -> bytes:
        with _client(reference) as client:
            answer = client.decrypt(KeyId=reference, CiphertextBlob=blob, EncryptionContext={CONTEXT: kek_id})
        plaintext: bytes = answer["Plaintext"]
        return plaintext


@contextlib.contextmanager
def _client(reference: str) -> Iterator[Any]:
    hush("boto3", "botocore", "urllib3")
    parts = reference.split(":")
    region = parts[3] if len(parts) > 4 and parts[0] == "arn" else None
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S, read_timeout=ANSWER_TIMEOUT_S, retries={"mode": "standard", "total_max_attempts": 2}
    )
    try:
        client = boto3.session.Session().client("kms", region_name=region, config=config)
        try:
            yield client
        finally:
            client.close()
    except (BotoCoreError, ClientError) as error:
        raise ProviderError("AWS KMS", error) from None
