# Types of the compiled form of rows.py: the row, and the loop over the cells of a record.

cimport cython


cdef class TagRow:
    cdef public object line, xuid, uid, cuid, name, response, active, assigned, key, meta_key, check_value
    cdef public object last_counter, scan_count, fields, profile


cpdef bytes check_value(bytes key16)


@cython.locals(values=list, fields=dict, text=str, blank=bint, valid=bint)
cpdef read_row(line, texts, cells, problems)
