# Where rows.py is compiled: a line's values, and the loop over its cells.

cimport cython


cdef class TagRow:
    cdef public object line, xuid, uid, cuid, name, response, active, assigned, key, meta_key, check_value, fields


cpdef bytes check_value(bytes key16)


@cython.locals(values=list, fields=dict, text=str, blank=bint, good=bint)
cpdef read_row(line, texts, cells, problems)
