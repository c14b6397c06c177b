# The front door's fields and its steps for every request where front_door.py is compiled.

cimport cython

from ixfast.http.dispatcher cimport ScanDispatcher
from ixfast.http.hot_request cimport Head
from ixfast.http.raw_response cimport v1_response
from ixfast.domain.scan cimport Scan


cdef class FrontDoor:
    cdef object _transport, _handler, _reply
    cdef ServerState _server_state
    cdef bytes _received
    cdef bint _busy, _eof, _paused
    cdef public double active_at

    @cython.locals(server_state=ServerState)
    cpdef data_received(self, bytes received)

    @cython.locals(server_state=ServerState, head=Head)
    cdef _serve(self, bytes received)

    @cython.locals(server_state=ServerState)
    cpdef submit(self, asked, Head head, trace)
    cdef _answer_malformed(self, error)

    @cython.locals(server_state=ServerState)
    cpdef refuse(self, asked)
    cdef _client_address(self, Head head)

    @cython.locals(server_state=ServerState)
    cpdef _answer(self, Scan scan)
    cdef _write(self, bytes response)
    cdef _hand_over(self, bytes received)


cdef class ServerState:
    cdef public ScanDispatcher dispatcher
    cdef public object loop, now, make_handler, recognise, _sweeper
    cdef public set connections
    cdef public bint limited
    cdef public long trace_every, _untraced
    cdef object _slots
    cdef public long _connections_max
    cdef public double _idle_timeout_s
    cdef long long[::1] slots
    cdef public bint slow
    cdef public double round_at, _budget_s, _rate, _busy_s, _age_s, _overdue_at
    cdef public long inside, answered, _answered_before, _busy_answered, _looked, _answered_refused, _room, resume_at
    cdef public object _postponed, _too_late, _refuser, _moment

    @cython.locals(length_s=double)
    cpdef begin_round(self, double now)

    @cython.locals(rate=double)
    cdef _learn_rate(self)

    @cython.locals(now=double, overdue=bint)
    cpdef bint is_overdue(self, transport)
    cpdef postpone(self, connection, asked, Head head)
    cpdef resume_soon(self)
    cdef next_trace(self)
    cdef bint admit(self, FrontDoor connection)
