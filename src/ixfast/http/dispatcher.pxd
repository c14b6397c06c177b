# Types for the compiled form of dispatcher.py: its fields and its steps for every scan.

from ixfast.pipeline.engine cimport Engine
from ixfast.domain.scan cimport Scan


cdef class ScanDispatcher:
    cdef public Engine engine
    cdef public object catalogue, meters, loop, limiter, next_scan_id, _now, moment
    cdef public double waited_s
    cdef public bint _trust_forwarded_for
    cdef public set _tasks

    cpdef submit_plain(self, bytes code, long counter, bytes mac, bytes digest, reply, address, trace)
    cdef _submit(self, Scan scan, bytes digest)
    cdef bint _admits(self, address, bytes digest)
