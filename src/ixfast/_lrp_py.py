"""The twin of the native core's LRP mode in plain Python: a fallback for CPUs without AES, and an oracle for tests.

It has the functions of `_lrp.pyx` with the same arguments, results and exceptions. It is based on single-block AES of
`cryptography` and about a hundred times slower. Like `_cmac_py` it cannot wipe keys. Unlike the native core it looks up
plaintexts by secret nibbles, which other programs on the same machine might observe in its timing.

Throughout: `file_key`, `meta_key` and `key` are 16 bytes; `uid` is b"" (not mirrored) or 7 bytes as printed; `counter` of a tap
is -1 (not mirrored) or 0 to 0xFFFFFF; `window` is the text that the tag authenticated, 0 to 4,096 bytes. Sources: AN12304 (the
primitive, its CMAC and LRICB), NT4H2421Gx section 9.3 (its use in messages).
"""

from collections.abc import Callable, Iterable
from hmac import compare_digest

from ixfast._cmac_py import (
    _check_blocks,
    _check_bytes,
    _check_file_message,
    _check_size,
    _check_window,
    _double,
    _ecb,
    _mirrored,
)

_NEXT, _PRODUCT = b"\x55" * 16, b"\xaa" * 16
_PLAINTEXTS = 16
_UPDATED_KEYS = 4
_MAC, _ENC = 0, 1  # indexes of a session's updated keys
_NIBBLES_MAX = 32


class _Primitive:
    """A key expanded to its plaintexts and updated keys. Lengths have been checked before."""

    def __init__(self, key: bytes) -> None:
        chain, update = _step(key)
        self.plaintexts = _products(chain, _PLAINTEXTS)
        self.updated_keys = _products(update, _UPDATED_KEYS)

    def eval(self, updated_key: int, nibbles: Iterable[int], *, final: bool = True) -> bytes:
        key = self.updated_keys[updated_key]
        for nibble in nibbles:
            key = _encrypt(key, self.plaintexts[nibble])
        return _encrypt(key, bytes(16)) if final else key

    def cmac(self, message: bytes) -> bytes:
        subkey = _double(self.eval(_MAC, bytes(32)))
        if not message or len(message) % 16:
            subkey = _double(subkey)
            message += b"\x80" + bytes(-(len(message) + 1) % 16)
        chain = bytes(16)
        for at in range(0, len(message), 16):
            block = _xor(chain, message[at : at + 16])
            if at + 16 == len(message):
                block = _xor(block, subkey)
            chain = self.eval(_MAC, _nibbles(block))
        return chain

    def lricb(self, updated_key: int, counter: bytes, text: bytes, work: Callable[[bytes, bytes], bytes]) -> bytes:
        """Process each block with `work(key, block)`. The key is the evaluation of a counter that increments and wraps around."""
        first, modulus = int.from_bytes(counter), 1 << 8 * len(counter)
        return b"".join(
            work(
                self.eval(updated_key, _nibbles(((first + place) % modulus).to_bytes(len(counter)))),
                text[16 * place : 16 * place + 16],
            )
            for place in range(len(text) // 16)
        )


def _step(key: bytes) -> tuple[bytes, bytes]:
    """The next key of a chain, and the product of the current one."""
    both = _encrypt(key, _NEXT + _PRODUCT)
    return both[:16], both[16:]


def _products(chain: bytes, count: int) -> list[bytes]:
    products = []
    for _ in range(count):
        chain, product = _step(chain)
        products.append(product)
    return products


def _nibbles(block: bytes) -> Iterable[int]:
    return (nibble for byte in block for nibble in (byte >> 4, byte & 15))


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _encrypt(key: bytes, blocks: bytes) -> bytes:
    return _ecb(key).encryptor().update(blocks)


def _decrypt(key: bytes, block: bytes) -> bytes:
    return _ecb(key).decryptor().update(block)


def _check_updated_key(updated_key: int) -> None:
    if type(updated_key) is not int:
        raise TypeError(f"updated_key must be an int, got {type(updated_key).__name__}")
    if not 0 <= updated_key < _UPDATED_KEYS:
        raise ValueError(f"updated_key must be 0 to {_UPDATED_KEYS - 1}")


def lrp_key_material(key: bytes) -> tuple[bytes, bytes]:
    """The plaintexts and updated keys of a key, for tests: 16 plaintexts and updated keys 0 to 3, joined (256 and 64 bytes)."""
    _check_size(key, 16, "key")
    ready = _Primitive(key)
    return b"".join(ready.plaintexts), b"".join(ready.updated_keys)


def lrp_eval(key: bytes, updated_key: int, nibbles: bytes, final: bool) -> bytes:
    """Evaluate the primitive, 16 bytes; `nibbles` has one nibble of the input per byte, 0 to 32 of them."""
    _check_updated_key(updated_key)
    _check_size(key, 16, "key")
    _check_bytes(nibbles, "nibbles")
    if len(nibbles) > _NIBBLES_MAX:
        raise ValueError(f"nibbles must be at most {_NIBBLES_MAX} bytes, got {len(nibbles)}")
    if nibbles and max(nibbles) > 15:
        raise ValueError("nibbles must be 0 to 15 each")
    return _Primitive(key).eval(updated_key, nibbles, final=final)


def lrp_cmac(key: bytes, message: bytes) -> bytes:
    """LRP-CMAC(key, message) under updated key 0, 16 bytes; the message may have any length."""
    _check_size(key, 16, "key")
    _check_bytes(message, "message")
    return _Primitive(key).cmac(message)


def lricb_encrypt(key: bytes, updated_key: int, counter: bytes, plaintext: bytes) -> bytes:
    """Encrypt 16 to 4,096 bytes in whole blocks with LRICB, without padding; `counter` is the initial one, 1 to 16 bytes."""
    return _lricb(key, updated_key, counter, plaintext, "plaintext").lricb(updated_key, counter, plaintext, _encrypt)


def lricb_decrypt(key: bytes, updated_key: int, counter: bytes, ciphertext: bytes) -> bytes:
    """The inverse of `lricb_encrypt`."""
    return _lricb(key, updated_key, counter, ciphertext, "ciphertext").lricb(updated_key, counter, ciphertext, _decrypt)


def _lricb(key: bytes, updated_key: int, counter: bytes, text: bytes, name: str) -> _Primitive:
    _check_updated_key(updated_key)
    _check_size(key, 16, "key")
    _check_bytes(counter, "counter")
    if not 1 <= len(counter) <= 16:
        raise ValueError(f"counter must be 1 to 16 bytes, got {len(counter)}")
    _check_blocks(text, name)
    return _Primitive(key)


def lrp_session_master(file_key: bytes, uid: bytes, counter: int) -> bytes:
    """The session master key (16 bytes), from which MAC and encryption keys are derived; for diagnosis and tests."""
    _check_size(file_key, 16, "file_key")
    vector = b"\x00\x01\x00\x80" + _mirrored(uid, counter)
    return _Primitive(file_key).cmac(vector.ljust(14, b"\0") + b"\x1e\xe1")


def lrp_sdm_mac(file_key: bytes, uid: bytes, counter: int, window: bytes) -> bytes:
    """The MACt (8 bytes) that a genuine tag sends. For simulated tags and tests; the engine only verifies."""
    _check_size(file_key, 16, "file_key")
    _mirrored(uid, counter)
    _check_window(window)
    return _Primitive(lrp_session_master(file_key, uid, counter)).cmac(window)[1::2]


def lrp_sdm_verify(file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
    """Whether `mac` (8 bytes) is the MACt of this message, compared in constant time."""
    expected = lrp_sdm_mac(file_key, uid, counter, window)
    _check_size(mac, 8, "mac")
    return compare_digest(expected, mac)


def lrp_picc_decrypt(meta_key: bytes, picc_data: bytes) -> bytes:
    """Decrypt PICCData (24 bytes: random part, encrypted block) to its 16-byte block. Proves nothing by itself."""
    _check_size(meta_key, 16, "meta_key")
    _check_size(picc_data, 24, "picc_data")
    return _Primitive(meta_key).lricb(_MAC, picc_data[:8], picc_data[8:], _decrypt)


def lrp_picc_encrypt(meta_key: bytes, random: bytes, block: bytes) -> bytes:
    """Encrypt the PICCData (24 bytes) of a simulated tag; `random` is 8 bytes, `block` 16."""
    _check_size(meta_key, 16, "meta_key")
    _check_size(random, 8, "random")
    _check_size(block, 16, "block")
    return random + _Primitive(meta_key).lricb(_MAC, random, block, _encrypt)


def lrp_sdm_decrypt_file(file_key: bytes, uid: bytes, counter: int, ciphertext: bytes) -> bytes:
    """Decrypt file data; `ciphertext` is 16 to 4,096 bytes in whole blocks. Call it only after verifying the MAC."""
    return _file_cipher(file_key, uid, counter, ciphertext, "ciphertext", _decrypt)


def lrp_sdm_encrypt_file(file_key: bytes, uid: bytes, counter: int, plaintext: bytes) -> bytes:
    """The inverse of `lrp_sdm_decrypt_file`, for simulated tags."""
    return _file_cipher(file_key, uid, counter, plaintext, "plaintext", _encrypt)


def _file_cipher(
    file_key: bytes, uid: bytes, counter: int, text: bytes, name: str, work: Callable[[bytes, bytes], bytes]
) -> bytes:
    tap = _check_file_message(file_key, uid, counter, text, name)
    session = _Primitive(lrp_session_master(file_key, uid, counter))
    return session.lricb(_ENC, tap[7:] + bytes(3), text, work)
