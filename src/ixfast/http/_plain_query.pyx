# cython: language_level=3, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""Reading the request line with the plain query in one pass. The twin in Python is `hot_request.plain_query_twin`.

Reading past the end is impossible: a bytes object ends with a NUL, which matches nothing here,
so a mismatch comes first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp

cdef enum:
    CODE_CHARS_MAX = 64
    COUNTER_CHARS = 6
    MAC_BYTES = 8

cdef const char *_BEGINNING = b"GET /v1/t?x="
cdef const char *_AFTER_CODE = b"&n="
cdef const char *_AFTER_COUNTER = b"&e="
cdef const char *_END = b" HTTP/1.1\r\n"

cdef signed char _NIBBLE[256]
cdef unsigned char _IS_CODE[256]


cdef void _fill() noexcept:
    cdef int c
    for c in range(256):
        _NIBBLE[c] = -1
        _IS_CODE[c] = c'0' <= c <= c'9' or c'A' <= c <= c'Z' or c'a' <= c <= c'z'
    for c in range(10):
        _NIBBLE[c'0' + c] = c
    for c in range(6):
        _NIBBLE[c'A' + c] = _NIBBLE[c'a' + c] = 10 + c


_fill()


def read_plain_query(bytes received not None):
    """Tag code, counter and MAC (8 bytes) of a plain query, and the length of its request line.

    None for any other request.
    """
    cdef const unsigned char *text = <const unsigned char *>PyBytes_AS_STRING(received)
    cdef const unsigned char *end = text + len(received)
    cdef const unsigned char *at = text + 12
    cdef const unsigned char *code = at
    cdef Py_ssize_t size = 0
    cdef unsigned char mac[MAC_BYTES]
    cdef int counter = 0, i, high, low
    # What follows the code has a fixed length, so one check of the remaining length covers it.
    if len(received) < 12 or memcmp(text, _BEGINNING, 12):
        return None
    while _IS_CODE[at[0]]:  # stops at the NUL after the last byte at the latest
        at += 1
    size = at - code
    if not 0 < size <= CODE_CHARS_MAX or end - at < 3 + COUNTER_CHARS + 3 + 2 * MAC_BYTES + 11:
        return None
    if memcmp(at, _AFTER_CODE, 3):
        return None
    at += 3
    for i in range(COUNTER_CHARS):
        high = _NIBBLE[at[i]]
        if high < 0:
            return None
        counter = counter << 4 | high
    at += COUNTER_CHARS
    if memcmp(at, _AFTER_COUNTER, 3):
        return None
    at += 3
    for i in range(MAC_BYTES):
        high = _NIBBLE[at[2 * i]]
        low = _NIBBLE[at[2 * i + 1]]
        if high < 0 or low < 0:
            return None
        mac[i] = <unsigned char>(high << 4 | low)
    at += 2 * MAC_BYTES
    if memcmp(at, _END, 11):
        return None
    return (
        PyBytes_FromStringAndSize(<const char *>code, size),
        counter,
        PyBytes_FromStringAndSize(<const char *>mac, MAC_BYTES),
        at + 11 - text,
    )
