# Fields of the cache, and its methods for every scan, where cache.py is compiled.

cdef class TwoGenerations:
    cdef public dict _young, _old, _dying
    cdef Py_ssize_t _half

    cpdef get(self, bytes key)
    cpdef put(self, bytes key, value)
    cpdef pop(self, bytes key)
