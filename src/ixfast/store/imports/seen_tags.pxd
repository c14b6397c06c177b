# Where importing_seen.py is compiled.

cimport cython


cdef class Names:
    cdef bytearray _bits

    @cython.locals(bits=bytearray, found=list, place=long, bit=int)
    cpdef list known(self, names)
