/* Verification of many SDM messages at once, for one vector width. A template: sdm.h defines the four IX_BATCH names and
 * includes it once for each variant, and this file takes them back at its end.
 *
 * IX_BATCH_LANES blocks lie in a vector and IX_BATCH_VECTORS vectors are in flight, so a group is their product. Key schedules
 * stay in memory, where the AES instruction can take them as an operand. Lanes beyond the last message work on zeros.
 */
#define IX_GROUP (IX_BATCH_LANES * IX_BATCH_VECTORS)
#define IX_BATCH_INLINE static inline __attribute__((always_inline)) IX_BATCH_TARGET
#define IX_FOR_VECTORS _Pragma("GCC unroll 8") for (int v = 0; v < IX_BATCH_VECTORS; v++)

typedef struct {
    IX_BATCH(vec) round[IX_ROUNDS + 1][IX_BATCH_VECTORS];
    uint8_t k1[IX_GROUP][16], k2[IX_GROUP][16];
    uint8_t block[IX_GROUP][16]; /* in: keys or plaintext; out: ciphertext */
} IX_BATCH(group);

IX_BATCH_INLINE void IX_BATCH(group_encrypt)(IX_BATCH(group) *g)
{
    IX_BATCH(vec) state[IX_BATCH_VECTORS];
    IX_FOR_VECTORS state[v] = IX_BATCH(xor)(IX_BATCH(load)(g->block[v * IX_BATCH_LANES]), g->round[0][v]);
#pragma GCC unroll 10
    for (int i = 1; i < IX_ROUNDS; i++)
        IX_FOR_VECTORS state[v] = IX_BATCH(round)(state[v], g->round[i][v]);
    IX_FOR_VECTORS IX_BATCH(store)(g->block[v * IX_BATCH_LANES], IX_BATCH(last)(state[v], g->round[IX_ROUNDS][v]));
}

/* Takes keys from `block`, fills the schedule and the CMAC subkeys. */
IX_BATCH_INLINE void IX_BATCH(group_ready)(IX_BATCH(group) *g)
{
    IX_BATCH(vec) key[IX_BATCH_VECTORS];
    IX_FOR_VECTORS key[v] = g->round[0][v] = IX_BATCH(load)(g->block[v * IX_BATCH_LANES]);
#pragma GCC unroll 10
    for (int i = 0; i < IX_ROUNDS; i++)
        IX_FOR_VECTORS key[v] = g->round[i + 1][v] = IX_BATCH(next_key)(key[v], ix_rcon[i]);
    memset(g->block, 0, sizeof g->block);
    IX_BATCH(group_encrypt)(g);
    IX_FOR_VECTORS {
        IX_BATCH(vec) k1 = IX_BATCH(double)(IX_BATCH(load)(g->block[v * IX_BATCH_LANES]));
        IX_BATCH(store)(g->k1[v * IX_BATCH_LANES], k1);
        IX_BATCH(store)(g->k2[v * IX_BATCH_LANES], IX_BATCH(double)(k1));
    }
}

/* CMAC of every window under the group's keys, to `block`. Lanes whose window has ended keep their result. */
IX_BATCH_INLINE void IX_BATCH(group_windows)(IX_BATCH(group) *g, const ix_sdm_messages *m, size_t first, size_t lanes)
{
    uint8_t chain[IX_GROUP][16] = {{0}};
    size_t start[IX_GROUP] = {0}, left[IX_GROUP] = {0};
    int open[IX_GROUP], any_open = 1;
    for (size_t l = 0; l < IX_GROUP; l++)
        open[l] = 1;
    for (size_t l = 0; m->offsets && l < lanes; l++) {
        start[l] = ix_u32(m->offsets, first + l);
        left[l] = ix_u32(m->offsets, first + l + 1) - start[l];
    }
    while (any_open) {
        any_open = 0;
        for (size_t l = 0; l < IX_GROUP; l++) {
            ix1_vec next;
            if (!open[l])
                continue;
            next = left[l] > 16 ? ix1_load(m->windows + start[l])
                 : left[l] == 0 ? ix1_xor(ix1_load(g->k2[l]), ix1_from_u64(0x80, 0))
                                : ix_cmac_last_block(ix1_load(g->k1[l]), ix1_load(g->k2[l]), m->windows + start[l], left[l]);
            ix1_store(g->block[l], ix1_xor(next, ix1_load(chain[l])));
        }
        IX_BATCH(group_encrypt)(g);
        for (size_t l = 0; l < IX_GROUP; l++) {
            if (!open[l])
                continue;
            memcpy(chain[l], g->block[l], 16);
            open[l] = left[l] > 16;
            any_open |= open[l];
            start[l] += 16;
            left[l] -= open[l] ? 16 : 0;
        }
    }
    memcpy(g->block, chain, sizeof chain);
    ix_wipe(chain, sizeof chain);
}

static __attribute__((unused)) IX_BATCH_TARGET void IX_BATCH(sdm_verify_batch)(const ix_sdm_messages *m, uint8_t *verdicts)
{
    IX_BATCH(group) g;
    for (size_t first = 0; first < m->count; first += IX_GROUP) {
        size_t lanes = m->count - first < IX_GROUP ? m->count - first : IX_GROUP;
        if (lanes < IX_GROUP)
            memset(g.block, 0, sizeof g.block);
        memcpy(g.block, m->file_keys + 16 * first, 16 * lanes);
        IX_BATCH(group_ready)(&g);
        for (size_t l = 0; l < lanes; l++) {
            size_t i = first + l;
            ix1_vec vector = ix_session_vector(IX_SV2, m->uids + 7 * i, ix_u32(m->counters, i), m->forms[i]);
            ix1_store(g.block[l], ix1_xor(vector, ix1_load(g.k1[l])));
        }
        IX_BATCH(group_encrypt)(&g);
        IX_BATCH(group_ready)(&g);
        IX_BATCH(group_windows)(&g, m, first, lanes);
        for (size_t l = 0; l < lanes; l++) {
            uint64_t given;
            memcpy(&given, m->macs + 8 * (first + l), sizeof given);
            verdicts[first + l] = ix1_odd_bytes(ix1_load(g.block[l])) == given;
        }
    }
    ix_wipe(&g, sizeof g);
}

#undef IX_GROUP
#undef IX_BATCH_INLINE
#undef IX_FOR_VECTORS
#undef IX_BATCH_TARGET
#undef IX_BATCH
#undef IX_BATCH_LANES
#undef IX_BATCH_VECTORS
