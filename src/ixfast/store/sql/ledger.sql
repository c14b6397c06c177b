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

-- name: advance_unheld
-- The same for a batch that ran into somebody's row lock (form B): held rows are skipped, not waited for.
-- Returns every tag whose row could be locked, with whether it advanced; a tag that is missing was held (or has no row).
WITH unheld AS MATERIALIZED (
    SELECT t.tag_id, t.last_position, t.scan_count, n.position, n.scan_id,
           (t.last_position < n.position OR (n.position < 0 AND t.last_scan_id <> n.scan_id)) AS advances
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
)
SELECT tag_id, last_position AS previous_position, scan_count + advances::int AS scan_count, advances FROM unheld;

-- name: floors
-- The durable state behind a refusal. $1 tag ids.
SELECT tag_id, last_position, previous_position, last_scan_id, scan_count,
       (extract(epoch FROM clock_timestamp() - last_at) * 1000)::bigint AS age_ms
FROM tag_counter
WHERE tag_id = ANY ($1::bigint[]);

-- name: logged_pass
-- Was this very scan accepted before others overtook it? $1 tag id, $2 scan id, $3 position, $4 seconds to look back.
SELECT EXISTS (
    SELECT FROM scan_log
    WHERE at > now() - make_interval(secs => $4::float8)
      AND tag_id = $1 AND scan_id = $2 AND verdict IN ('g', 'p') AND coalesce(position, -1) = $3
);

-- name: log_refusals
-- Best effort, off the path. $1 scan ids, $2 tag ids, $3 positions (-1 unknown), $4 verdict letters.
INSERT INTO scan_log (at, scan_id, tag_id, position, verdict)
SELECT now(), scan_id, tag_id, nullif(position, -1), verdict::"char"
FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[]) AS n (scan_id, tag_id, position, verdict);
