# The fields of the records in the compiled form of records.py.

cimport cython


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


cdef class TagRecord:
    cdef public long long tag_id
    cdef public Group group
    cdef public Batch batch
    cdef public bytes xuid, uid, key
    cdef public long key_version, floor
    cdef public bint active, assigned
    cdef public object cuid, name, keys, originality
    cdef public TagOverrides overrides

    cpdef bint is_for(self, ApiKey api_key, aid=*)

    @cython.locals(group=Group, account=Account)
    cpdef inactive_level(self)


cdef class ApiKey:
    cdef public long long api_key_id, account_id
    cdef public bint scans
    cdef public object aid, scopes, label, expires_at
