# Types for the compiled form of raw_response.py: the plain response without a single look-up by name.

cimport cython

from ixfast.domain.records cimport TagRecord
from ixfast.responses.bodies cimport v1_body
from ixfast.domain.scan cimport Scan

cdef tuple _OK_HEADS


@cython.locals(record=TagRecord)
cpdef bint allows_cors(Scan scan)


@cython.locals(body=bytes)
cpdef bytes v1_response(Scan scan, bint closing=*)
