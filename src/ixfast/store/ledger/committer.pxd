# A committer's fields, and its steps for every scan, where committer.py is compiled.

cimport cython

from ixfast.domain.scan cimport Scan


cdef class Committer:
    cdef public object _open_session, _resolver, _meters, _rate, _loop, _session, _no_session_reason, _refusal_reason
    cdef public object _wake, _task, _sweeper, _outage
    cdef public Py_ssize_t _batch_max, _behind_count, _capacity
    cdef public double _deadline_s, _abandoned_at, _sweep_at
    cdef public dict _waiting, _behind, _in_flight
    cdef public list _set_aside
    cdef public bint _sent, _traced, _stopped

    @cython.locals(waiting=dict, tag_id=object)
    cpdef submit(self, Scan scan)
    cdef _reject(self, Scan scan)
    cdef _queue_behind(self, Scan scan)

    @cython.locals(waiting=dict)
    cpdef dict _take(self)

    @cython.locals(scan=Scan)
    cdef _move_up(self, batch)


@cython.locals(scan=Scan, positions=list, scan_ids=list)
cdef tuple _columns(dict batch)
