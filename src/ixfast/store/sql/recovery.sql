-- Statements of `ixfast recover-counters` (store/admin/recovery.py). The old primary is only read; on the current primary, the
-- passes found are kept in temporary tables until they are written.

-- name: server
-- Cluster, database and timeline of this server. On a standby the timeline is that of its last checkpoint.
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
       pg_postmaster_start_time() AS started,
       EXISTS (SELECT FROM pg_stat_wal_receiver) AS follows,
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline,
       to_regclass('scan_log') IS NOT NULL AND to_regclass('tag') IS NOT NULL
           AND to_regclass('deleted_tag') IS NOT NULL AS has_schema;

-- name: try_lock
-- False if another recovery is running on this database. The lock is held until the connection is closed.
SELECT pg_try_advisory_lock(115965834654583);

-- name: old_passes
-- Every accepted position in physical order, which is nearly chronological and needs no sort. $1 since, or null.
SELECT at, scan_id, tag_id, position
FROM scan_log
WHERE verdict = 'g' AND position IS NOT NULL AND ($1::timestamptz IS NULL OR at >= $1);

-- name: old_codes
-- The codes of tags, including deleted ones. $1 tag ids.
SELECT w.tag_id, coalesce(t.xuid, d.xuid) AS xuid
FROM unnest($1::bigint[]) AS w (tag_id)
LEFT JOIN tag AS t ON t.tag_id = w.tag_id
LEFT JOIN deleted_tag AS d ON d.tag_id = w.tag_id;

-- name: make_gap
-- `covered`: there is a partition to log the pass in. `owner`: t for a tag, d for a deleted tag, null if this server does not have
-- the same tag. `resent`: committed here too, by a server that got no reply. `again`: accepted here under another scan id.
CREATE TEMPORARY TABLE gap (
    at timestamptz NOT NULL,
    scan_id bigint NOT NULL,
    tag_id bigint NOT NULL,
    position int NOT NULL,
    covered boolean NOT NULL,
    xuid text,
    owner "char",
    resent boolean NOT NULL DEFAULT false,
    again boolean NOT NULL DEFAULT false
);

-- name: missing
-- The passes that are not logged here. A pass without a partition may have been dropped with it, so it is missing only if it is
-- above the counter. $1 to $5 passes, the last being `covered`; $6 and $7 the time span of the covered ones.
SELECT o.n
FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::int[], $5::boolean[])
     WITH ORDINALITY AS o (at, scan_id, tag_id, position, covered, n)
WHERE NOT EXISTS (
        SELECT FROM scan_log AS s
        WHERE s.at BETWEEN $6 AND $7 AND s.verdict = 'g'
          AND s.at = o.at AND s.scan_id = o.scan_id AND s.tag_id = o.tag_id)
  AND (o.covered OR NOT EXISTS (
        SELECT FROM tag_counter AS c
        WHERE c.tag_id = o.tag_id AND c.last_position >= o.position
        UNION ALL
        SELECT FROM deleted_tag AS d
        WHERE d.tag_id = o.tag_id AND d.last_position >= o.position));

-- name: add_to_gap
INSERT INTO gap (at, scan_id, tag_id, position, covered, xuid)
SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::int[], $5::boolean[], $6::text[]);

-- name: find_owners
UPDATE gap AS g
SET owner = CASE
    WHEN EXISTS (SELECT FROM tag AS t JOIN tag_counter AS c ON c.tag_id = t.tag_id
                 WHERE t.tag_id = g.tag_id AND t.xuid = g.xuid) THEN 't'
    WHEN EXISTS (SELECT FROM deleted_tag AS d WHERE d.tag_id = g.tag_id AND d.xuid = g.xuid) THEN 'd'
    END::"char";

-- name: gap_begins
SELECT min(at) FROM gap WHERE owner IS NOT NULL;

-- name: find_second_passes
-- $1 start time in the log of this server, whose clock may have been behind.
UPDATE gap AS g
SET resent = f.resent, again = f.again
FROM (
    SELECT lost.tag_id, lost.position, lost.scan_id,
           bool_or(s.scan_id = lost.scan_id) AS resent, bool_or(s.scan_id <> lost.scan_id) AS again
    FROM gap AS lost
    JOIN scan_log AS s ON s.tag_id = lost.tag_id AND s.position = lost.position
    WHERE s.at >= $1 AND s.verdict = 'g' AND lost.owner IS NOT NULL
    GROUP BY lost.tag_id, lost.position, lost.scan_id
) AS f
WHERE g.tag_id = f.tag_id AND g.position = f.position AND g.scan_id = f.scan_id;

-- name: make_todo
-- The passes to recover, in the order in which rows are locked.
CREATE TEMPORARY TABLE todo AS
SELECT row_number() OVER (ORDER BY tag_id, position) AS n, at, scan_id, tag_id, position, covered, xuid
FROM gap
WHERE owner IS NOT NULL AND NOT resent;

-- name: index_todo
CREATE INDEX ON todo (n);

-- name: totals
SELECT count(*) FILTER (WHERE NOT resent) AS lost,
       count(*) FILTER (WHERE resent) AS resent,
       count(*) FILTER (WHERE again AND NOT resent) AS accepted_again,
       (SELECT count(*) FROM todo) AS todo,
       (SELECT count(*)
        FROM (SELECT tag_id, max(position) AS position FROM todo GROUP BY tag_id) AS top
        JOIN tag_counter AS c ON c.tag_id = top.tag_id
        WHERE c.last_position < top.position) AS to_raise
FROM gap;

-- name: skipped_tags
-- Tags that this server does not have with the same id and code, and the reason. $1 maximum number of rows.
SELECT g.tag_id, g.xuid, count(*) AS passes,
       CASE WHEN g.xuid IS NULL THEN 'the old primary does not know its code'
            WHEN EXISTS (SELECT FROM tag AS t WHERE t.xuid = g.xuid AND t.tag_id <> g.tag_id) THEN 'it has another id here'
            WHEN EXISTS (SELECT FROM tag AS t WHERE t.xuid = g.xuid) THEN 'it has no counter here'
            WHEN EXISTS (SELECT FROM tag AS t WHERE t.tag_id = g.tag_id) THEN 'its id belongs to another tag here'
            ELSE 'it does not exist here' END AS reason
FROM gap AS g
WHERE g.owner IS NULL
GROUP BY g.tag_id, g.xuid
ORDER BY g.tag_id
LIMIT $1;

-- name: next_todo
-- $1 `n` of the last row done, $2 maximum number of rows.
SELECT n, at, scan_id, tag_id, position, covered, xuid FROM todo WHERE n > $1 ORDER BY n LIMIT $2;

-- name: lock_counters
-- Lock the counters of these tags in ascending order, as the ledger does. $1 tag ids, $2 their codes.
SELECT c.tag_id, c.last_position
FROM tag_counter AS c
JOIN tag AS t ON t.tag_id = c.tag_id
WHERE c.tag_id = ANY ($1::bigint[]) AND t.tag_id = ANY ($1::bigint[])
  AND (t.tag_id, t.xuid) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
ORDER BY c.tag_id
FOR NO KEY UPDATE OF c;

-- name: lock_deleted
-- Like lock_counters, for deleted tags.
SELECT tag_id, last_position
FROM deleted_tag
WHERE tag_id = ANY ($1::bigint[]) AND (tag_id, xuid) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
ORDER BY tag_id
FOR NO KEY UPDATE;

-- name: returned
-- Tags that have the UID or code of one of these deleted tags. $1 ids of deleted tags.
SELECT t.tag_id, t.account_id, t.xuid
FROM deleted_tag AS d
CROSS JOIN LATERAL (
    SELECT tag_id, account_id, xuid FROM tag WHERE uid = d.uid AND uid IS NOT NULL AND account_id = d.account_id
    UNION
    SELECT tag_id, account_id, xuid FROM tag WHERE xuid = d.xuid AND account_id = d.account_id
) AS t
WHERE d.tag_id = ANY ($1::bigint[]);

-- name: recover
-- Raise the locked counters and log the passes, as if they had been replicated. A counter that is already as high keeps its last
-- scan. $1 to $5 passes, the last being `covered`.
WITH lost AS (
    SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::int[], $5::boolean[])
                  AS l (at, scan_id, tag_id, position, covered)
), top AS (
    SELECT DISTINCT ON (tag_id) tag_id, at, scan_id, position,
           count(*) FILTER (WHERE covered) OVER (PARTITION BY tag_id) AS passes,
           lead(position, 1, 0) OVER (PARTITION BY tag_id ORDER BY position DESC, scan_id) AS below
    FROM lost
    ORDER BY tag_id, position DESC, scan_id
), raised AS (
    UPDATE tag_counter AS c
    SET previous_position = CASE WHEN c.last_position < top.position THEN greatest(c.last_position, top.below)
                                 ELSE c.previous_position END,
        last_scan_id = CASE WHEN c.last_position < top.position THEN top.scan_id ELSE c.last_scan_id END,
        last_at = CASE WHEN c.last_position < top.position THEN top.at ELSE c.last_at END,
        last_position = greatest(c.last_position, top.position),
        scan_count = c.scan_count + top.passes
    FROM top
    WHERE c.tag_id = top.tag_id AND c.tag_id = ANY ($3::bigint[]) AND (top.passes > 0 OR c.last_position < top.position)
), raised_deleted AS (
    UPDATE deleted_tag AS d
    SET last_position = top.position
    FROM top
    WHERE d.tag_id = top.tag_id AND d.tag_id = ANY ($3::bigint[]) AND d.last_position < top.position
)
INSERT INTO scan_log (at, scan_id, tag_id, position, verdict)
SELECT at, scan_id, tag_id, position, 'g' FROM lost WHERE covered;
