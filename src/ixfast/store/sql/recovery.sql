-- What `ixfast recover-counters` asks after a failover (store/recovery.py): of the old primary, which is only read, and of the
-- current one, which keeps what it finds in temporary tables until it is written.

-- name: server
-- Which cluster, database and timeline this is. On a standby the timeline is that of its last checkpoint.
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
       pg_postmaster_start_time() AS started,
       EXISTS (SELECT FROM pg_stat_wal_receiver) AS follows,
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline,
       to_regclass('scan_log') IS NOT NULL AND to_regclass('tag') IS NOT NULL
           AND to_regclass('deleted_tag') IS NOT NULL AS has_schema;

-- name: only_one
-- False while another recovery works on this database; held until the connection ends.
SELECT pg_try_advisory_lock(115965834654583);

-- name: old_passes
-- Every accepted position, as it lies in the partitions: nearly in the order of time, and without a sort. $1 since, or null.
SELECT at, scan_id, tag_id, position
FROM scan_log
WHERE verdict = 'g' AND position IS NOT NULL AND ($1::timestamptz IS NULL OR at >= $1);

-- name: old_codes
-- The codes of tags, deleted ones included. $1 tag ids.
SELECT w.tag_id, coalesce(t.xuid, d.xuid) AS xuid
FROM unnest($1::bigint[]) AS w (tag_id)
LEFT JOIN tag AS t ON t.tag_id = w.tag_id
LEFT JOIN deleted_tag AS d ON d.tag_id = w.tag_id;

-- name: make_gap
-- `covered` has a partition to be logged in; `owner` is t for a tag and d for a deleted one, null if it is not the same tag here;
-- `resent` was committed here too, by a server that had got no reply; `again` was accepted here under another scan id.
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
-- Which of these passes are not logged here. What has no partition here may have been dropped with it, and counts only if it is
-- above the counter. $1 to $5 passes, the last whether there is a partition; $6 and $7 the span of those that have one.
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
-- $1 where to begin in the log of this server, whose clock may have been behind.
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
-- What is to be recovered, in the order in which rows are locked.
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

-- name: left_tags
-- Tags that are not the same here, and why. $1 how many.
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
-- $1 the last one done, $2 how many.
SELECT n, at, scan_id, tag_id, position, covered, xuid FROM todo WHERE n > $1 ORDER BY n LIMIT $2;

-- name: hold_counters
-- Locks the counters of these tags in ascending order, as the ledger does. $1 tag ids, $2 their codes.
SELECT c.tag_id, c.last_position
FROM tag_counter AS c
JOIN tag AS t ON t.tag_id = c.tag_id
WHERE c.tag_id = ANY ($1::bigint[]) AND t.tag_id = ANY ($1::bigint[])
  AND (t.tag_id, t.xuid) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
ORDER BY c.tag_id
FOR NO KEY UPDATE OF c;

-- name: hold_deleted
-- The same for tags that were deleted.
SELECT tag_id, last_position
FROM deleted_tag
WHERE tag_id = ANY ($1::bigint[]) AND (tag_id, xuid) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
ORDER BY tag_id
FOR NO KEY UPDATE;

-- name: recover
-- Raises counters that are held, and logs the passes, as if they had been accepted when they were. A counter that is as high
-- keeps what it says of its last scan. $1 to $5 passes, the last whether they can be logged.
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
