# Where reply.py is compiled: the body of the usual answer, with the records' fields at hand.

cimport cython

from ixfast.domain.records cimport Group, TagRecord
from ixfast.domain.scan cimport Scan


@cython.locals(record=TagRecord, group=Group, rule=int)
cpdef bytes v1_body(Scan scan)
