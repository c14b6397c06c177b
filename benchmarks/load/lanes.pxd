# The lanes' fields and their steps for every answer where lanes.py is compiled.

cimport cython


cdef class Lane:
    cdef public object plan, transport, _write, _expected
    cdef public list latencies_ns, _requests
    cdef public bytearray _kinds
    cdef public bytes _partial
    cdef public Py_ssize_t at
    cdef public long long _start_ns
    cdef public bint lost, _in_flight


cdef class ClosedLane(Lane):
    cdef public Py_ssize_t until
    cdef object _finished

    @cython.locals(at=Py_ssize_t, beginning=bytes, word=bytes)
    cpdef data_received(self, bytes received)


cdef class OpenLane(Lane):
    cdef object _idle, _overdue

    cpdef send(self, long long due_ns)

    @cython.locals(at=Py_ssize_t, beginning=bytes, word=bytes)
    cpdef data_received(self, bytes received)
