# The fields of a scan in the compiled form of scan.py.

cdef class Scan:
    cdef public object reply
    cdef public bytes ref, mac
    cdef public long long scan_id, tag_id, scan_count
    cdef public long counter, position, previous_position
    cdef public int rule, held_rounds, route
    cdef public double arrived
    cdef public bint authentic, unresolved, answered
    cdef public object api_key, aid, extras, trace, record, reason, outcome, verdict, error, error_detail, error_field
