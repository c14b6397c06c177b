-- name: tags_by_xuid
-- Tags with their live keys, one row for each key, newest version first. $1 tag codes, $2 ids of the accounts whose tags may
-- be found, or null for all.
SELECT t.tag_id, t.xuid, t.cuid, t.uid, t.name, t.active, t.group_id, t.batch_id, t.assigned_at IS NOT NULL AS assigned,
       t.account_id, t.rule_set, t.fields, t.originality, date_part('epoch', t.created_at) AS created_at,
       date_part('epoch', t.assigned_at) AS assigned_at, k.slot, k.version, k.kek_id, k.wrapped, k.check_value
FROM tag AS t
LEFT JOIN tag_key AS k ON k.tag_id = t.tag_id AND k.live
WHERE t.xuid = ANY ($1::text[]) AND ($2::bigint[] IS NULL OR t.account_id = ANY ($2::bigint[]))
ORDER BY t.tag_id, k.version DESC;

-- name: xuids_by_cuid
-- Tag codes by CUID, the customer's id of a tag. $1 AIDs (account ids as printed) and $2 CUIDs, of equal length.
SELECT a.aid, t.cuid, t.xuid
FROM unnest($1::text[], $2::text[]) AS n (aid, cuid)
JOIN account AS a ON a.aid = n.aid
JOIN tag AS t ON t.account_id = a.account_id AND t.cuid = n.cuid;

-- name: xuids_by_uid
-- Tag codes by UID, the chip's serial number. $1 AIDs and $2 UIDs of 7 bytes each, of equal length.
SELECT a.aid, t.uid, t.xuid
FROM unnest($1::text[], $2::bytea[]) AS n (aid, uid)
JOIN account AS a ON a.aid = n.aid
JOIN tag AS t ON t.account_id = a.account_id AND t.uid = n.uid;

-- name: api_keys_by_hash
-- Live API keys of active accounts. $1 SHA-256 hashes of tokens, 32 bytes each.
SELECT k.api_key_id, k.token_sha256, k.account_id, a.aid, k.scopes, k.label,
       extract(epoch FROM k.expires_at)::float8 AS expires_at
FROM api_key AS k
JOIN account AS a ON a.account_id = k.account_id
WHERE k.token_sha256 = ANY ($1::bytea[]) AND k.revoked_at IS NULL AND a.active;

-- name: groups_by_id
-- Groups with what they inherit from their folder. $1 group ids.
SELECT g.group_id, g.name AS group_name, g.kind, g.active AS group_active, g.profile, g.rule_set, g.retry_window_s,
       g.derivation, g.enrols, g.country_statistics,
       g.fields AS field_values, f.fields AS field_definitions,
       f.name AS folder_name, f.active AS folder_active, f.account_id
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE g.group_id = ANY ($1::bigint[]);

-- name: groups_of_account
-- Ids of an account's groups. $1 account id.
SELECT g.group_id
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1
ORDER BY g.group_id;

-- name: accounts_by_id
-- Accounts without their keys. $1 account ids.
SELECT account_id, aid, name, open, active, cors FROM account WHERE account_id = ANY ($1::bigint[]);

-- name: enrolling_accounts
-- AIDs of the accounts with a group in which the first genuine tap creates a tag.
SELECT DISTINCT a.aid
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
JOIN account AS a ON a.account_id = f.account_id
WHERE g.enrols;

-- name: account_by_aid
-- An account's id, and whether it is open. $1 AID.
SELECT account_id, open FROM account WHERE aid = $1;

-- name: meta_keys_of_accounts
-- Live meta keys, still sealed, newest version first. $1 account ids.
SELECT account_id, version, kek_id, wrapped, check_value
FROM meta_key
WHERE account_id = ANY ($1::bigint[]) AND live
ORDER BY account_id, version DESC;

-- name: keys_of_groups
-- Live master keys, still sealed, newest version first. $1 group ids.
SELECT k.group_id, f.account_id, k.version, k.derivation, k.kek_id, k.wrapped, k.check_value
FROM group_key AS k
JOIN tag_group AS g ON g.group_id = k.group_id
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE k.group_id = ANY ($1::bigint[]) AND k.live
ORDER BY k.group_id, k.version DESC;

-- name: batches_by_id
-- Batches with their live meta keys, still sealed, one row for each key, newest version first. $1 batch ids.
SELECT b.batch_id, b.name, b.active, f.account_id, k.version, k.kek_id, k.wrapped, k.check_value
FROM batch AS b
JOIN tag_group AS g ON g.group_id = b.group_id
JOIN folder AS f ON f.folder_id = g.folder_id
LEFT JOIN batch_key AS k ON k.batch_id = b.batch_id AND k.live
WHERE b.batch_id = ANY ($1::bigint[])
ORDER BY b.batch_id, k.version DESC;

-- name: batches_by_name
-- Live meta keys, still sealed, of an account's batches with this name, newest version first. $1 account id, $2 name, $3 maximum
-- number of batches.
SELECT b.batch_id, b.account_id, k.version, k.kek_id, k.wrapped, k.check_value
FROM (
    SELECT b.batch_id, f.account_id
    FROM batch AS b
    JOIN tag_group AS g ON g.group_id = b.group_id
    JOIN folder AS f ON f.folder_id = g.folder_id
    WHERE f.account_id = $1 AND b.name = $2 AND EXISTS (SELECT FROM batch_key AS k WHERE k.batch_id = b.batch_id AND k.live)
    ORDER BY b.batch_id
    LIMIT $3
) AS b
JOIN batch_key AS k ON k.batch_id = b.batch_id AND k.live
ORDER BY b.batch_id, k.version DESC;

-- name: read_history
-- The state of the database that a worker reads every second. $1 the last generation that it has applied, or null.
-- `newest` and `known` are the identities of the newest generation and of that one, null if the database has no such change.
-- `history` (as in session.sql) changes with a failover or a restore; `flushed` never decreases within one history. About once a
-- second, whichever worker comes first also stores the clock's highest reading. If the clock was stepped back, ages are doubtful
-- for everything accepted up to that reading and 12 s beyond it.
WITH observed AS (
    UPDATE database_state AS s
    SET doubtful_until = CASE
            WHEN clock_timestamp() < s.clock_high - interval '500 ms' THEN greatest(s.doubtful_until, s.clock_high + interval '12 s')
            ELSE s.doubtful_until
        END,
        clock_high = clock_timestamp()
    FROM (
        SELECT one FROM database_state
        WHERE clock_timestamp() NOT BETWEEN clock_high - interval '500 ms' AND clock_high + interval '900 ms'
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS due
    WHERE s.one = due.one
)
SELECT g.generation,
       (SELECT coalesce(min(c.identity::text), '') FROM catalogue_change AS c WHERE c.generation = g.generation
        HAVING count(*) > 0) AS newest,
       (SELECT coalesce(min(c.identity::text), '') FROM catalogue_change AS c WHERE c.generation = $1::bigint
        HAVING count(*) > 0) AS known,
       (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS history,
       pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint AS flushed,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started,
       extract(epoch FROM clock_timestamp())::float8 AS clock,
       nullif(concat_ws(' and ', CASE WHEN current_setting('fsync') <> 'on' THEN 'fsync' END,
                        CASE WHEN current_setting('full_page_writes') <> 'on' THEN 'full_page_writes' END), '') AS unsafe
FROM catalogue_generation AS g;

-- name: changes_since
-- Changes in the order of their commits. $1 the last generation that was applied, $2 the maximal number of rows.
SELECT generation, coalesce(min(identity::text) OVER (PARTITION BY generation), '') AS identity, kind, id, xuid
FROM catalogue_change
WHERE generation > $1
ORDER BY generation
LIMIT $2;

-- name: raise_generation
-- Holds the row's lock until the commit, so that generations become visible in their order.
UPDATE catalogue_generation SET generation = generation + 1 RETURNING generation;

-- name: note_change
-- One change of a management act. $1 generation, $2 kind, $3 id, $4 tag code; ids and codes may be null.
INSERT INTO catalogue_change (generation, kind, id, xuid) VALUES ($1, $2, $3, $4);

-- name: notify_change
-- Wakes the workers, which then read the changes. $1 generation.
SELECT pg_notify('ixfast_catalogue', $1::text);
