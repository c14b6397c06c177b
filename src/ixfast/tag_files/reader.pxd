# Where reading.py is compiled: the loop over the records of CSV.

cimport cython


cdef class _Lines:
    cdef public list lines
    cdef public Py_ssize_t place
    cdef Py_ssize_t _before


cdef class _CsvRecords:
    cdef object _layout, _problems, _reader
    cdef _Lines _source
    cdef tuple _cells
    cdef Py_ssize_t _cell_count
    cdef public bint broken
