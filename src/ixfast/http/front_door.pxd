# Types for the compiled form of front_door.py: its fields and its steps for every request.

cimport cython

from ixfast.domain.scan cimport Scan
from ixfast.http.admission cimport Admission
from ixfast.http.hot_request cimport Head
from ixfast.http.raw_response cimport v1_response
from ixfast.http.server_state cimport ServerState


cdef class FrontDoor:
    cdef object _transport, _handler, _make_handler, _reply
    cdef ServerState _server_state
    cdef Admission _admission
    cdef bytes _received
    cdef bint _busy, _eof, _paused
    cdef public double active_at

    @cython.locals(server_state=ServerState, admission=Admission)
    cpdef data_received(self, bytes received)

    @cython.locals(server_state=ServerState, admission=Admission, head=Head)
    cdef _serve(self, bytes received)

    @cython.locals(server_state=ServerState, admission=Admission)
    cpdef submit(self, query, Head head, trace)
    cdef _respond_malformed(self, error, query)
    cpdef refuse(self, query)
    cdef _client_address(self, Head head)

    @cython.locals(admission=Admission)
    cpdef _respond(self, Scan scan)
    cdef _write(self, bytes response)

    @cython.locals(server_state=ServerState)
    cdef _hand_over(self, bytes received)
