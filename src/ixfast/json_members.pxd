# Types for the compiled form of json_members.py: an import calls this for every line.

cimport cython


@cython.locals(strings=Py_ssize_t)
cpdef list repeated_in_line(str line, dict members)
