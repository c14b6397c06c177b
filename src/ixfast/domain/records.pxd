# The fields of the records in the compiled form of records.py.

cimport cython

cdef extern from *:
    ctypedef bint flag "unsigned char"  # a bool in one byte


cdef class SharedRecord:
    pass


cdef class Account(SharedRecord):
    cdef public long long account_id
    cdef public bint active, open, cors, lacks_keys
    cdef public object aid, name, meta_keys


cdef class Batch(SharedRecord):
    cdef public long long batch_id
    cdef public bint active, lacks_keys
    cdef public object name, meta_keys


cdef class Group(SharedRecord):
    cdef public long long group_id
    cdef public Account account
    cdef public bint active, folder_active, enrols, country_statistics
    cdef public object name, folder_name, profile, response_set, fields, reply_names, derived, dates
    cdef public bytes reply_json
    cdef public long retry_window_ms


cdef class TagOverrides:
    cdef public object response_set, fields, created_at, assigned_at, meta_keys


# 144 bytes with the collector's header. The allocator counts in steps of 16, so any other field costs 16 bytes a tag.
cdef class TagRecord:
    cdef public long long tag_id, floor
    cdef public Group group
    cdef public Batch batch
    cdef public bytes xuid
    cdef public object cuid, name, keys
    cdef public TagOverrides overrides
    cdef unsigned char _key[16]
    cdef unsigned char _uid[7]
    cdef unsigned char _originality
    cdef public int key_version
    cdef public flag active, assigned, has_key, has_uid

    cpdef bytes single_key(self)
    cpdef bytes registered_uid(self)
    cpdef bint is_for(self, ApiKey api_key, aid=*)

    @cython.locals(group=Group, account=Account)
    cpdef inactive_level(self)


cdef class ApiKey:
    cdef public long long api_key_id, account_id
    cdef public bint scans
    cdef public object aid, scopes, label, expires_at
