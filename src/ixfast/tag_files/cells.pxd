# Types of the compiled form of cells.py.

cpdef bytes uid(str text)
cpdef bytes key(str text)
cpdef bytes key_or_zeros(str text)
cpdef bytes check_value(str text)
cpdef str cuid(str text)
cdef bytes _hex(str text, Py_ssize_t length)
