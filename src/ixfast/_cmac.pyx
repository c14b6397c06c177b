# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, nonecheck=False
# cython: freethreading_compatible=True
"""Native core: AES-128, AES-CMAC and Secure Dynamic Messaging (AES mode) on the CPU's AES instructions.

Takes bytes and integers; returns bytes, integers and booleans. It has no notion of URLs, tags, profiles or databases,
and decides nothing but whether a MAC is valid. `ixfast.cmac` chooses between this module and its twin `_cmac_py`,
which behaves identically.

Invariants:
1. Lengths are checked in the public functions. Inner functions rely on them, do not hold the GIL, and never raise.
2. Exception messages name the argument and its required length, never its value.
3. Running time depends on lengths and on what is mirrored, never on keys, MACs or contents.
4. Expanded keys and session keys are wiped on every exit path. The MAC that a tag would send is returned only by
   `mact` and `sdm_mac`, which are for simulated tags. To judge a tap, call a function that verifies.

Throughout: `file_key`, `meta_key` and `key` are 16 bytes; `uid` is b"" (not mirrored) or 7 bytes as printed;
`counter` is -1 (not mirrored) or 0 to 0xFFFFFF; `window` is the text that the tag authenticated, 0 to 4,096 bytes.
Sources: NT4H2421Gx section 9.3, AN12196, RFC 4493.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_CheckExact
from libc.string cimport memcpy

cdef ix_variant[IX_VARIANTS_MAX] _variants
cdef int _variant_count = ix_variants_of_this_cpu(_variants)
cdef ix_sdm_batch_function _verify_batch = _variants[0].verify_batch

if _variant_count == 0:
    raise ImportError("this CPU has no AES instructions", name=__name__)

VARIANTS = tuple([_variants[i].name.decode("ascii") for i in range(_variant_count)])  # best first
IMPLEMENTATION = VARIANTS[0]


def use_variant(str name not None):
    """Switch `sdm_verify_batch` to another of `VARIANTS`, for tests and benchmarks. No batch may be running."""
    global _verify_batch
    if name not in VARIANTS:
        raise ValueError(f"name must be one of {VARIANTS}")
    _verify_batch = _variants[VARIANTS.index(name)].verify_batch


# --- checks of arguments --------------------------------------------------------------------------

cdef int check_size(bytes value, Py_ssize_t size, str name) except -1:
    if len(value) != size:
        raise ValueError(f"{name} must be {size} bytes, got {len(value)}")
    return 0


cdef int check_window(bytes window) except -1:
    if len(window) > WINDOW_MAX:
        raise ValueError(f"window must be at most {WINDOW_MAX} bytes, got {len(window)}")
    return 0


cdef int form_of(bytes uid, object counter, uint32_t *value) except -1:
    cdef int overflow = 0
    cdef long number
    if not PyLong_CheckExact(counter):
        raise TypeError(f"counter must be an int, got {type(counter).__name__}")
    if len(uid) != 7 and len(uid) != 0:
        raise ValueError(f"uid must be 7 bytes, or empty if not mirrored, got {len(uid)}")
    number = PyLong_AsLongAndOverflow(counter, &overflow)
    if overflow or number < -1 or number > COUNTER_MAX:
        raise ValueError(f"counter must be 0 to {COUNTER_MAX}, or -1 if not mirrored")
    value[0] = <uint32_t>number if number >= 0 else 0
    return (IX_HAS_UID if len(uid) else 0) | (IX_HAS_COUNTER if number >= 0 else 0)


cdef int check_file_message(bytes file_key, bytes uid, object counter, bytes text, str name, uint32_t *value) except -1:
    check_size(file_key, 16, "file_key")
    if form_of(uid, counter, value) != (IX_HAS_UID | IX_HAS_COUNTER):
        raise ValueError("uid and counter must both be mirrored where there is file data")
    check_blocks(text, name)
    return 0


cdef int check_blocks(bytes text, str name) except -1:
    if len(text) == 0 or len(text) % 16 or len(text) > CIPHERTEXT_MAX:
        raise ValueError(f"{name} must be 16 to {CIPHERTEXT_MAX} bytes and a multiple of 16, got {len(text)}")
    return 0


# --- AES-128 and AES-CMAC -------------------------------------------------------------------------

def aes_encrypt_block(bytes key not None, bytes block not None):
    """Encrypt one block of 16 bytes with AES-128. Simulated tags encrypt their PICCData with it."""
    cdef ix_aes128 schedule
    cdef uint8_t out[16]
    check_size(key, 16, "key")
    check_size(block, 16, "block")
    ix_aes128_expand(&schedule, pointer(key))
    ix_aes128_encrypt(&schedule, pointer(block), out)
    ix_wipe(&schedule, sizeof(schedule))
    return PyBytes_FromStringAndSize(<const char *>out, 16)


def aes_decrypt_block(bytes key not None, bytes block not None):
    """The inverse of `aes_encrypt_block`."""
    cdef uint8_t out[16]
    check_size(key, 16, "key")
    check_size(block, 16, "block")
    decrypt_block(pointer(key), pointer(block), out)
    return PyBytes_FromStringAndSize(<const char *>out, 16)


cdef void decrypt_block(const uint8_t *key, const uint8_t *block, uint8_t *out) noexcept nogil:
    cdef ix_aes128 schedule
    ix_aes128_expand(&schedule, key)
    ix_aes128_invert(&schedule)
    ix_aes128_decrypt(&schedule, block, out)
    ix_wipe(&schedule, sizeof(schedule))


def aes_cmac(bytes key not None, bytes message not None):
    """CMAC(key, message), 16 bytes; the message may have any length."""
    cdef ix_cmac_key ready
    cdef uint8_t mac[16]
    check_size(key, 16, "key")
    ix_cmac_init(&ready, pointer(key))
    ix_cmac(&ready, pointer(message), len(message), mac)
    ix_wipe(&ready, sizeof(ready))
    return PyBytes_FromStringAndSize(<const char *>mac, 16)


def aes_cmac_subkeys(bytes key not None):
    """L, K1 and K2 of RFC 4493 section 2.3, for tests and for key derivations with their own padding."""
    cdef ix_cmac_key ready
    cdef uint8_t subkeys[48]
    check_size(key, 16, "key")
    ix_cmac_init(&ready, pointer(key))
    ix_cmac_subkeys(&ready, subkeys, subkeys + 16, subkeys + 32)
    ix_wipe(&ready, sizeof(ready))
    three = PyBytes_FromStringAndSize(<const char *>subkeys, 48)
    ix_wipe(subkeys, sizeof(subkeys))
    return three[:16], three[16:32], three[32:]


def aes_cmac_verify(bytes key not None, bytes message not None, bytes mac not None):
    """Whether `mac` (16 bytes) is CMAC(key, message), compared in constant time."""
    cdef ix_cmac_key ready
    cdef uint8_t expected[16]
    cdef bint equal
    check_size(key, 16, "key")
    check_size(mac, 16, "mac")
    ix_cmac_init(&ready, pointer(key))
    ix_cmac(&ready, pointer(message), len(message), expected)
    equal = ix_equal(expected, pointer(mac), 16)
    ix_wipe(&ready, sizeof(ready))
    ix_wipe(expected, sizeof(expected))
    return equal


def mact(bytes key not None, bytes message not None):
    """MACt(CMAC(key, message)), 8 bytes, as a tag without session keys sends it.

    For simulated tags and tests; the engine only verifies.
    """
    cdef uint64_t mac
    check_size(key, 16, "key")
    mac = ix_mact(pointer(key), pointer(message), len(message))
    return PyBytes_FromStringAndSize(<const char *>&mac, 8)


def mact_verify(bytes key not None, bytes message not None, bytes mac not None):
    """Whether `mac` (8 bytes) is MACt(CMAC(key, message)) of a message of any length, compared in constant time."""
    check_size(key, 16, "key")
    check_size(mac, 8, "mac")
    return ix_mact_verify(pointer(key), pointer(message), len(message), pointer(mac))


# --- Secure Dynamic Messaging, AES mode -----------------------------------------------------------

def sdm_session_keys(bytes file_key not None, bytes uid not None, object counter):
    """The session keys (k_enc, k_mac), for diagnosis and tests.

    k_enc is b"" unless UID and counter are both mirrored.
    """
    cdef uint8_t keys[32]
    cdef uint32_t value = 0
    cdef int form
    check_size(file_key, 16, "file_key")
    form = form_of(uid, counter, &value)
    ix_sdm_session_key(pointer(file_key), IX_SV1, pointer(uid), value, form, keys)
    ix_sdm_session_key(pointer(file_key), IX_SV2, pointer(uid), value, form, keys + 16)
    k_enc = PyBytes_FromStringAndSize(<const char *>keys, 16 if form == (IX_HAS_UID | IX_HAS_COUNTER) else 0)
    k_mac = PyBytes_FromStringAndSize(<const char *>keys + 16, 16)
    ix_wipe(keys, sizeof(keys))
    return k_enc, k_mac


def sdm_mac(bytes file_key not None, bytes uid not None, object counter, bytes window not None):
    """The MACt (8 bytes) that a genuine tag sends. For simulated tags and tests; the engine only verifies."""
    cdef uint32_t value = 0
    cdef uint64_t mac
    cdef int form
    check_size(file_key, 16, "file_key")
    form = form_of(uid, counter, &value)
    check_window(window)
    mac = ix_sdm_mac(pointer(file_key), pointer(uid), value, form, pointer(window), len(window))
    return PyBytes_FromStringAndSize(<const char *>&mac, 8)


def sdm_verify(bytes file_key not None, bytes uid not None, object counter, bytes window not None, bytes mac not None):
    """Whether `mac` (8 bytes) is the MACt of this message, compared in constant time."""
    cdef uint32_t value = 0
    cdef int form
    check_size(file_key, 16, "file_key")
    form = form_of(uid, counter, &value)
    check_window(window)
    check_size(mac, 8, "mac")
    return ix_sdm_verify(pointer(file_key), pointer(uid), value, form, pointer(window), len(window), pointer(mac))


def picc_decrypt(bytes meta_key not None, bytes picc_data not None):
    """Decrypt PICCData (16 bytes): tag byte, UID and counter as mirrored, random padding. Proves nothing by itself."""
    cdef uint8_t out[16]
    check_size(meta_key, 16, "meta_key")
    check_size(picc_data, 16, "picc_data")
    decrypt_block(pointer(meta_key), pointer(picc_data), out)
    return PyBytes_FromStringAndSize(<const char *>out, 16)


def sdm_decrypt_file(bytes file_key not None, bytes uid not None, object counter, bytes ciphertext not None):
    """Decrypt file data; `ciphertext` is 16 to 4,096 bytes in whole blocks. Call it only after verifying the MAC."""
    cdef uint32_t value = 0
    check_file_message(file_key, uid, counter, ciphertext, "ciphertext", &value)
    out = PyBytes_FromStringAndSize(NULL, len(ciphertext))
    file_cipher(pointer(file_key), pointer(uid), value, pointer(ciphertext), len(ciphertext) // 16, False,
                <uint8_t *>PyBytes_AS_STRING(out))
    return out


def sdm_encrypt_file(bytes file_key not None, bytes uid not None, object counter, bytes plaintext not None):
    """The inverse of `sdm_decrypt_file`, for simulated tags."""
    cdef uint32_t value = 0
    check_file_message(file_key, uid, counter, plaintext, "plaintext", &value)
    out = PyBytes_FromStringAndSize(NULL, len(plaintext))
    file_cipher(pointer(file_key), pointer(uid), value, pointer(plaintext), len(plaintext) // 16, True,
                <uint8_t *>PyBytes_AS_STRING(out))
    return out


cdef void file_cipher(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, const uint8_t *text, size_t count,
                      bint encrypt, uint8_t *out) noexcept nogil:
    cdef ix_aes128 schedule
    cdef uint8_t session_key[16]
    cdef uint8_t[16] chain = [counter & 0xFF, counter >> 8 & 0xFF, counter >> 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    cdef size_t i
    cdef int j
    ix_sdm_session_key(file_key, IX_SV1, uid, counter, IX_HAS_UID | IX_HAS_COUNTER, session_key)
    ix_aes128_expand(&schedule, session_key)
    ix_aes128_encrypt(&schedule, chain, chain)  # IV = AES(k_enc, counter, zeros)
    if not encrypt:
        ix_aes128_invert(&schedule)
    for i in range(0, 16 * count, 16):
        if encrypt:
            for j in range(16):
                chain[j] ^= text[i + j]
            ix_aes128_encrypt(&schedule, chain, out + i)
            memcpy(chain, out + i, 16)
        else:
            ix_aes128_decrypt(&schedule, text + i, out + i)
            for j in range(16):
                out[i + j] ^= chain[j]
            memcpy(chain, text + i, 16)
    ix_wipe(&schedule, sizeof(schedule))
    ix_wipe(session_key, sizeof(session_key))


def sdm_verify_batch(bytes file_keys not None, bytes uids not None, bytes counters not None, tuple windows,
                     bytes macs not None, bytes forms not None):
    """Verify n messages with the GIL released. Returns n bytes, 1 for a valid MAC and 0 for an invalid one.

    The arguments are packed arrays, message after message; n is the length of `forms`:
      file_keys  16 bytes each
      uids       7 bytes each, arbitrary if the UID is not mirrored
      counters   little-endian uint32 each, at most 0xFFFFFF; arbitrary if the counter is not mirrored
      windows    None if all are empty, else (text, offsets): n + 1 little-endian uint32 that start at 0, never decrease
                 and end at len(text); window i is text[offsets[i]:offsets[i + 1]], at most 4,096 bytes
      macs       8 bytes each
      forms      1 byte each: bit 0 UID mirrored, bit 1 counter mirrored
    """
    cdef ix_sdm_messages messages
    cdef size_t n = len(forms)
    cdef bytes text, offsets
    cdef uint8_t *verdicts
    check_size(file_keys, 16 * n, "file_keys")
    check_size(uids, 7 * n, "uids")
    check_size(counters, 4 * n, "counters")
    check_size(macs, 8 * n, "macs")
    messages.file_keys, messages.uids, messages.counters = pointer(file_keys), pointer(uids), pointer(counters)
    messages.macs, messages.forms, messages.count = pointer(macs), pointer(forms), n
    messages.windows = messages.offsets = NULL
    check_batch_forms(&messages)
    if windows is not None:
        text, offsets = windows_of(windows, n)
        messages.windows, messages.offsets = pointer(text), pointer(offsets)
    out = PyBytes_FromStringAndSize(NULL, n)
    verdicts = <uint8_t *>PyBytes_AS_STRING(out)
    with nogil:
        _verify_batch(&messages, verdicts)
    return out


cdef inline uint32_t uint32_at(const uint8_t *array, size_t index) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, array + 4 * index, 4)
    return value


cdef int check_batch_forms(const ix_sdm_messages *messages) except -1:
    cdef uint32_t wrong_form = 0, wrong_counter = 0, counter
    cdef size_t i
    for i in range(messages.count):
        counter = uint32_at(messages.counters, i)
        wrong_form |= messages.forms[i] >> 2
        wrong_counter |= (counter >> 24) if messages.forms[i] & IX_HAS_COUNTER else 0
    if wrong_form:
        raise ValueError("forms must be bytes 0 to 3")
    if wrong_counter:
        raise ValueError(f"counters must be 0 to {COUNTER_MAX} where mirrored")
    return 0


cdef tuple windows_of(tuple windows, size_t n):
    cdef const uint8_t *array
    cdef uint32_t start, end = 0
    cdef size_t i
    if len(windows) != 2 or type(windows[0]) is not bytes or type(windows[1]) is not bytes:
        raise TypeError("windows must be None or a tuple of two bytes objects: text and offsets")
    check_size(windows[1], 4 * (n + 1), "windows' offsets")
    array = pointer(windows[1])
    for i in range(n + 1):
        start, end = end, uint32_at(array, i)
        if end < start or end - start > (WINDOW_MAX if i else 0):
            raise ValueError(f"windows' offsets must start at 0, never fall and be at most {WINDOW_MAX} apart")
    if end != <size_t>len(windows[0]):
        raise ValueError("windows' offsets must end at the length of windows' text")
    return windows
