# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, nonecheck=False
# cython: freethreading_compatible=True
"""Native core, LRP mode: the Leakage Resilient Primitive, and Secure Dynamic Messaging based on it.

The second half of the core besides `_cmac`, with the same invariants and conventions. `ixfast.cmac` exposes both as
one, and `_lrp_py` is the twin. A verification is a chain of 136 AES calls, each depending on the one before: 4
microseconds.

Sources: AN12304 (the primitive, its CMAC and LRICB), NT4H2421Gx section 9.3 (its use in messages).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_CheckExact
from libc.string cimport memcpy

from ixfast._cmac cimport check_blocks, check_file_message, check_size, check_window, form_of, ix_wipe, pointer

cdef enum:
    NIBBLES_MAX = 32  # those of a block


cdef int updated_key_of(object updated_key) except -1:
    cdef int overflow = 0
    cdef long number
    if not PyLong_CheckExact(updated_key):
        raise TypeError(f"updated_key must be an int, got {type(updated_key).__name__}")
    number = PyLong_AsLongAndOverflow(updated_key, &overflow)
    if overflow or number < 0 or number >= IX_LRP_UPDATED:
        raise ValueError(f"updated_key must be 0 to {IX_LRP_UPDATED - 1}")
    return number


# --- the primitive --------------------------------------------------------------------------------

def lrp_key_material(bytes key not None):
    """The plaintexts and updated keys of a key, for tests.

    16 plaintexts and updated keys 0 to 3, joined (256 and 64 bytes).
    """
    cdef ix_lrp lrp
    check_size(key, 16, "key")
    plaintexts = PyBytes_FromStringAndSize(NULL, 16 * IX_LRP_PLAINTEXTS)
    updated_keys = PyBytes_FromStringAndSize(NULL, 16 * IX_LRP_UPDATED)
    ix_lrp_init(&lrp, pointer(key))
    ix_lrp_export(&lrp, <uint8_t *>PyBytes_AS_STRING(plaintexts), <uint8_t *>PyBytes_AS_STRING(updated_keys))
    ix_wipe(&lrp, sizeof(lrp))
    return plaintexts, updated_keys


def lrp_eval(bytes key not None, object updated_key, bytes nibbles not None, bint final):
    """Evaluate the primitive, 16 bytes; `nibbles` has one nibble of the input per byte, 0 to 32 of them."""
    cdef ix_lrp lrp
    cdef uint8_t packed[16]
    cdef uint8_t out[16]
    cdef int start = updated_key_of(updated_key)
    cdef size_t i, count = len(nibbles)
    cdef uint8_t seen = 0
    check_size(key, 16, "key")
    if count > NIBBLES_MAX:
        raise ValueError(f"nibbles must be at most {NIBBLES_MAX} bytes, got {count}")
    for i in range(count):
        seen |= pointer(nibbles)[i]
    if seen > 15:
        raise ValueError("nibbles must be 0 to 15 each")
    for i in range(count):
        packed[i // 2] = packed[i // 2] | pointer(nibbles)[i] if i % 2 else pointer(nibbles)[i] << 4
    ix_lrp_init(&lrp, pointer(key))
    ix_lrp_eval(&lrp, start, packed, count, final, out)
    ix_wipe(&lrp, sizeof(lrp))
    ix_wipe(packed, sizeof(packed))
    product = PyBytes_FromStringAndSize(<const char *>out, 16)
    ix_wipe(out, sizeof(out))
    return product


def lrp_cmac(bytes key not None, bytes message not None):
    """LRP-CMAC(key, message) under updated key 0, 16 bytes; the message may have any length."""
    cdef ix_lrp ready
    cdef uint8_t mac[16]
    check_size(key, 16, "key")
    ix_lrp_init_for_cmac(&ready, pointer(key))
    ix_lrp_cmac(&ready, pointer(message), len(message), mac)
    ix_wipe(&ready, sizeof(ready))
    return PyBytes_FromStringAndSize(<const char *>mac, 16)


def lricb_encrypt(bytes key not None, object updated_key, bytes counter not None, bytes plaintext not None):
    """Encrypt 16 to 4,096 bytes in whole blocks with LRICB, without padding.

    `counter` is the initial one, 1 to 16 bytes.
    """
    return lricb(key, updated_key, counter, plaintext, "plaintext", True)


def lricb_decrypt(bytes key not None, object updated_key, bytes counter not None, bytes ciphertext not None):
    """The inverse of `lricb_encrypt`."""
    return lricb(key, updated_key, counter, ciphertext, "ciphertext", False)


cdef bytes lricb(bytes key, object updated_key, bytes counter, bytes text, str name, bint encrypt):
    cdef ix_lrp lrp
    cdef uint8_t[16] raised
    cdef int start = updated_key_of(updated_key)
    check_size(key, 16, "key")
    if not 1 <= len(counter) <= 16:
        raise ValueError(f"counter must be 1 to 16 bytes, got {len(counter)}")
    check_blocks(text, name)
    out = PyBytes_FromStringAndSize(NULL, len(text))
    memcpy(raised, pointer(counter), len(counter))
    ix_lrp_init(&lrp, pointer(key))
    ix_lricb(&lrp, start, raised, len(counter), pointer(text), len(text) // 16, encrypt,
             <uint8_t *>PyBytes_AS_STRING(out))
    ix_wipe(&lrp, sizeof(lrp))
    return out


# --- Secure Dynamic Messaging, LRP mode -----------------------------------------------------------

def lrp_session_master(bytes file_key not None, bytes uid not None, object counter):
    """The session master key (16 bytes), from which MAC and encryption keys are derived; for diagnosis and tests."""
    cdef uint8_t master[16]
    cdef uint32_t value = 0
    cdef int form
    check_size(file_key, 16, "file_key")
    form = form_of(uid, counter, &value)
    ix_lrp_session_master(pointer(file_key), pointer(uid), value, form, master)
    key = PyBytes_FromStringAndSize(<const char *>master, 16)
    ix_wipe(master, sizeof(master))
    return key


def lrp_sdm_mac(bytes file_key not None, bytes uid not None, object counter, bytes window not None):
    """The MACt (8 bytes) that a genuine tag sends. For simulated tags and tests; the engine only verifies."""
    cdef uint32_t value = 0
    cdef uint64_t mac
    cdef int form
    check_size(file_key, 16, "file_key")
    form = form_of(uid, counter, &value)
    check_window(window)
    mac = ix_lrp_sdm_mac(pointer(file_key), pointer(uid), value, form, pointer(window), len(window))
    return PyBytes_FromStringAndSize(<const char *>&mac, 8)


def lrp_sdm_verify(bytes file_key not None, bytes uid not None, object counter, bytes window not None,
                   bytes mac not None):
    """Whether `mac` (8 bytes) is the MACt of this message, compared in constant time."""
    cdef uint32_t value = 0
    cdef int form
    check_size(file_key, 16, "file_key")
    form = form_of(uid, counter, &value)
    check_window(window)
    check_size(mac, 8, "mac")
    return ix_lrp_sdm_verify(pointer(file_key), pointer(uid), value, form, pointer(window), len(window), pointer(mac))


def lrp_picc_decrypt(bytes meta_key not None, bytes picc_data not None):
    """Decrypt PICCData (24 bytes: random part, encrypted block) to its 16-byte block. Proves nothing by itself."""
    cdef uint8_t out[16]
    check_size(meta_key, 16, "meta_key")
    check_size(picc_data, 24, "picc_data")
    ix_lrp_picc(pointer(meta_key), pointer(picc_data), pointer(picc_data) + 8, False, out)
    return PyBytes_FromStringAndSize(<const char *>out, 16)


def lrp_picc_encrypt(bytes meta_key not None, bytes random not None, bytes block not None):
    """Encrypt the PICCData (24 bytes) of a simulated tag; `random` is 8 bytes, `block` 16."""
    cdef uint8_t out[24]
    check_size(meta_key, 16, "meta_key")
    check_size(random, 8, "random")
    check_size(block, 16, "block")
    memcpy(out, pointer(random), 8)
    ix_lrp_picc(pointer(meta_key), pointer(random), pointer(block), True, out + 8)
    return PyBytes_FromStringAndSize(<const char *>out, 24)


def lrp_sdm_decrypt_file(bytes file_key not None, bytes uid not None, object counter, bytes ciphertext not None):
    """Decrypt file data; `ciphertext` is 16 to 4,096 bytes in whole blocks. Call it only after verifying the MAC."""
    return file_cipher(file_key, uid, counter, ciphertext, "ciphertext", False)


def lrp_sdm_encrypt_file(bytes file_key not None, bytes uid not None, object counter, bytes plaintext not None):
    """The inverse of `lrp_sdm_decrypt_file`, for simulated tags."""
    return file_cipher(file_key, uid, counter, plaintext, "plaintext", True)


cdef bytes file_cipher(bytes file_key, bytes uid, object counter, bytes text, str name, bint encrypt):
    cdef uint32_t value = 0
    check_file_message(file_key, uid, counter, text, name, &value)
    out = PyBytes_FromStringAndSize(NULL, len(text))
    ix_lrp_sdm_file(pointer(file_key), pointer(uid), value, pointer(text), len(text) // 16, encrypt,
                    <uint8_t *>PyBytes_AS_STRING(out))
    return out
