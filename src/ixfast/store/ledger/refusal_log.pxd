# Fields of the refusal log where refusal_log.py is compiled.

cimport cython

from ixfast.domain.records cimport TagRecord
from ixfast.domain.scan cimport Scan


cdef class RefusalLog:
    cdef object _database, _slots, _loop, _timer, _writer
    cdef list _rows, _countries
    cdef dict _keyed
    cdef Py_ssize_t _unknown
    cdef double _write_s

    @cython.locals(record=TagRecord)
    cpdef add(self, Scan scan)
    cpdef add_country(self, Scan scan, country)
    cdef Py_ssize_t _rows_max(self)
    cdef _drop(self)
    cdef _write_soon(self)
    cdef _schedule(self)
