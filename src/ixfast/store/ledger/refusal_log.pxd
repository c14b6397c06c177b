# Fields of the refusal log where refusal_log.py is compiled.

cimport cython

from ixfast.domain.records cimport TagRecord
from ixfast.domain.scan cimport Scan


cdef class RefusalLog:
    cdef object _database, _slots, _loop, _timer, _writer
    cdef list _rows
    cdef double _write_s

    @cython.locals(record=TagRecord)
    cpdef add(self, Scan scan)
    cdef _schedule(self)
