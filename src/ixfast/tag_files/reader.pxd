# Types of the compiled form of reader.py: the loop over CSV records.

cimport cython


cdef class _UndecodableLines:
    cdef public object numbers
    cdef public bint last_is_cut
    cdef object _problems


cdef class _LineSource:
    cdef public list lines
    cdef public Py_ssize_t position
    cdef Py_ssize_t _before


cdef class _CsvRecords:
    cdef object _layout, _problems, _reader
    cdef _LineSource _source
    cdef _UndecodableLines _undecodable
    cdef tuple _cells
    cdef Py_ssize_t _cell_count
    cdef public bint aborted
