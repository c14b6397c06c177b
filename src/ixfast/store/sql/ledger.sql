-- name: advance
-- The ledger's statement (form A): raise the counters of a batch and log each pass, in one commit.
-- $1 tag ids, each once, ascending; $2 positions, -1 for a scan that is only counted; $3 scan ids.
-- Returns one row for each tag that advanced and none for a refused one.
-- The redundant-looking ANY makes row locks follow the index and lets a distributed table prune its shards.
WITH advanced AS (
    UPDATE tag_counter AS c
    SET previous_position = c.last_position,
        last_position = greatest(c.last_position, n.position),
        last_scan_id = n.scan_id,
        scan_count = c.scan_count + 1,
        last_at = now()
    FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS n (tag_id, position, scan_id)
    WHERE c.tag_id = n.tag_id
      AND c.tag_id = ANY ($1::bigint[])
      AND (c.last_position < n.position OR (n.position < 0 AND c.last_scan_id <> n.scan_id))
    RETURNING c.tag_id, c.previous_position, c.scan_count, n.scan_id, n.position
), logged AS (
    INSERT INTO scan_log (at, scan_id, tag_id, position, verdict)
    SELECT now(), scan_id, tag_id, nullif(position, -1), CASE WHEN position < 0 THEN 'p' ELSE 'g' END::"char"
    FROM advanced
)
SELECT tag_id, previous_position, scan_count FROM advanced;

-- name: advance_keyed
-- The same for a batch in which scans have an Idempotency-Key (scan ids of 2^62 or more). A key that was used already advances
-- nothing, whatever tap it comes with; the first answer under a key is kept in the same commit.
WITH advanced AS (
    UPDATE tag_counter AS c
    SET previous_position = c.last_position,
        last_position = greatest(c.last_position, n.position),
        last_scan_id = n.scan_id,
        scan_count = c.scan_count + 1,
        last_at = now()
    FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS n (tag_id, position, scan_id)
    WHERE c.tag_id = n.tag_id
      AND c.tag_id = ANY ($1::bigint[])
      AND (c.last_position < n.position OR (n.position < 0 AND c.last_scan_id <> n.scan_id))
      AND (n.scan_id < 4611686018427387904
           OR (SELECT count(*) FROM keyed_scan AS k WHERE k.scan_id = n.scan_id) = 0)
    RETURNING c.tag_id, c.previous_position, c.scan_count, n.scan_id, n.position
), logged AS (
    INSERT INTO scan_log (at, scan_id, tag_id, position, verdict)
    SELECT now(), scan_id, tag_id, nullif(position, -1), CASE WHEN position < 0 THEN 'p' ELSE 'g' END::"char"
    FROM advanced
), kept AS (
    INSERT INTO keyed_scan (at, scan_id, tag_id, position, previous_position, scan_count)
    SELECT now(), scan_id, tag_id, position, previous_position, scan_count
    FROM advanced
    WHERE scan_id >= 4611686018427387904
)
SELECT tag_id, previous_position, scan_count FROM advanced;

-- name: advance_unheld
-- The same for any batch that ran into somebody's row lock (form B): held rows are skipped, not waited for.
-- Returns every tag whose row could be locked, with whether it advanced; a tag that is missing was held (or has no row).
WITH unheld AS MATERIALIZED (
    SELECT t.tag_id, t.last_position, t.scan_count, n.position, n.scan_id,
           (t.last_position < n.position OR (n.position < 0 AND t.last_scan_id <> n.scan_id))
           AND (n.scan_id < 4611686018427387904
                OR (SELECT count(*) FROM keyed_scan AS k WHERE k.scan_id = n.scan_id) = 0) AS advances
    FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS n (tag_id, position, scan_id),
         LATERAL (SELECT * FROM tag_counter AS c WHERE c.tag_id = n.tag_id FOR NO KEY UPDATE SKIP LOCKED) AS t
), advanced AS (
    UPDATE tag_counter AS c
    SET previous_position = u.last_position,
        last_position = greatest(u.last_position, u.position),
        last_scan_id = u.scan_id,
        scan_count = c.scan_count + 1,
        last_at = now()
    FROM unheld AS u
    WHERE c.tag_id = u.tag_id AND c.tag_id = ANY ($1::bigint[]) AND u.advances
), logged AS (
    INSERT INTO scan_log (at, scan_id, tag_id, position, verdict)
    SELECT now(), scan_id, tag_id, nullif(position, -1), CASE WHEN position < 0 THEN 'p' ELSE 'g' END::"char"
    FROM unheld
    WHERE advances
), kept AS (
    INSERT INTO keyed_scan (at, scan_id, tag_id, position, previous_position, scan_count)
    SELECT now(), scan_id, tag_id, position, last_position, scan_count + 1
    FROM unheld
    WHERE advances AND scan_id >= 4611686018427387904
)
SELECT tag_id, last_position AS previous_position, scan_count + advances::int AS scan_count, advances FROM unheld;

-- name: clock
SELECT extract(epoch FROM clock_timestamp())::float8;

-- name: settle
-- A transaction that changes nothing but has a commit: no row, so that nobody waits for a lock.
SELECT pg_logical_emit_message(true, 'ixfast', '');

-- name: states
-- The durable state behind a refusal. $1 tag ids. `doubtful`: the database's clock was stepped back since, or may have been, so
-- that `age_ms` may be too small.
SELECT c.tag_id, c.last_position, c.previous_position, c.last_scan_id, c.scan_count,
       (extract(epoch FROM clock_timestamp() - c.last_at) * 1000)::bigint AS age_ms,
       c.last_at <= s.doubtful_until OR clock_timestamp() < s.clock_high - interval '500 ms' AS doubtful
FROM tag_counter AS c
CROSS JOIN database_state AS s
WHERE c.tag_id = ANY ($1::bigint[]);

-- name: keyed
-- First answers. $1 scan ids, all of 2^62 or more.
SELECT scan_id, tag_id, position, previous_position, scan_count, extract(epoch FROM at)::float8 AS at
FROM keyed_scan
WHERE scan_id = ANY ($1::bigint[]);

-- name: logged
-- Which of these scans were accepted before others overtook them? $1 scan ids; $2 and $3 spans of time in which that must have
-- been, side by side, as the database's clock showed it (Unix seconds).
SELECT DISTINCT l.tag_id, l.scan_id
FROM unnest($2::float8[], $3::float8[]) AS span (earliest, latest),
     LATERAL (
         SELECT tag_id, scan_id FROM scan_log
         WHERE at BETWEEN to_timestamp(span.earliest) AND to_timestamp(span.latest)
           AND scan_id = ANY ($1::bigint[]) AND verdict IN ('g', 'p')
     ) AS l;

-- name: log_refusals
-- Best effort, off the path. $1 scan ids, $2 tag ids, $3 positions (-1 unknown), $4 verdict letters.
INSERT INTO scan_log (at, scan_id, tag_id, position, verdict)
SELECT now(), scan_id, tag_id, nullif(position, -1), verdict::"char"
FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[]) AS n (scan_id, tag_id, position, verdict);
