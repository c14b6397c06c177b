# Types for the compiled form of admission.py: its fields and its steps for every request.

cimport cython

from ixfast.http.dispatcher cimport ScanDispatcher
from ixfast.http.hot_request cimport Head


cdef class Admission:
    cdef ScanDispatcher _dispatcher
    cdef object _loop
    cdef public bint slow, _draining
    cdef public double round_at, _budget_s, _rate, _busy_s, _age_s, _overdue_at
    cdef public long in_flight, answered, resume_at
    cdef public long _answered_before, _busy_answered, _until_age_check, _answered_at_refusal, _in_flight_max
    cdef public object _postponed, _too_late, _refuser, _moment

    @cython.locals(length_s=double)
    cpdef begin_round(self, double now)

    @cython.locals(rate=double)
    cdef _update_rate(self)

    @cython.locals(now=double, overdue=bint)
    cpdef bint is_overdue(self, transport)
    cpdef postpone(self, connection, query, Head head)
    cpdef resume_soon(self)
