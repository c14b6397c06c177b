-- name: caller
-- The API key with this token, unless it is revoked. Expiry is checked elsewhere, against more than one clock. Keys of an inactive
-- account can still manage it; otherwise nobody could activate it again. $1 SHA-256 of the token.
SELECT k.api_key_id, k.account_id, a.aid, k.scopes, extract(epoch FROM k.expires_at)::float8 AS expires_at
FROM api_key AS k
JOIN account AS a ON a.account_id = k.account_id
WHERE k.token_sha256 = $1 AND k.revoked_at IS NULL;

-- name: set_timeouts
-- Timeouts for this transaction. $1 milliseconds per statement, $2 milliseconds per wait for a lock.
SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true);

-- name: plan_by_values
-- Long and short time ranges need different plans.
SELECT set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: add_audit
-- $1 account, $2 API key or null, $3 act, $4 kind of object, $5 object id, $6 before, $7 after.
INSERT INTO audit_log (account_id, api_key_id, act, object, object_id, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: audit
-- Newest first. $1 account, $2 the id before which the page begins, $3 kind of object or null, $4 object id or null, $5 rows.
SELECT audit_id, at, api_key_id, act, object, object_id, before, after
FROM audit_log
WHERE account_id = $1 AND audit_id < $2 AND ($3::text IS NULL OR object = $3) AND ($4::text IS NULL OR object_id = $4)
ORDER BY audit_id DESC
LIMIT $5;

-- name: account
SELECT account_id, aid, name, open, active, cors, created_at FROM account WHERE account_id = $1;

-- name: accounts
-- $1 the AID after which the page begins, $2 rows.
SELECT account_id, aid, name, open, active, cors, created_at FROM account WHERE aid > $1 ORDER BY aid LIMIT $2;

-- name: aids_around
-- AIDs before and after one that does not exist. $1 AID, $2 rows on each side.
(SELECT aid FROM account WHERE aid < $1 ORDER BY aid DESC LIMIT $2)
UNION ALL
(SELECT aid FROM account WHERE aid > $1 ORDER BY aid LIMIT $2);

-- name: update_account
UPDATE account SET name = $2, open = $3, active = $4, cors = $5 WHERE account_id = $1;

-- name: folders
-- $1 account, $2 the id after which the page begins, $3 rows.
SELECT folder_id, name, active, fields, created_at
FROM folder
WHERE account_id = $1 AND folder_id > $2
ORDER BY folder_id
LIMIT $3;

-- name: folder
SELECT folder_id, name, active, fields, created_at FROM folder WHERE account_id = $1 AND folder_id = $2;

-- name: add_folder
INSERT INTO folder (account_id, name, active, fields) VALUES ($1, $2, $3, $4) RETURNING folder_id;

-- name: update_folder
UPDATE folder SET name = $2, active = $3, fields = $4 WHERE folder_id = $1;

-- name: delete_folder
DELETE FROM folder WHERE folder_id = $1;

-- name: groups_of_folder
SELECT group_id FROM tag_group WHERE folder_id = $1;

-- name: groups
-- $1 account, $2 the id after which the page begins, $3 rows, $4 folder or null.
SELECT g.group_id, g.folder_id, g.name, g.kind, g.active, g.profile, g.rule_set, g.fields, g.retry_window_s,
       g.derivation, g.enrols, g.country_statistics, g.created_at
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1 AND g.group_id > $2 AND ($4::bigint IS NULL OR g.folder_id = $4)
ORDER BY g.group_id
LIMIT $3;

-- name: tag_group
SELECT g.group_id, g.folder_id, g.name, g.kind, g.active, g.profile, g.rule_set, g.fields, g.retry_window_s,
       g.derivation, g.enrols, g.country_statistics, g.created_at,
       f.fields AS definitions
FROM tag_group AS g
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1 AND g.group_id = $2;

-- name: add_group
INSERT INTO tag_group (folder_id, name, kind, active, profile, rule_set, fields, retry_window_s, derivation, enrols,
                       country_statistics)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
RETURNING group_id;

-- name: update_group
UPDATE tag_group
SET name = $2, kind = $3, active = $4, profile = $5, rule_set = $6, fields = $7, retry_window_s = $8, derivation = $9,
    enrols = $10, country_statistics = $11
WHERE group_id = $1;

-- name: delete_group
DELETE FROM tag_group WHERE group_id = $1;

-- name: delete_group_keys
DELETE FROM group_key WHERE group_id = $1;

-- name: group_keys
-- Masters of a group without their envelopes.
-- `identity` distinguishes sets of derived keys, including those derived from one master in two ways.
SELECT version, live, check_value, created_at, derivation, check_value || decode(md5(derivation::text), 'hex') AS identity
FROM group_key
WHERE group_id = $1
ORDER BY version;

-- name: derivation
SELECT derivation FROM tag_group WHERE group_id = $1;

-- name: add_group_key
INSERT INTO group_key (group_id, version, derivation, kek_id, wrapped, check_value)
SELECT group_id, $2, derivation, $3, $4, $5 FROM tag_group WHERE group_id = $1;

-- name: retire_group_keys
-- $1 group, $2 versions.
UPDATE group_key SET live = false WHERE group_id = $1 AND version = ANY ($2::smallint[]);

-- name: meta_keys_in_use
-- Number of live meta keys of an account, stored and derived; one master in several groups counts once. $1 account.
SELECT (SELECT count(*) FROM meta_key WHERE account_id = $1 AND live) + (
    SELECT count(DISTINCT (k.derivation, k.check_value))
    FROM group_key AS k
    JOIN tag_group AS g ON g.group_id = k.group_id
    JOIN folder AS f ON f.folder_id = g.folder_id
    WHERE f.account_id = $1 AND k.live AND g.derivation IS NOT NULL AND k.derivation ->> 'scheme' <> 'an10922'
);

-- name: group_has_tags
SELECT EXISTS (SELECT FROM tag WHERE group_id = $1);

-- name: batches
-- $1 account, $2 the id after which the page begins, $3 rows, $4 group or null.
SELECT b.batch_id, b.group_id, b.name, b.active, b.created_at
FROM batch AS b
JOIN tag_group AS g ON g.group_id = b.group_id
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1 AND b.batch_id > $2 AND ($4::bigint IS NULL OR b.group_id = $4)
ORDER BY b.batch_id
LIMIT $3;

-- name: batch
SELECT b.batch_id, b.group_id, b.name, b.active, b.created_at
FROM batch AS b
JOIN tag_group AS g ON g.group_id = b.group_id
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1 AND b.batch_id = $2;

-- name: add_batch
INSERT INTO batch (group_id, name, active) VALUES ($1, $2, $3) RETURNING batch_id;

-- name: update_batch
UPDATE batch SET name = $2, active = $3 WHERE batch_id = $1;

-- name: delete_batch
WITH keys AS (DELETE FROM batch_key WHERE batch_id = $1)
DELETE FROM batch WHERE batch_id = $1;

-- name: batch_has_tags
SELECT EXISTS (SELECT FROM tag WHERE batch_id = $1);

-- name: lock_group
-- Keep a group and its masters as they are until the commit. $1 group.
SELECT group_id, derivation IS NOT NULL AS derives FROM tag_group WHERE group_id = $1 FOR SHARE;

-- name: lock_masters
-- Serialises changes of a group's masters with those of its tags. $1 group.
SELECT group_id FROM tag_group WHERE group_id = $1 FOR NO KEY UPDATE;

-- name: lock_batch
SELECT batch_id FROM batch WHERE batch_id = $1 FOR KEY SHARE;

-- name: tags_of_account
-- $1 account, $2 the id after which the page begins, $3 rows.
SELECT tag_id, xuid, uid, cuid, name, group_id, batch_id, active, assigned_at, rule_set, fields, originality, created_at
FROM tag
WHERE account_id = $1 AND tag_id > $2
ORDER BY tag_id
LIMIT $3;

-- name: tags_of_group
-- Like tags_of_account, with $4 group.
SELECT tag_id, xuid, uid, cuid, name, group_id, batch_id, active, assigned_at, rule_set, fields, originality, created_at
FROM tag
WHERE account_id = $1 AND group_id = $4 AND tag_id > $2
ORDER BY tag_id
LIMIT $3;

-- name: tags_of_batch
-- Like tags_of_account, with $4 batch.
SELECT tag_id, xuid, uid, cuid, name, group_id, batch_id, active, assigned_at, rule_set, fields, originality, created_at
FROM tag
WHERE account_id = $1 AND batch_id = $4 AND tag_id > $2
ORDER BY tag_id
LIMIT $3;

-- name: codes_with_prefix
-- $1 account or null for all, $2 begin (inclusive), $3 end (exclusive), $4 the code after which the page begins, $5 rows.
SELECT xuid
FROM tag
WHERE ($1::bigint IS NULL OR account_id = $1) AND xuid >= $2 AND xuid < $3 AND xuid > $4
ORDER BY xuid
LIMIT $5;

-- name: account_of_tag
-- The account of a tag code. $1 tag code.
SELECT a.account_id, a.aid FROM tag AS t JOIN account AS a ON a.account_id = t.account_id WHERE t.xuid = $1;

-- name: count_tags_of_account
-- The numbers of tags of several accounts. $1 accounts, $2 the number at which counting ends.
SELECT i.id, (SELECT count(*) FROM (SELECT FROM tag WHERE account_id = i.id LIMIT $2) AS counted) AS tags
FROM unnest($1::bigint[]) AS i (id);

-- name: count_tags_of_group
SELECT i.id, (SELECT count(*) FROM (SELECT FROM tag WHERE group_id = i.id LIMIT $2) AS counted) AS tags
FROM unnest($1::bigint[]) AS i (id);

-- name: count_tags_of_batch
SELECT i.id, (SELECT count(*) FROM (SELECT FROM tag WHERE batch_id = i.id LIMIT $2) AS counted) AS tags
FROM unnest($1::bigint[]) AS i (id);

-- name: tag_ids_of_account
-- The planner's estimate of this statement's rows is read; it is not executed. $1 account.
SELECT tag_id FROM tag WHERE account_id = $1;

-- name: tag_ids_of_group
SELECT tag_id FROM tag WHERE group_id = $1;

-- name: tag_ids_of_batch
SELECT tag_id FROM tag WHERE batch_id = $1;

-- name: tag_by_xuid
SELECT tag_id, xuid, uid, cuid, name, group_id, batch_id, active, assigned_at, rule_set, fields, originality, created_at
FROM tag
WHERE account_id = $1 AND xuid = $2;

-- name: tag_by_cuid
SELECT tag_id, xuid, uid, cuid, name, group_id, batch_id, active, assigned_at, rule_set, fields, originality, created_at
FROM tag
WHERE account_id = $1 AND cuid = $2;

-- name: tag_by_uid
SELECT tag_id, xuid, uid, cuid, name, group_id, batch_id, active, assigned_at, rule_set, fields, originality, created_at
FROM tag
WHERE account_id = $1 AND uid = $2;

-- name: update_tag
UPDATE tag
SET uid = $2, cuid = $3, name = $4, group_id = $5, batch_id = $6, active = $7, assigned_at = $8, rule_set = $9, fields = $10
WHERE tag_id = $1;

-- name: set_originality
-- $1 tag, $2 the result of verifying its signature or null, $3 the signature or null.
UPDATE tag SET originality = $2, originality_signature = $3 WHERE tag_id = $1;

-- name: delete_tag
-- Delete a tag with its keys and counter. A row of deleted_tag keeps its account, and how far its keys (its own, or the masters of
-- its group) were used. $1 tag.
-- The counter row is locked until the commit, so no tap can pass concurrently.
WITH counter AS (
    DELETE FROM tag_counter WHERE tag_id = $1 RETURNING last_position
), own AS (
    DELETE FROM tag_key WHERE tag_id = $1 RETURNING slot, version, check_value
), keys AS (
    SELECT version, check_value FROM own WHERE slot = 2
    UNION ALL
    SELECT k.version, k.check_value || decode(md5(k.derivation::text), 'hex')
    FROM group_key AS k
    JOIN tag AS t ON t.group_id = k.group_id
    WHERE t.tag_id = $1 AND NOT EXISTS (SELECT FROM own WHERE slot = 2)
), gone AS (
    DELETE FROM tag WHERE tag_id = $1 RETURNING tag_id, account_id, group_id, batch_id, xuid, uid
)
INSERT INTO deleted_tag (tag_id, account_id, group_id, batch_id, xuid, uid, last_position, key_versions, check_values)
SELECT tag_id, account_id, group_id, batch_id, xuid, uid, coalesce((SELECT last_position FROM counter), 0),
       coalesce((SELECT array_agg(version ORDER BY version, check_value) FROM keys), '{}'),
       coalesce((SELECT array_agg(check_value ORDER BY version, check_value) FROM keys), '{}')
FROM gone;

-- name: deleted_before
-- Deleted tags with these names. $1 account, $2 UIDs, $3 tag codes.
SELECT xuid, uid, last_position, key_versions, check_values
FROM deleted_tag
WHERE account_id = $1 AND (uid = ANY ($2::bytea[]) OR xuid = ANY ($3::text[]));

-- name: returned_tag
-- What determines whether taps of a deleted tag could pass as those of this tag. Keeps the group's masters as they are. $1 tag,
-- $2 slot of file keys: a tag with keys of its own is verified with them also in a group that derives keys.
SELECT t.xuid, t.uid, t.group_id,
       g.derivation IS NOT NULL AND NOT EXISTS (
           SELECT FROM tag_key WHERE tag_id = t.tag_id AND slot = $2 AND live
       ) AS derives,
       coalesce((SELECT last_position FROM tag_counter WHERE tag_id = t.tag_id), 0) AS last_position
FROM tag AS t
JOIN tag_group AS g ON g.group_id = t.group_id
WHERE t.tag_id = $1
FOR SHARE OF g;

-- name: returned_tags
-- Tags of a group without keys of their own, each with a deleted tag that had its UID or code and one of these masters. $1 account,
-- $2 group, $3 identities of masters, $4 slot of file keys.
WITH deleted AS MATERIALIZED (
    SELECT xuid, uid, last_position, key_versions, check_values
    FROM deleted_tag
    WHERE account_id = $1 AND last_position > 0 AND (check_values && $3::bytea[] OR key_versions = '{}')
)
SELECT t.tag_id, d.last_position, d.key_versions, d.check_values
FROM deleted AS d
CROSS JOIN LATERAL (
    SELECT tag_id, group_id FROM tag WHERE uid = d.uid AND uid IS NOT NULL AND account_id = $1
    UNION
    SELECT tag_id, group_id FROM tag WHERE xuid = d.xuid
) AS t
WHERE t.group_id = $2 AND NOT EXISTS (SELECT FROM tag_key WHERE tag_id = t.tag_id AND slot = $4 AND live);

-- name: masters_elsewhere
-- The masters of other groups of the account that a group has as well, like a row of deleted_tag. $1 account, $2 group, $3 last
-- position.
SELECT NULL::text AS xuid, NULL::bytea AS uid, $3::int AS last_position,
       coalesce(array_agg(k.version), '{}') AS key_versions,
       coalesce(array_agg(k.check_value || decode(md5(k.derivation::text), 'hex')), '{}') AS check_values
FROM group_key AS k
JOIN tag_group AS g ON g.group_id = k.group_id
JOIN folder AS f ON f.folder_id = g.folder_id
WHERE f.account_id = $1 AND k.group_id <> $2
  AND EXISTS (SELECT FROM group_key AS o
              WHERE o.group_id = $2 AND o.check_value = k.check_value AND o.derivation = k.derivation);

-- name: counter
-- `last_at` is null if no tap passed, or if an import raised the counter since. $1 tag.
SELECT scan_count, last_position, nullif(last_at, 'epoch') AS last_at FROM tag_counter WHERE tag_id = $1;

-- name: known_xuids
SELECT xuid FROM tag WHERE xuid = ANY ($1::text[]);

-- name: tag_keys
-- Keys of a tag without their envelopes. $1 tag, $2 slot.
SELECT version, live, check_value, created_at FROM tag_key WHERE tag_id = $1 AND slot = $2 ORDER BY version;

-- name: announce_keys
-- The lock that writing keys takes anyway, taken before they are sealed.
LOCK TABLE tag_key, meta_key, batch_key, group_key IN ROW EXCLUSIVE MODE;

-- name: add_tag_key
INSERT INTO tag_key (tag_id, slot, version, kek_id, wrapped, check_value) VALUES ($1, $2, $3, $4, $5, $6);

-- name: retire_tag_keys
-- $1 tag, $2 slot, $3 versions.
UPDATE tag_key SET live = false WHERE tag_id = $1 AND slot = $2 AND version = ANY ($3::smallint[]);

-- name: lock_tag
-- Serialises changes of a tag's keys.
SELECT tag_id FROM tag WHERE tag_id = $1 FOR NO KEY UPDATE;

-- name: lock_account
SELECT account_id FROM account WHERE account_id = $1 FOR NO KEY UPDATE;

-- name: meta_keys
SELECT version, live, check_value, created_at FROM meta_key WHERE account_id = $1 ORDER BY version;

-- name: batch_keys
-- Meta keys of a batch without their envelopes. $1 batch.
SELECT version, live, check_value, created_at FROM batch_key WHERE batch_id = $1 ORDER BY version;

-- name: add_batch_key
INSERT INTO batch_key (batch_id, version, kek_id, wrapped, check_value) VALUES ($1, $2, $3, $4, $5);

-- name: retire_batch_keys
-- $1 batch, $2 versions.
UPDATE batch_key SET live = false WHERE batch_id = $1 AND version = ANY ($2::smallint[]);

-- name: retire_meta_key
UPDATE meta_key SET live = false WHERE account_id = $1 AND version = $2;

-- name: api_keys
-- $1 account, $2 the id after which the page begins, $3 rows.
SELECT api_key_id, label, scopes, expires_at, revoked_at, created_at
FROM api_key
WHERE account_id = $1 AND api_key_id > $2
ORDER BY api_key_id
LIMIT $3;

-- name: api_key
SELECT api_key_id, label, scopes, expires_at, revoked_at, created_at FROM api_key WHERE account_id = $1 AND api_key_id = $2;

-- name: live_api_keys
SELECT count(*) FROM api_key WHERE account_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: update_api_key
UPDATE api_key SET label = $2, expires_at = $3 WHERE api_key_id = $1;

-- name: revoke_api_key
UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE api_key_id = $1;

-- name: tag_ids_of_xuid
-- The tag with this code, and deleted tags that had it. $1 account, $2 tag code.
SELECT tag_id FROM tag WHERE account_id = $1 AND xuid = $2
UNION ALL
SELECT tag_id FROM deleted_tag WHERE account_id = $1 AND xuid = $2;

-- name: scans
-- One window of the scan log, newest first. $1 account, $2 begin (inclusive), $3 end (exclusive), $4 verdict letters or null,
-- $5 to $7 the scan before which the page begins (at, scan id, tag id), $8 rows, $9 tags or null, $10 group or null, $11 batch or
-- null. Groups and batches are those in which the tags are now, or were when they were deleted. Scans of unknown tags have
-- neither.
SELECT s.at, s.scan_id, s.tag_id, s.position, s.verdict, s.reason, o.xuid
FROM scan_log AS s
CROSS JOIN LATERAL (
    SELECT xuid, group_id, batch_id FROM tag WHERE tag_id = s.tag_id AND account_id = $1
    UNION ALL
    SELECT xuid, group_id, batch_id FROM deleted_tag WHERE tag_id = s.tag_id AND account_id = $1
    UNION ALL
    SELECT NULL, NULL, NULL WHERE s.account_id = $1
) AS o
WHERE s.at >= $2 AND s.at < $3 AND (s.at, s.scan_id, s.tag_id) < ($5::timestamptz, $6::bigint, $7::bigint)
  AND ($4::text[] IS NULL OR s.verdict::text = ANY ($4::text[]))
  AND ($9::bigint[] IS NULL OR s.tag_id = ANY ($9::bigint[]))
  AND ($10::bigint IS NULL OR o.group_id = $10)
  AND ($11::bigint IS NULL OR o.batch_id = $11)
ORDER BY s.at DESC, s.scan_id DESC, s.tag_id DESC
LIMIT $8;

-- name: counts
-- Scans by verdict and by $7: hour, day, group, batch or tag. $1 account, $2 begin (inclusive), $3 end (exclusive), $4 group or
-- null, $5 tags or null, $6 maximum number of objects, $8 batch or null. Hours and days are in chronological order, the others
-- begin with the most scans. The object is null for scans of unknown tags and, by batch, of tags without one.
WITH owned AS (
    SELECT tag_id, group_id, batch_id, xuid FROM tag WHERE account_id = $1
    UNION ALL
    SELECT tag_id, group_id, batch_id, xuid FROM deleted_tag WHERE account_id = $1
), counted AS (
    SELECT s.tag_id, s.account_id, s.verdict, count(*) AS scans,
           CASE WHEN $7::text IN ('hour', 'day') THEN date_trunc($7::text, s.at, 'UTC') END AS begins
    FROM scan_log AS s
    WHERE s.at >= $2 AND s.at < $3 AND ($5::bigint[] IS NULL OR s.tag_id = ANY ($5::bigint[]))
    GROUP BY s.tag_id, s.account_id, s.verdict, begins
), summed AS (
    SELECT CASE $7::text
               WHEN 'hour' THEN to_char(c.begins AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"')
               WHEN 'day' THEN to_char(c.begins AT TIME ZONE 'UTC', 'YYYY-MM-DD')
               WHEN 'group' THEN o.group_id::text
               WHEN 'batch' THEN o.batch_id::text
               ELSE o.xuid
           END AS object,
           c.verdict, sum(c.scans)::bigint AS scans
    FROM counted AS c
    LEFT JOIN owned AS o ON o.tag_id = c.tag_id
    WHERE (o.tag_id IS NOT NULL OR c.account_id = $1)
      AND ($4::bigint IS NULL OR o.group_id = $4) AND ($8::bigint IS NULL OR o.batch_id = $8)
    GROUP BY object, c.verdict
), top AS (
    SELECT object, CASE WHEN $7::text IN ('hour', 'day') THEN 0 ELSE sum(scans) END AS scans
    FROM summed
    GROUP BY object
    ORDER BY 2 DESC, object
    LIMIT $6
)
SELECT s.object, s.verdict, s.scans
FROM summed AS s
JOIN top AS t ON coalesce(t.object, '') = coalesce(s.object, '')
ORDER BY t.scans DESC, s.object, s.verdict;

-- name: counts_by_country
-- Like counts, by the country of the visitor, as far as it was logged. Only hours are stored: that of the begin counts whole.
WITH owned AS (
    SELECT tag_id, group_id, batch_id FROM tag WHERE account_id = $1
    UNION ALL
    SELECT tag_id, group_id, batch_id FROM deleted_tag WHERE account_id = $1
), counted AS (
    SELECT v.tag_id, v.country, v.verdict, count(*) AS scans
    FROM visitor_country AS v
    WHERE v.at >= date_trunc('hour', $2::timestamptz, 'UTC') AND v.at < $3 AND ($5::bigint[] IS NULL OR v.tag_id = ANY ($5::bigint[]))
    GROUP BY v.tag_id, v.country, v.verdict
), summed AS (
    SELECT c.country, c.verdict, sum(c.scans)::bigint AS scans
    FROM counted AS c
    JOIN owned AS o ON o.tag_id = c.tag_id
    WHERE ($4::bigint IS NULL OR o.group_id = $4) AND ($7::bigint IS NULL OR o.batch_id = $7)
    GROUP BY c.country, c.verdict
), top AS (
    SELECT country, sum(scans) AS scans FROM summed GROUP BY country ORDER BY 2 DESC, country LIMIT $6
)
SELECT s.country AS object, s.verdict, s.scans
FROM summed AS s
JOIN top AS t ON t.country = s.country
ORDER BY t.scans DESC, s.country, s.verdict;
