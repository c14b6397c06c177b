"""The twin of the native core in plain Python: the fallback for CPUs without AES instructions, and an oracle for tests.

It has the functions of `_cmac.pyx` with the same arguments, results and exceptions. It is based on `cryptography` and thirty to
fifty times slower. It cannot wipe keys, because Python and OpenSSL decide how long their copies live.

Throughout: `file_key`, `meta_key` and `key` are 16 bytes; `uid` is b"" (not mirrored) or 7 bytes as printed; `counter` is -1 (not
mirrored) or 0 to 0xFFFFFF; `window` is the text that the tag authenticated, 0 to 4,096 bytes. Sources: NT4H2421Gx section 9.3,
AN12196, RFC 4493.
"""

import struct
from hmac import compare_digest

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB
from cryptography.hazmat.primitives.cmac import CMAC

IMPLEMENTATION = "twin-cryptography"

_COUNTER_MAX = 0xFFFFFF
_WINDOW_MAX = 4096  # bytes
_CIPHERTEXT_MAX = 4096  # bytes
_SV1 = bytes.fromhex("c33c00010080")
_SV2 = bytes.fromhex("3cc300010080")
_HAS_UID, _HAS_COUNTER = 1, 2


def _check_bytes(value: bytes, name: str) -> None:
    if type(value) is not bytes:
        raise TypeError(f"{name} must be bytes, got {type(value).__name__}")


def _check_size(value: bytes, size: int, name: str) -> None:
    _check_bytes(value, name)
    if len(value) != size:
        raise ValueError(f"{name} must be {size} bytes, got {len(value)}")


def _check_window(window: bytes) -> None:
    _check_bytes(window, "window")
    if len(window) > _WINDOW_MAX:
        raise ValueError(f"window must be at most {_WINDOW_MAX} bytes, got {len(window)}")


def _mirrored(uid: bytes, counter: int) -> bytes:
    """The part of a session vector that depends on the tap."""
    _check_bytes(uid, "uid")
    if type(counter) is not int:
        raise TypeError(f"counter must be an int, got {type(counter).__name__}")
    if len(uid) not in (0, 7):
        raise ValueError(f"uid must be 7 bytes, or empty if not mirrored, got {len(uid)}")
    if not -1 <= counter <= _COUNTER_MAX:
        raise ValueError(f"counter must be 0 to {_COUNTER_MAX}, or -1 if not mirrored")
    return uid + (counter.to_bytes(3, "little") if counter >= 0 else b"")


def _check_blocks(text: bytes, name: str) -> None:
    _check_bytes(text, name)
    if not text or len(text) % 16 or len(text) > _CIPHERTEXT_MAX:
        raise ValueError(f"{name} must be 16 to {_CIPHERTEXT_MAX} bytes and a multiple of 16, got {len(text)}")


def _check_file_message(file_key: bytes, uid: bytes, counter: int, text: bytes, name: str) -> bytes:
    """Check a message with file data, which mirrors both UID and counter; returns the two."""
    _check_size(file_key, 16, "file_key")
    tap = _mirrored(uid, counter)
    _check_bytes(text, name)
    if len(tap) != 10:
        raise ValueError("uid and counter must both be mirrored where there is file data")
    _check_blocks(text, name)
    return tap


def aes_encrypt_block(key: bytes, block: bytes) -> bytes:
    """Encrypt one block of 16 bytes with AES-128."""
    _check_size(key, 16, "key")
    _check_size(block, 16, "block")
    return _ecb(key).encryptor().update(block)


def aes_decrypt_block(key: bytes, block: bytes) -> bytes:
    """The inverse of `aes_encrypt_block`."""
    _check_size(key, 16, "key")
    _check_size(block, 16, "block")
    return _ecb(key).decryptor().update(block)


def _ecb(key: bytes) -> Cipher[ECB]:
    return Cipher(AES128(key), ECB())  # noqa: S305 - single blocks only


def aes_cmac(key: bytes, message: bytes) -> bytes:
    """CMAC(key, message), 16 bytes; the message may have any length."""
    _check_size(key, 16, "key")
    _check_bytes(message, "message")
    mac = CMAC(AES128(key))
    mac.update(message)
    return mac.finalize()


def aes_cmac_subkeys(key: bytes) -> tuple[bytes, bytes, bytes]:
    """L, K1 and K2 of RFC 4493 section 2.3."""
    zeros_encrypted = aes_encrypt_block(key, bytes(16))
    k1 = _double(zeros_encrypted)
    return zeros_encrypted, k1, _double(k1)


def _double(block: bytes) -> bytes:
    doubled = int.from_bytes(block) << 1
    return (doubled & (1 << 128) - 1 ^ 0x87 * (doubled >> 128)).to_bytes(16)


def aes_cmac_verify(key: bytes, message: bytes, mac: bytes) -> bool:
    """Whether `mac` (16 bytes) is CMAC(key, message), compared in constant time."""
    _check_size(key, 16, "key")
    _check_bytes(message, "message")
    _check_size(mac, 16, "mac")
    return compare_digest(aes_cmac(key, message), mac)


def mact(key: bytes, message: bytes) -> bytes:
    """MACt(CMAC(key, message)), 8 bytes, as a tag without session keys sends it.

    For simulated tags and tests; the engine only verifies.
    """
    return aes_cmac(key, message)[1::2]


def mact_verify(key: bytes, message: bytes, mac: bytes) -> bool:
    """Whether `mac` (8 bytes) is MACt(CMAC(key, message)) of a message of any length, compared in constant time."""
    expected = mact(key, message)
    _check_size(mac, 8, "mac")
    return compare_digest(expected, mac)


def sdm_session_keys(file_key: bytes, uid: bytes, counter: int) -> tuple[bytes, bytes]:
    """The session keys (k_enc, k_mac), for diagnosis and tests; k_enc is b"" unless UID and counter are both mirrored."""
    _check_size(file_key, 16, "file_key")
    tap = _mirrored(uid, counter)
    k_enc = aes_cmac(file_key, _SV1 + tap) if len(tap) == 10 else b""
    return k_enc, aes_cmac(file_key, (_SV2 + tap).ljust(16, b"\0"))


def sdm_mac(file_key: bytes, uid: bytes, counter: int, window: bytes) -> bytes:
    """The MACt (8 bytes) that a genuine tag sends. For simulated tags and tests; the engine only verifies."""
    _check_size(file_key, 16, "file_key")
    tap = _mirrored(uid, counter)
    _check_window(window)
    return aes_cmac(aes_cmac(file_key, (_SV2 + tap).ljust(16, b"\0")), window)[1::2]


def sdm_verify(file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
    """Whether `mac` (8 bytes) is the MACt of this message, compared in constant time."""
    expected = sdm_mac(file_key, uid, counter, window)
    _check_size(mac, 8, "mac")
    return compare_digest(expected, mac)


def picc_decrypt(meta_key: bytes, picc_data: bytes) -> bytes:
    """Decrypt PICCData (16 bytes): tag byte, UID and counter as mirrored, random padding. Proves nothing by itself."""
    _check_size(meta_key, 16, "meta_key")
    _check_size(picc_data, 16, "picc_data")
    return aes_decrypt_block(meta_key, picc_data)


def sdm_decrypt_file(file_key: bytes, uid: bytes, counter: int, ciphertext: bytes) -> bytes:
    """Decrypt file data; `ciphertext` is 16 to 4,096 bytes in whole blocks. Call it only after verifying the MAC."""
    return _file_cipher(file_key, uid, counter, ciphertext, "ciphertext").decryptor().update(ciphertext)


def sdm_encrypt_file(file_key: bytes, uid: bytes, counter: int, plaintext: bytes) -> bytes:
    """The inverse of `sdm_decrypt_file`, for simulated tags."""
    return _file_cipher(file_key, uid, counter, plaintext, "plaintext").encryptor().update(plaintext)


def _file_cipher(file_key: bytes, uid: bytes, counter: int, text: bytes, name: str) -> Cipher[CBC]:
    tap = _check_file_message(file_key, uid, counter, text, name)
    k_enc = aes_cmac(file_key, _SV1 + tap)
    return Cipher(AES128(k_enc), CBC(aes_encrypt_block(k_enc, tap[7:].ljust(16, b"\0"))))


def sdm_verify_batch(
    file_keys: bytes, uids: bytes, counters: bytes, windows: tuple[bytes, bytes] | None, macs: bytes, forms: bytes
) -> bytes:
    """Verify n messages. Returns n bytes, 1 for a valid MAC and 0 for an invalid one. For the packing see `_cmac.pyx`."""
    _check_bytes(forms, "forms")
    n = len(forms)
    _check_size(file_keys, 16 * n, "file_keys")
    _check_size(uids, 7 * n, "uids")
    _check_size(counters, 4 * n, "counters")
    _check_size(macs, 8 * n, "macs")
    if forms and max(forms) > (_HAS_UID | _HAS_COUNTER):
        raise ValueError("forms must be bytes 0 to 3")
    numbers = [
        counter if form & _HAS_COUNTER else -1 for form, counter in zip(forms, struct.unpack(f"<{n}I", counters), strict=True)
    ]
    if forms and max(numbers) > _COUNTER_MAX:
        raise ValueError(f"counters must be 0 to {_COUNTER_MAX} where mirrored")
    text, offsets = (b"", (0,) * (n + 1)) if windows is None else _windows_of(windows, n)
    return bytes(
        sdm_verify(
            file_keys[16 * i : 16 * i + 16],
            uids[7 * i : 7 * i + 7] if forms[i] & _HAS_UID else b"",
            numbers[i],
            text[offsets[i] : offsets[i + 1]],
            macs[8 * i : 8 * i + 8],
        )
        for i in range(n)
    )


def _windows_of(windows: tuple[bytes, bytes], n: int) -> tuple[bytes, tuple[int, ...]]:
    if type(windows) is not tuple or len(windows) != 2 or any(type(part) is not bytes for part in windows):
        raise TypeError("windows must be None or a tuple of two bytes objects: text and offsets")
    text, packed = windows
    _check_size(packed, 4 * (n + 1), "windows' offsets")
    offsets = struct.unpack(f"<{n + 1}I", packed)
    steps = [end - start for start, end in zip((0, *offsets), offsets, strict=False)]
    if offsets[0] or min(steps) < 0 or max(steps) > _WINDOW_MAX:
        raise ValueError(f"windows' offsets must start at 0, never fall and be at most {_WINDOW_MAX} apart")
    if offsets[-1] != len(text):
        raise ValueError("windows' offsets must end at the length of windows' text")
    return text, offsets
