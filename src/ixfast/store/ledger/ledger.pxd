# The ledger's fields and its steps for every scan where ledger.py is compiled.

cimport cython

from ixfast.domain.records cimport TagRecord
from ixfast.domain.scan cimport Scan


cdef class Ledger:
    cdef public object _database, _history, _settled, _meters, _reader, _loop, _flusher
    cdef public double _deadline_s, _flush_s
    cdef public list _committers, _submits, _refusals
    cdef public long _groups
    cdef public bint _flushing
    cdef public set _tasks

    cpdef submit(self, Scan scan)

    @cython.locals(record=TagRecord)
    cpdef passed(self, Scan scan)

    @cython.locals(record=TagRecord)
    cpdef bint known_replay(self, Scan scan)
    cpdef decided(self, Scan scan, outcome)
    cpdef failed(self, Scan scan, code, reason)
    cpdef read_state(self, Scan scan)
    cpdef log_refusal(self, Scan scan)
