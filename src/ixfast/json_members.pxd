# Where json_members.py is compiled: what an import asks of every line.

cimport cython


@cython.locals(strings=Py_ssize_t)
cpdef list repeated_in_line(str line, dict members)
