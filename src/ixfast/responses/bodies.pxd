# Types for the compiled form of bodies.py: the body of a plain scan reads the fields of the records directly.

cimport cython

from ixfast.domain.records cimport Group, TagRecord
from ixfast.domain.scan cimport Scan


@cython.locals(record=TagRecord, group=Group, rule=int)
cpdef bytes v1_body(Scan scan)
