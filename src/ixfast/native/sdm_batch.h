/* Verification of many SDM messages at once, for one vector width. A template: sdm.h defines the four IX_BATCH
 * names and includes it once for each variant, and this file takes them back at its end.
 *
 * IX_BATCH_LANES blocks lie in a vector and IX_BATCH_VECTORS vectors are in flight, so a group is their product. Key
 * schedules stay in memory, where the AES instruction takes them as an operand. Lanes beyond the last message repeat
 * whatever was there before and are not looked at.
 */
#define IX_GROUP (IX_BATCH_LANES * IX_BATCH_VECTORS)
#define IX_BATCH_INLINE static inline __attribute__((always_inline)) IX_BATCH_TARGET
#define IX_FOR_VECTORS _Pragma("GCC unroll 8") for (int v = 0; v < IX_BATCH_VECTORS; v++)

typedef struct {
    IX_BATCH(vec) round[IX_ROUNDS + 1][IX_BATCH_VECTORS];
    uint8_t k1[IX_GROUP][16], k2[IX_GROUP][16];
    uint8_t block[IX_GROUP][16]; /* in: keys or plaintext; out: ciphertext */
} IX_BATCH(group);

/* The rounds after the first key has been added. */
IX_BATCH_INLINE void IX_BATCH(group_rounds)(const IX_BATCH(group) *g, IX_BATCH(vec) *state)
{
#pragma GCC unroll 10
    for (int i = 1; i < IX_ROUNDS; i++) {
        ix_keep_in_memory(g);
        IX_FOR_VECTORS state[v] = IX_BATCH(round)(state[v], g->round[i][v]);
    }
    IX_FOR_VECTORS state[v] = IX_BATCH(last)(state[v], g->round[IX_ROUNDS][v]);
}

IX_BATCH_INLINE void IX_BATCH(group_encrypt)(IX_BATCH(group) *g)
{
    IX_BATCH(vec) state[IX_BATCH_VECTORS];
    IX_FOR_VECTORS state[v] = IX_BATCH(xor)(IX_BATCH(load)(g->block[v * IX_BATCH_LANES]), g->round[0][v]);
    IX_BATCH(group_rounds)(g, state);
    IX_FOR_VECTORS IX_BATCH(store)(g->block[v * IX_BATCH_LANES], state[v]);
}

/* Takes keys from `block`, fills the schedule and the CMAC subkeys, which start from the encryption of zeros. */
IX_BATCH_INLINE void IX_BATCH(group_ready)(IX_BATCH(group) *g)
{
    IX_BATCH(vec) state[IX_BATCH_VECTORS];
    IX_FOR_VECTORS state[v] = g->round[0][v] = IX_BATCH(load)(g->block[v * IX_BATCH_LANES]);
#pragma GCC unroll 10
    for (int i = 0; i < IX_ROUNDS; i++) {
        IX_FOR_VECTORS state[v] = g->round[i + 1][v] = IX_BATCH(next_key)(state[v], ix_rcon[i]);
        ix_keep_in_memory(g);
    }
    IX_FOR_VECTORS state[v] = g->round[0][v];
    IX_BATCH(group_rounds)(g, state);
    IX_FOR_VECTORS {
        state[v] = IX_BATCH(double)(state[v]);
        IX_BATCH(store)(g->k1[v * IX_BATCH_LANES], state[v]);
        IX_BATCH(store)(g->k2[v * IX_BATCH_LANES], IX_BATCH(double)(state[v]));
    }
}

/* CMAC of windows that are all empty: one block of padding under K2. */
IX_BATCH_INLINE void IX_BATCH(group_empty_windows)(IX_BATCH(group) *g, uint64_t *macs)
{
    for (size_t l = 0; l < IX_GROUP; l++)
        ix1_store(g->block[l], ix1_xor(ix1_load(g->k2[l]), ix1_from_u64(0x80, 0)));
    IX_BATCH(group_encrypt)(g);
    for (size_t l = 0; l < IX_GROUP; l++)
        macs[l] = ix1_odd_bytes(ix1_load(g->block[l]));
}

/* CMAC of windows of any lengths, block by block; a lane gives its MAC up after its last block and then idles. */
IX_BATCH_INLINE void IX_BATCH(group_windows)(IX_BATCH(group) *g, const ix_sdm_messages *m, size_t first, size_t lanes,
                                             uint64_t *macs)
{
    const uint8_t *window[IX_GROUP];
    size_t size[IX_GROUP], blocks[IX_GROUP], most = 1;
    for (size_t l = 0; l < lanes; l++) {
        window[l] = m->windows + ix_u32(m->offsets, first + l);
        size[l] = ix_u32(m->offsets, first + l + 1) - ix_u32(m->offsets, first + l);
        blocks[l] = size[l] > 16 ? (size[l] + 15) / 16 : 1;
        most = blocks[l] > most ? blocks[l] : most;
    }
    for (size_t b = 0; b < most; b++) {
        for (size_t l = 0; l < lanes; l++) {
            ix1_vec chain = b ? ix1_load(g->block[l]) : ix1_zero();
            if (b + 1 < blocks[l])
                ix1_store(g->block[l], ix1_xor(chain, ix1_load(window[l] + 16 * b)));
            else if (b + 1 == blocks[l])
                ix1_store(g->block[l], ix1_xor(chain, ix_cmac_last_block(g->k1[l], g->k2[l], window[l] + 16 * b,
                                                                         size[l] - 16 * b)));
        }
        IX_BATCH(group_encrypt)(g);
        for (size_t l = 0; l < lanes; l++)
            if (b + 1 == blocks[l])
                macs[l] = ix1_odd_bytes(ix1_load(g->block[l]));
    }
}

static __attribute__((unused)) IX_BATCH_TARGET void
IX_BATCH(sdm_verify_batch)(const ix_sdm_messages *m, uint8_t *verdicts)
{
    IX_BATCH(group) g;
    uint64_t macs[IX_GROUP];
    memset(g.block, 0, sizeof g.block);
    for (size_t first = 0; first < m->count; first += IX_GROUP) {
        size_t lanes = m->count - first < IX_GROUP ? m->count - first : IX_GROUP;
        for (size_t l = 0; l < lanes; l++)
            ix1_store(g.block[l], ix1_load(m->file_keys + 16 * (first + l)));
        IX_BATCH(group_ready)(&g);
        for (size_t l = 0; l < lanes; l++) {
            size_t i = first + l;
            ix1_vec vector = ix_session_vector(IX_SV2, m->uids + 7 * i, ix_u32(m->counters, i), m->forms[i]);
            ix1_store(g.block[l], ix1_xor(vector, ix1_load(g.k1[l])));
        }
        IX_BATCH(group_encrypt)(&g);
        IX_BATCH(group_ready)(&g);
        if (m->offsets)
            IX_BATCH(group_windows)(&g, m, first, lanes, macs);
        else
            IX_BATCH(group_empty_windows)(&g, macs);
        for (size_t l = 0; l < lanes; l++) {
            uint64_t given;
            memcpy(&given, m->macs + 8 * (first + l), sizeof given);
            verdicts[first + l] = macs[l] == given;
        }
    }
    ix_wipe(&g, sizeof g);
    ix_wipe(macs, sizeof macs);
}

#undef IX_GROUP
#undef IX_BATCH_INLINE
#undef IX_FOR_VECTORS
#undef IX_BATCH_TARGET
#undef IX_BATCH
#undef IX_BATCH_LANES
#undef IX_BATCH_VECTORS
