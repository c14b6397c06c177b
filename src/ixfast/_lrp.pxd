# Table of contents of the native core's LRP mode. See _cmac.pxd for what both halves share.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "native/lrp.h" nogil:
    enum: IX_LRP_PLAINTEXTS, IX_LRP_UPDATED
    ctypedef struct ix_lrp:                 # an expanded key, wiped by its owner
        pass

    void ix_lrp_init(ix_lrp *lrp, const uint8_t *key)           # all updated keys, no subkeys
    void ix_lrp_init_for_cmac(ix_lrp *lrp, const uint8_t *key)  # updated key 0 and subkeys
    void ix_lrp_export(const ix_lrp *lrp, uint8_t *plaintexts, uint8_t *updated_keys)
    void ix_lrp_eval(const ix_lrp *lrp, int updated_key, const uint8_t *x, size_t nibbles, bint final, uint8_t *out)
    void ix_lrp_cmac(const ix_lrp *ready, const uint8_t *message, size_t size, uint8_t *mac)
    void ix_lricb(const ix_lrp *ready, int updated_key, uint8_t *counter, size_t counter_size, const uint8_t *text,
                  size_t count, bint encrypt, uint8_t *out)

    void ix_lrp_session_master(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned int form,
                               uint8_t *master)
    uint64_t ix_lrp_sdm_mac(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned int form,
                            const uint8_t *window, size_t size)
    bint ix_lrp_sdm_verify(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned int form,
                           const uint8_t *window, size_t size, const uint8_t *mac)
    void ix_lrp_sdm_file(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, const uint8_t *text,
                         size_t count, bint encrypt, uint8_t *out)
    void ix_lrp_picc(const uint8_t *meta_key, const uint8_t *random, const uint8_t *block, bint encrypt, uint8_t *out)
