# Types for the compiled form of server_state.py: the fields of the shared state,
# and what connections call for every request.

from ixfast.http.admission cimport Admission
from ixfast.http.dispatcher cimport ScanDispatcher


cdef class ServerState:
    cdef public ScanDispatcher dispatcher
    cdef public Admission admission
    cdef public object loop, now, recognise, _sweeper
    cdef public set connections, active_requests
    cdef public dict pending_heads
    cdef public bint draining, limited
    cdef public long trace_every, _untraced, _connections_max
    cdef public double _idle_timeout_s
    cdef object _trace_slots
    cdef long long[::1] slots

    cpdef bint connection_made(self, connection)
    cpdef connection_lost(self, connection, transport)
    cpdef head_begun(self, transport, double now)
    cpdef head_complete(self, transport)
    cpdef request_begun(self, transport)
    cpdef request_done(self, transport)
    cdef next_trace(self)
