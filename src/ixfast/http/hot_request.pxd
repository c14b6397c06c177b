# Types for the compiled form of hot_request.py: the recogniser's memo and its one method.

cdef class Head:
    cdef public object token_sha256, forwarded_for


cdef class Recogniser:
    cdef dict _heads

    cpdef recognise(self, bytes received)
    cdef _remember(self, bytes block)
