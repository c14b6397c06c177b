-- name: usage
-- Number of rows by key-encryption key, and how many of them are of retired versions. The meta keys are those of accounts and batches;
-- those of tags are among the keys of tags.
SELECT kek_id, sum(tag_keys)::bigint AS tag_keys, sum(meta_keys)::bigint AS meta_keys, sum(group_keys)::bigint AS group_keys,
       sum(retired)::bigint AS retired
FROM (
    SELECT kek_id, count(*) AS tag_keys, 0 AS meta_keys, 0 AS group_keys, count(*) FILTER (WHERE NOT live) AS retired
    FROM tag_key GROUP BY kek_id
    UNION ALL
    SELECT kek_id, 0, count(*), 0, count(*) FILTER (WHERE NOT live) FROM meta_key GROUP BY kek_id
    UNION ALL
    SELECT kek_id, 0, count(*), 0, count(*) FILTER (WHERE NOT live) FROM batch_key GROUP BY kek_id
    UNION ALL
    SELECT kek_id, 0, 0, count(*), count(*) FILTER (WHERE NOT live) FROM group_key GROUP BY kek_id
) AS counted
GROUP BY kek_id
ORDER BY kek_id;

-- name: tag_keys
-- The next envelopes in primary key order. $1 the key-encryption key whose rows are excluded; $2 tag id, $3 slot and $4 version
-- of the last row read; $5 maximum number of rows.
SELECT k.tag_id AS id, k.tag_id, t.account_id, k.slot, k.version, k.kek_id, k.wrapped, k.check_value, k.live
FROM tag_key AS k
LEFT JOIN tag AS t ON t.tag_id = k.tag_id
WHERE (k.tag_id, k.slot, k.version) > ($2::bigint, $3::smallint, $4::smallint) AND k.kek_id <> $1
ORDER BY k.tag_id, k.slot, k.version
LIMIT $5;

-- name: meta_keys
-- Like tag_keys, for the meta keys of accounts, which have slot 1.
SELECT account_id AS id, 0::bigint AS tag_id, account_id, 1::smallint AS slot, version, kek_id, wrapped, check_value, live
FROM meta_key
WHERE (account_id, 1::smallint, version) > ($2::bigint, $3::smallint, $4::smallint) AND kek_id <> $1
ORDER BY account_id, version
LIMIT $5;

-- name: batch_keys
-- Like tag_keys, for the meta keys of batches, which have slot 4 and the batch's id instead of a tag id.
SELECT k.batch_id AS id, k.batch_id AS tag_id, f.account_id, 4::smallint AS slot, k.version, k.kek_id, k.wrapped, k.check_value, k.live
FROM batch_key AS k
JOIN batch AS b ON b.batch_id = k.batch_id
JOIN tag_group AS g ON g.group_id = b.group_id
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE (k.batch_id, 4::smallint, k.version) > ($2::bigint, $3::smallint, $4::smallint) AND k.kek_id <> $1
ORDER BY k.batch_id, k.version
LIMIT $5;

-- name: group_keys
-- Like tag_keys, for the masters of groups, which have slot 3 and the group's id instead of a tag id.
SELECT k.group_id AS id, k.group_id AS tag_id, f.account_id, 3::smallint AS slot, k.version, k.kek_id, k.wrapped, k.check_value, k.live
FROM group_key AS k
JOIN tag_group AS g ON g.group_id = k.group_id
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE (k.group_id, 3::smallint, k.version) > ($2::bigint, $3::smallint, $4::smallint) AND k.kek_id <> $1
ORDER BY k.group_id, k.version
LIMIT $5;

-- name: replace_tag_keys
-- Replace envelopes, except those that changed since they were read. $1 the key-encryption key of the new envelopes. Parallel
-- arrays: $2 tag ids, $3 slots, $4 versions, $5 envelopes read, $6 new envelopes.
UPDATE tag_key AS k
SET kek_id = $1, wrapped = n.successor
FROM unnest($2::bigint[], $3::smallint[], $4::smallint[], $5::bytea[], $6::bytea[]) AS n (id, slot, version, found, successor)
WHERE k.tag_id = n.id AND k.slot = n.slot AND k.version = n.version AND k.wrapped = n.found
RETURNING k.tag_id;

-- name: replace_meta_keys
-- Like replace_tag_keys, for meta keys.
UPDATE meta_key AS k
SET kek_id = $1, wrapped = n.successor
FROM unnest($2::bigint[], $3::smallint[], $4::smallint[], $5::bytea[], $6::bytea[]) AS n (id, slot, version, found, successor)
WHERE k.account_id = n.id AND n.slot = 1 AND k.version = n.version AND k.wrapped = n.found
RETURNING k.account_id;

-- name: replace_batch_keys
-- Like replace_tag_keys, for the meta keys of batches.
UPDATE batch_key AS k
SET kek_id = $1, wrapped = n.successor
FROM unnest($2::bigint[], $3::smallint[], $4::smallint[], $5::bytea[], $6::bytea[]) AS n (id, slot, version, found, successor)
WHERE k.batch_id = n.id AND n.slot = 4 AND k.version = n.version AND k.wrapped = n.found
RETURNING k.batch_id;

-- name: replace_group_keys
-- Like replace_tag_keys, for masters.
UPDATE group_key AS k
SET kek_id = $1, wrapped = n.successor
FROM unnest($2::bigint[], $3::smallint[], $4::smallint[], $5::bytea[], $6::bytea[]) AS n (id, slot, version, found, successor)
WHERE k.group_id = n.id AND n.slot = 3 AND k.version = n.version AND k.wrapped = n.found
RETURNING k.group_id;

-- name: try_lock
-- False if another rotation is running. The lock is held until the connection is closed.
SELECT pg_try_advisory_lock(7884103350513296235);

-- name: lock_key_tables
-- Block writers of keys until the transaction ends; readers are not blocked.
LOCK TABLE tag_key, meta_key, batch_key, group_key IN SHARE MODE;
