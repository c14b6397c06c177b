# Fields of the ledger, and its steps for every scan, where ledger.py is compiled.

cimport cython

from ixfast.domain.records cimport TagRecord
from ixfast.domain.scan cimport Scan
from ixfast.store.ledger.refusal_log cimport RefusalLog


cdef class Ledger:
    cdef public object _binder, _database, _history, _settled, _reader
    cdef public RefusalLog _refusals
    cdef public list _committers, _submits
    cdef public long _groups

    cpdef submit(self, Scan scan)
    cpdef bind(self, Scan scan)

    @cython.locals(record=TagRecord)
    cpdef bound(self, Scan scan)

    @cython.locals(record=TagRecord)
    cpdef passed(self, Scan scan)

    @cython.locals(record=TagRecord)
    cpdef bint known_replay(self, Scan scan)
    cpdef decided(self, Scan scan, outcome)
    cpdef failed(self, Scan scan, code, reason)
    cpdef read_state(self, Scan scan)
    cpdef log_refusal(self, Scan scan)
    cpdef log_country(self, Scan scan, country)
