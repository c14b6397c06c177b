# Where copy_rows.py is compiled.

cimport cython

cdef tuple _LENGTHS, _INT2S


@cython.locals(parts=list, begin=bytes, row=tuple, place=Py_ssize_t)
cpdef bytes copy_rows(tuple same, tuple kinds, rows)

cdef bytes _field(int kind, value)


@cython.locals(length=Py_ssize_t)
cdef bytes _sized(bytes value)
