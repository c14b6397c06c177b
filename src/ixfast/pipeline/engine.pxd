# The engine's fields and steps in the compiled form of engine.py: each step calls the next one directly.

cimport cython

from ixfast.domain.records cimport Account, ApiKey, Batch, Group, TagRecord
from ixfast.domain.scan cimport Scan

cdef class Engine:
    cdef object _catalogue, _find, _ledger, _commit, _enrols, _reads_again, _is_past
    cdef readonly object moment
    cdef long long[::1] _slots
    cdef Py_ssize_t _scans, _durations, _duration_kinds, _duration_slots, _duration_buckets
    cdef long long _duration_first_us

    cpdef submit_with_token(self, Scan scan, bytes token_sha256)
    cpdef _token_found(self, Scan scan, ApiKey api_key)
    cpdef obstacle(self, ApiKey api_key)

    @cython.locals(record=TagRecord)
    cpdef submit(self, Scan scan)
    cpdef _found(self, Scan scan, TagRecord record)
    cpdef found(self, Scan scan, TagRecord record)

    @cython.locals(group=Group, account=Account, batch=Batch)
    cdef _admit(self, Scan scan, TagRecord record)
    cdef _examine(self, Scan scan, TagRecord record)
    cdef _evidence(self, Scan scan, TagRecord record)
    cdef _settle(self, Scan scan, TagRecord record)
    cpdef settled(self, Scan scan)

    @cython.locals(record=TagRecord)
    cdef _conclude(self, Scan scan)
    cdef _inactive(self, Scan scan)
    cdef _reject(self, Scan scan, verdict, reason)
    cdef _refuse(self, Scan scan, verdict, reason)

    @cython.locals(record=TagRecord)
    cdef _decide(self, Scan scan)
    cpdef unknown(self, Scan scan)
    cpdef fail(self, Scan scan, code, reason=*)
    cpdef refuse_input(self, Scan scan, error)
    cdef _broken(self, Scan scan)

    @cython.locals(slot=Py_ssize_t)
    cdef _answer(self, Scan scan)

    @cython.locals(record=TagRecord)
    cdef _log_country(self, Scan scan)

    @cython.locals(now=double, duration_us='long long', bound_us='long long', number=Py_ssize_t, first=Py_ssize_t)
    cdef _measure(self, Scan scan, Py_ssize_t slot)
