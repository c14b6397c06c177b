# Fields of the connections, and their steps for every response, where connections.py is compiled.

cimport cython


cdef class TapConnection:
    cdef public object plan, transport, _write, _expected
    cdef public list latencies_ns, _requests
    cdef public bytearray _kinds
    cdef public bytes _partial
    cdef public Py_ssize_t at
    cdef public long long _start_ns
    cdef public bint lost, _in_flight

    cpdef bytes _completed(self, bytes received)


cdef class ClosedLoopConnection(TapConnection):
    cdef public Py_ssize_t until
    cdef object _finished

    @cython.locals(at=Py_ssize_t, beginning=bytes, word=bytes, response=bytes)
    cpdef data_received(self, bytes received)


cdef class OpenLoopConnection(TapConnection):
    cdef object _idle, _overdue

    cpdef send(self, long long due_ns)

    @cython.locals(at=Py_ssize_t, beginning=bytes, word=bytes, response=bytes)
    cpdef data_received(self, bytes received)
