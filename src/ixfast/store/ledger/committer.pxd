# A committer's fields where committer.py is compiled.

cimport cython

from ixfast.domain.scan cimport Scan


cdef class Committer:
    cdef public object _open_session, _resolver, _meters, _loop, _session, _trouble, _refused, _wake, _task, _sweeper
    cdef public Py_ssize_t _batch_max, _queue_max, _behind_count, _room
    cdef public double _deadline_s, _wait_max_s, _row_s, _statement_s, _stalled_at, _sweep_at, _lag_s
    cdef public dict _waiting, _behind, _in_flight
    cdef public list _set_aside
    cdef public bint _sent, _traced, _stopped

    @cython.locals(waiting=dict, tag_id=object)
    cpdef submit(self, Scan scan)
    cdef _turn_away(self, Scan scan)
    cdef _queue_behind(self, Scan scan)

    @cython.locals(waiting=dict)
    cpdef dict _take(self)

    @cython.locals(scan=Scan)
    cdef _move_up(self, batch)


@cython.locals(scan=Scan, positions=list, scan_ids=list)
cdef tuple _columns(dict batch)
