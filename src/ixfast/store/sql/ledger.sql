-- name: advance
-- The ledger's statement (form A): raise the counters of a batch and log each pass, in one commit.
-- $1 tag ids, each once, ascending; $2 positions, -1 for a scan that is only counted; $3 scan ids.
-- Returns one row of three arrays, with an element each for every tag that advanced and none for a refused one, or three nulls: that
-- takes PostgreSQL and the worker less than a row for each tag.
-- Rows are locked in ascending order of tag_id even if the arrays are not sorted, because `session.PINNED` leaves the planner
-- no other join than a merge. ANY looks redundant, but keeps the join from reading the whole index, and lets a distributed table
-- prune its shards.
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
SELECT array_agg(tag_id), array_agg(previous_position), array_agg(scan_count) FROM advanced;

-- name: advance_keyed
-- The same for a batch that has scans with an Idempotency-Key (scan ids of 2^62 or more). A key that was used before advances
-- nothing, whatever tap it comes with. The first answer under a key is stored in the same commit.
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
SELECT array_agg(tag_id), array_agg(previous_position), array_agg(scan_count) FROM advanced;

-- name: advance_unheld
-- The same for any batch that timed out waiting for a row lock (form B): locked rows are skipped.
-- Returns every tag whose row could be locked, and whether it advanced. A missing tag is locked by another transaction, or has
-- no row.
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

-- name: bind_keys
-- Bind Idempotency-Keys to taps. $1 scan ids of 2^62 or more, each once, ascending, so that no two batches wait for each other;
-- $2 tag ids; $3 positions; $4 fingerprints. Returns what each key is bound to: the first tap stays. A key that another transaction
-- is binding is waited for, and its row is returned although the snapshot of this statement may not have it.
INSERT INTO keyed_tap AS k (scan_id, tag_id, position, fingerprint)
SELECT n.scan_id, n.tag_id, n.position, n.fingerprint
FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bigint[]) AS n (scan_id, tag_id, position, fingerprint)
ON CONFLICT (scan_id) DO UPDATE SET tag_id = k.tag_id
RETURNING k.scan_id, k.tag_id, k.position, k.fingerprint;

-- name: bindings
-- What Idempotency-Keys are bound to. $1 scan ids.
SELECT scan_id, tag_id, position, fingerprint FROM keyed_tap WHERE scan_id = ANY ($1::bigint[]);

-- name: clock
SELECT extract(epoch FROM clock_timestamp())::float8;

-- name: settle
-- Commit a transaction that changes no row, so that it waits for no lock.
SELECT pg_logical_emit_message(true, 'ixfast', '');

-- name: states
-- The durable state behind a refusal. $1 tag ids. `doubtful`: the database's clock was, or may have been, set back since then,
-- so that `age_ms` may be too small.
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
-- The scans among $1 (scan ids) that were accepted before others overtook them. $2 and $3 are the beginnings and ends of the
-- time spans in which that must have happened, in Unix seconds of the database's clock.
SELECT DISTINCT l.tag_id, l.scan_id
FROM unnest($2::float8[], $3::float8[]) AS span (earliest, latest),
     LATERAL (
         SELECT tag_id, scan_id FROM scan_log
         WHERE at BETWEEN to_timestamp(span.earliest) AND to_timestamp(span.latest)
           AND scan_id = ANY ($1::bigint[]) AND verdict IN ('g', 'p')
     ) AS l;

-- name: log_keyed_refusals
-- Log refused scans with an Idempotency-Key and the countries of their visitors: each tap under a key once, however often and
-- wherever it is sent again. $1 to $6 as for log_refusals; $7 marks, each once: the scan id or, for an unknown tag, whose tap is not
-- bound to the key, a number below 2^62; $8 fingerprints; $9 countries or nulls. Marks are set in ascending order, so that no two
-- batches deadlock. Those that were set before are only read, so that a tap that is sent again need not wait for this statement.
WITH refused AS (
    SELECT *
    FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[])
        AS n (scan_id, tag_id, position, verdict, reason, account_id, mark, fingerprint, country)
    WHERE (SELECT k.refused FROM keyed_tap AS k WHERE k.scan_id = n.mark) IS NOT TRUE
), marked AS (
    INSERT INTO keyed_tap AS k (scan_id, tag_id, position, fingerprint, refused)
    SELECT mark, tag_id, position, fingerprint, true FROM refused ORDER BY mark
    ON CONFLICT (scan_id) DO UPDATE SET refused = true WHERE NOT k.refused
    RETURNING k.scan_id AS mark
), located AS (
    INSERT INTO visitor_country (at, tag_id, verdict, country)
    SELECT date_trunc('hour', now(), 'UTC'), tag_id, verdict::"char", country
    FROM refused JOIN marked USING (mark)
    WHERE country IS NOT NULL
)
INSERT INTO scan_log (at, scan_id, tag_id, position, verdict, reason, account_id)
SELECT now(), scan_id, tag_id, nullif(position, -1), verdict::"char", reason, account_id
FROM refused JOIN marked USING (mark);

-- name: forget_keys
-- Forget the oldest bindings beyond their retention, a limited number at a time. $1 the retention in days.
DELETE FROM keyed_tap WHERE scan_id IN (
    SELECT scan_id FROM keyed_tap
    WHERE at < now() - make_interval(days => $1::int) ORDER BY at LIMIT 10000 FOR UPDATE SKIP LOCKED
);

-- name: log_refusals
-- Log refused scans, best effort, off the scan path. $1 scan ids, $2 tag ids, $3 positions (-1 unknown), $4 verdict letters,
-- $5 reasons or nulls, $6 the callers' accounts for unknown tags, else nulls.
INSERT INTO scan_log (at, scan_id, tag_id, position, verdict, reason, account_id)
SELECT now(), scan_id, tag_id, nullif(position, -1), verdict::"char", reason, account_id
FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::bigint[])
    AS n (scan_id, tag_id, position, verdict, reason, account_id);

-- name: log_countries
-- Log the countries of visitors, best effort, off the scan path. $1 tag ids, $2 verdict letters, $3 countries. The hour alone is
-- stored, so that a row does not lead to a scan.
INSERT INTO visitor_country (at, tag_id, verdict, country)
SELECT date_trunc('hour', now(), 'UTC'), tag_id, verdict::"char", country
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS n (tag_id, verdict, country);
