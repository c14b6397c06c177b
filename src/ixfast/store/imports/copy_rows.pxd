# Types for the compiled form of copy_rows.py.

cimport cython

cdef tuple _LENGTHS, _INT2S


@cython.locals(parts=list, begin=bytes, row=tuple, column=Py_ssize_t)
cpdef bytes copy_rows(tuple same, tuple kinds, rows)

cdef bytes _field(int kind, value)


@cython.locals(length=Py_ssize_t)
cdef bytes _sized(bytes value)
