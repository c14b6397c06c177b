# Types for the compiled form of import_plan.py.

cimport cython

from ixfast.tag_files.rows cimport TagRow


cdef class Plan:
    cdef public object kek
    cdef public list tags, keys, changes, lines, rekeyed, counters, raised, meta_keys, meta_rekeyed
    cdef public list unsealed, check_values
    cdef public dict touched, copies
    cdef public bytes staged_lines
    cdef public Py_ssize_t elsewhere


@cython.locals(row=TagRow)
cpdef tuple names_of(rows)


@cython.locals(row=TagRow, result=Plan)
cpdef Plan plan(context, matches, stored_keys, counters, deleted, fresh, problems)

cdef _add(context, Plan result, TagRow row, tag_id, xuid)
cdef str _digits(bytes value)
cdef str _naming_column(TagRow row, stored)
cdef _add_key(Plan result, TagRow row, tag_id, version)
cdef _seal(context, Plan result)
