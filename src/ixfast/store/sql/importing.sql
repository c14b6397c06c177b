-- name: try_lock
-- False if another import into the account is running. The lock is held until the transaction ends. $1 account.
SELECT pg_try_advisory_xact_lock(hashtextextended('ixfast import', $1));

-- name: set_timeouts
-- For this transaction: no limit for statements, but a client that sends nothing for $1 milliseconds is disconnected.
SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '10s', true),
       set_config('idle_in_transaction_session_timeout', $1, true),
       set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true);

-- name: allow_long_lock_wait
-- Concurrent imports add their counters one after the other.
SELECT set_config('lock_timeout', '10min', true);

-- name: groups_named
-- $1 account, $2 name of the group, $3 name of its folder or null.
SELECT g.group_id
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1 AND g.name = $2 AND ($3::text IS NULL OR f.name = $3)
ORDER BY g.group_id;

-- name: batch_named
SELECT batch_id FROM batch WHERE group_id = $1 AND name = $2;

-- name: lock_group
-- The group's profile and account, its folder, the fields defined there, and the group's template. Keeps the group from being
-- deleted. $1 account, $2 group.
SELECT g.folder_id, g.profile, f.fields, a.aid, coalesce(g.profile ->> 'template', '') AS template
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
JOIN account AS a ON a.account_id = f.account_id
WHERE f.account_id = $1 AND g.group_id = $2
FOR KEY SHARE OF g;

-- name: lock_batch
-- $1 group, $2 batch.
SELECT batch_id FROM batch WHERE group_id = $1 AND batch_id = $2 FOR KEY SHARE;

-- name: meta_keys
-- $1 account.
SELECT version, live, kek_id, wrapped, check_value FROM meta_key WHERE account_id = $1 ORDER BY version DESC;

-- name: batch_keys
-- $1 batch.
SELECT version, live, kek_id, wrapped, check_value FROM batch_key WHERE batch_id = $1 ORDER BY version DESC;

-- name: stage
-- Every valid line with its outcome: one row per block, with a JSON array of arrays (`Plan.lines`). One row per line would take
-- as long as adding the tag.
CREATE TEMPORARY TABLE import_block (
    block int NOT NULL,
    lines bytea NOT NULL
) ON COMMIT DROP;
ALTER TABLE import_block ALTER lines SET STORAGE EXTERNAL;

-- name: stage_lines
-- $1 index of the block, $2 lines.
INSERT INTO import_block (block, lines) VALUES ($1, $2);

-- name: stage_changes
-- The changed tags of one block. Null leaves a column unchanged.
CREATE TEMPORARY TABLE import_change (
    tag_id bigint NOT NULL,
    uid bytea,
    cuid text,
    name text,
    active boolean,
    assigned_at timestamptz,
    unassigned boolean NOT NULL,
    rule_set jsonb,
    fields jsonb
) ON COMMIT DROP;

-- name: find_tags
-- The tags that lines may refer to: by tag code in any account, by UID and CUID in this account. $1 account, $2 tag codes,
-- $3 UIDs, $4 CUIDs.
-- Every UID and CUID is looked up separately in its own index. The planner has no statistics of the rows that this transaction
-- added, and might otherwise read the whole account for each name. `+ 0` prevents the use of the index on the account's tags.
-- Tag codes have only one index, and looking up all of them together takes a fifth less time.
WITH found AS MATERIALIZED (
    SELECT tag_id FROM tag WHERE xuid = ANY ($2::text[])
    UNION
    SELECT t.tag_id
    FROM unnest($3::bytea[]) AS n (uid),
         LATERAL (SELECT tag_id FROM tag WHERE uid = n.uid AND uid IS NOT NULL AND account_id + 0 = $1 OFFSET 0) AS t
    UNION
    SELECT t.tag_id
    FROM unnest($4::text[]) AS n (cuid),
         LATERAL (SELECT tag_id FROM tag WHERE cuid = n.cuid AND cuid IS NOT NULL AND account_id + 0 = $1 OFFSET 0) AS t
)
SELECT t.tag_id, t.account_id, t.group_id, t.batch_id, t.xuid, t.uid, t.cuid, t.name, t.active, t.assigned_at, t.rule_set, t.fields
FROM found AS f, LATERAL (SELECT * FROM tag WHERE tag_id = f.tag_id OFFSET 0) AS t;

-- name: stored_names
-- UIDs and CUIDs of the account's next tags in the order of their ids; 0.5 us per tag. $1 account, $2 the last id read,
-- $3 maximum number of tags.
SELECT count(*) AS tags, max(tag_id) AS last, coalesce(array_agg(uid) FILTER (WHERE uid IS NOT NULL), '{}') AS uids,
       coalesce(array_agg(cuid) FILTER (WHERE cuid IS NOT NULL), '{}') AS cuids
FROM (SELECT tag_id, uid, cuid FROM tag WHERE account_id = $1 AND tag_id > $2 ORDER BY tag_id LIMIT $3) AS t;

-- name: groups
-- All groups of an account, with their profiles and the versions of their live masters. $1 account.
SELECT g.group_id, g.folder_id, g.profile, g.derivation IS NOT NULL AS derives,
       ARRAY (SELECT k.version FROM group_key AS k WHERE k.group_id = g.group_id AND k.live) AS live_masters
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1;

-- name: keys
-- All versions of the keys of tags, newest first. $1 tag ids, $2 slot.
SELECT tag_id, version, live, kek_id, wrapped, check_value
FROM tag_key
WHERE tag_id = ANY ($1::bigint[]) AND slot = $2
ORDER BY tag_id, version DESC;

-- name: existing_codes
-- Those of these tag codes that exist.
SELECT t.xuid FROM unnest($1::text[]) AS n (xuid), LATERAL (SELECT xuid FROM tag WHERE xuid = n.xuid OFFSET 0) AS t;

-- name: draw_ids
-- New tag ids, and whether any tag of the account was ever deleted. The sequence is looked up once; looking it up for each id took
-- 6 us. $1 how many, $2 account.
WITH own AS MATERIALIZED (SELECT pg_get_serial_sequence('tag', 'tag_id')::regclass AS name)
SELECT (SELECT coalesce(array_agg(nextval(name)), '{}') FROM own, generate_series(1, $1)) AS ids,
       EXISTS (SELECT FROM deleted_tag WHERE account_id = $2) AS any_deleted;

-- name: masters
-- The masters of all groups of an account that derive keys, with what distinguishes the keys derived from them. $1 account.
SELECT g.group_id, k.version, k.check_value || decode(md5(k.derivation::text), 'hex') AS identity
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
LEFT JOIN group_key AS k ON k.group_id = g.group_id
WHERE f.account_id = $1 AND g.derivation IS NOT NULL;

-- name: lock_groups
-- Keep the masters of the groups of an account as they are. $1 account.
SELECT count(*)
FROM (
    SELECT FROM tag_group
    WHERE folder_id IN (SELECT folder_id FROM folder WHERE account_id = $1)
    ORDER BY group_id
    FOR SHARE
) AS held;

-- name: lock_tags
-- Keep tags from being deleted, and their keys from being changed by other sessions. $1 tag ids.
SELECT count(*) FROM (SELECT FROM tag WHERE tag_id = ANY ($1::bigint[]) ORDER BY tag_id FOR NO KEY UPDATE) AS held;

-- name: lock_returning
-- Like lock_tags, for tags that still have this UID and group. $1 tag ids, $2 UIDs or null, $3 group ids: parallel arrays.
SELECT count(*)
FROM (SELECT tag_id, uid, group_id FROM tag WHERE tag_id = ANY ($1::bigint[]) ORDER BY tag_id FOR NO KEY UPDATE) AS held
JOIN unnest($1::bigint[], $2::bytea[], $3::bigint[]) AS n (tag_id, uid, group_id)
  ON n.tag_id = held.tag_id AND n.uid IS NOT DISTINCT FROM held.uid AND n.group_id = held.group_id;

-- name: change
UPDATE tag AS t
SET uid = coalesce(c.uid, t.uid),
    cuid = coalesce(c.cuid, t.cuid),
    name = coalesce(c.name, t.name),
    active = coalesce(c.active, t.active),
    assigned_at = CASE WHEN NOT c.unassigned THEN coalesce(c.assigned_at, t.assigned_at) END,
    rule_set = coalesce(c.rule_set, t.rule_set),
    fields = CASE WHEN c.fields IS NULL THEN t.fields ELSE coalesce(t.fields, '{}') || c.fields END
FROM import_change AS c
WHERE t.tag_id = c.tag_id;

-- name: clear_changes
TRUNCATE import_change;

-- name: retire_keys
-- Retire all versions but the newest. $1 tag ids, $2 slot.
UPDATE tag_key AS k
SET live = false
WHERE k.tag_id = ANY ($1::bigint[]) AND k.slot = $2 AND k.live
  AND k.version < (SELECT max(n.version) FROM tag_key AS n WHERE n.tag_id = k.tag_id AND n.slot = k.slot);

-- name: counters
-- $1 tag ids.
SELECT tag_id, last_position, scan_count FROM tag_counter WHERE tag_id = ANY ($1::bigint[]);

-- name: lock_counters
-- In ascending order, as the ledger does. $1 tag ids.
SELECT count(*) FROM (
    SELECT FROM tag_counter WHERE tag_id = ANY ($1::bigint[]) ORDER BY tag_id FOR NO KEY UPDATE
) AS held;

-- name: raise_counters
-- Raise locked counters to at least these positions and scan counts. The time of the last pass is dropped with its position: the
-- tap at the new position was accepted elsewhere, so no retry window may begin with it. $1 tag ids, $2 positions, $3 scan counts.
UPDATE tag_counter AS c
SET previous_position = CASE WHEN n.position > c.last_position THEN c.last_position ELSE c.previous_position END,
    last_position = greatest(c.last_position, n.position),
    last_at = CASE WHEN n.position > c.last_position THEN 'epoch' ELSE c.last_at END,
    scan_count = greatest(c.scan_count, n.scan_count)
FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS n (tag_id, position, scan_count)
WHERE c.tag_id = n.tag_id AND c.tag_id = ANY ($1::bigint[])
  AND (c.last_position < n.position OR c.scan_count < n.scan_count);

-- name: find_repeats
-- Lines whose tag, UID or CUID occurs in an earlier line, with the number of that line. A tag code with another UID, and a UID with
-- another key, are other mistakes than a line that is there twice. $1 maximum number of rows.
WITH import_line AS MATERIALIZED (
    SELECT (l ->> 0)::bigint AS line, l ->> 1 AS named_by, l ->> 2 AS xuid, l ->> 3 AS uid, l ->> 4 AS cuid,
           l ->> 5 AS check_value
    FROM import_block, json_array_elements(convert_from(lines, 'UTF8')::json) AS l
), placed AS (
    SELECT line, 1 AS place, named_by AS field, first_value(line) OVER own AS earlier,
           uid IS NOT NULL AND check_value <> first_value(check_value) OVER own AS two_keys,
           named_by = 'XUID' AND uid <> first_value(uid) OVER own AS two_uids
    FROM import_line WINDOW own AS (PARTITION BY xuid ORDER BY line)
    UNION ALL
    SELECT line, 2, 'UID', first_value(line) OVER own, check_value <> first_value(check_value) OVER own, false
    FROM import_line WHERE uid IS NOT NULL WINDOW own AS (PARTITION BY uid ORDER BY line)
    UNION ALL
    SELECT line, 3, 'CUID', first_value(line) OVER own, false, false
    FROM import_line WHERE cuid IS NOT NULL WINDOW own AS (PARTITION BY cuid ORDER BY line)
)
SELECT DISTINCT ON (line) line, field, earlier,
       CASE WHEN two_uids THEN 'two_uids' WHEN two_keys THEN 'two_keys' ELSE 'duplicate' END AS code
FROM placed
WHERE line > earlier
ORDER BY line, coalesce(two_uids, false) DESC, coalesce(two_keys, false) DESC, place
LIMIT $1;

-- name: staged_lines
SELECT lines FROM import_block ORDER BY block;

-- name: set_export_timeouts
-- $1 milliseconds after which an idle reader is disconnected.
SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', $1, true);

-- name: any_meta_keys
-- Whether tags have meta keys of their own. $1 account, $2 group or null, $3 batch or null, $4 slot of meta keys.
SELECT EXISTS (
    SELECT FROM tag AS t
    JOIN tag_key AS k ON k.tag_id = t.tag_id AND k.slot = $4 AND k.live
    WHERE t.account_id = $1 AND ($2::bigint IS NULL OR t.group_id = $2) AND ($3::bigint IS NULL OR t.batch_id = $3)
);

-- name: export
-- Tags with the newest live version of their keys. The counter is that of their only live key or master, 1 being the version of
-- the first key: with several, a file could not say which of them it belongs to. $1 account, $2 group or null, $3 batch or null,
-- $4 slot of file keys, $5 slot of meta keys.
SELECT t.tag_id, t.xuid, t.uid, t.cuid, t.name, t.active, t.assigned_at, t.rule_set, t.fields, k.version, k.check_value,
       m.check_value AS meta_check_value, c.scan_count,
       CASE WHEN c.last_position > 0 AND live.versions IN (ARRAY[(c.last_position >> 24)::smallint], '{}')
                 AND (live.versions <> '{}' OR c.last_position >> 24 = 1)
            THEN c.last_position & 16777215 END AS last_counter
FROM tag AS t
LEFT JOIN tag_group AS g ON g.group_id = t.group_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN g.derivation IS NOT NULL
                THEN ARRAY (SELECT version FROM group_key WHERE group_id = t.group_id AND live)
                ELSE ARRAY (SELECT version FROM tag_key WHERE tag_id = t.tag_id AND slot = $4 AND live) END AS versions
) AS live
LEFT JOIN tag_counter AS c ON c.tag_id = t.tag_id
LEFT JOIN LATERAL (
    SELECT check_value FROM tag_key WHERE tag_id = t.tag_id AND slot = $5 AND live ORDER BY version DESC LIMIT 1
) AS m ON true
LEFT JOIN LATERAL (
    SELECT version, check_value FROM tag_key WHERE tag_id = t.tag_id AND slot = $4 AND live ORDER BY version DESC LIMIT 1
) AS k ON true
WHERE t.account_id = $1 AND ($2::bigint IS NULL OR t.group_id = $2) AND ($3::bigint IS NULL OR t.batch_id = $3)
ORDER BY t.tag_id;

-- name: field_definitions
-- $1 account, $2 group or null.
SELECT DISTINCT f.folder_id, f.fields
FROM folder AS f
LEFT JOIN tag_group AS g ON g.folder_id = f.folder_id
WHERE f.account_id = $1 AND ($2::bigint IS NULL OR g.group_id = $2)
ORDER BY f.folder_id;
