# Types for the compiled form of line_matcher.py.

cimport cython

from ixfast.tag_files.rows cimport TagRow


cdef class Matcher:
    cdef object _account_id, _folder_groups, _problems, _seen
    cdef set _freed
    cdef tuple _before
    cdef public bint repeats

    @cython.locals(row=TagRow, found=list)
    cpdef list match(self, rows, tags)

    @cython.locals(names=tuple, distinct=tuple)
    cdef _compare_names(self, rows)

    cdef _contradiction(self, TagRow row, stored, tags)
