# Types for the compiled form of seen_tags.py.

cimport cython


cdef class SeenNames:
    cdef bytearray _bits

    @cython.locals(bits=bytearray, found=list, index=long, bit=int)
    cpdef list add_all(self, names)
