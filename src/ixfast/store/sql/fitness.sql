-- name: try_log
-- What a pass writes in addition to its counter. Rolled back.
INSERT INTO scan_log (at, scan_id, tag_id, position, verdict) VALUES (now(), 0, 0, NULL, 'p');

-- name: try_keyed
INSERT INTO keyed_scan (at, scan_id, tag_id, position, previous_position, scan_count) VALUES (now(), 0, 0, -1, 0, 0);

-- name: empty_disk_probe
-- Gives the table a new file, so that the next statement has to allocate new pages.
TRUNCATE room_probe;

-- name: fill_disk_probe
-- Allocates 64 kB, a page for each row.
INSERT INTO room_probe SELECT repeat('x', 700) FROM generate_series(1, 8);

-- name: envelopes
-- A few of the oldest and newest envelopes of live versions of each kind; what is retired is never opened. $1 number of each.
(SELECT t.account_id, k.tag_id, k.slot, k.version, k.kek_id, k.wrapped
 FROM tag_key AS k JOIN tag AS t ON t.tag_id = k.tag_id WHERE k.live ORDER BY k.tag_id, k.slot, k.version LIMIT $1)
UNION ALL
(SELECT t.account_id, k.tag_id, k.slot, k.version, k.kek_id, k.wrapped
 FROM tag_key AS k JOIN tag AS t ON t.tag_id = k.tag_id WHERE k.live ORDER BY k.tag_id DESC, k.slot DESC, k.version DESC LIMIT $1)
UNION ALL
(SELECT account_id, 0, 1, version, kek_id, wrapped FROM meta_key WHERE live ORDER BY account_id DESC, version DESC LIMIT $1)
UNION ALL
(SELECT f.account_id, k.batch_id, 4, k.version, k.kek_id, k.wrapped
 FROM batch_key AS k JOIN batch AS b ON b.batch_id = k.batch_id JOIN tag_group AS g ON g.group_id = b.group_id
 JOIN folder AS f ON f.folder_id = g.folder_id
 WHERE k.live ORDER BY k.batch_id DESC, k.version DESC LIMIT $1)
UNION ALL
(SELECT f.account_id, k.group_id, 3, k.version, k.kek_id, k.wrapped
 FROM group_key AS k JOIN tag_group AS g ON g.group_id = k.group_id JOIN folder AS f ON f.folder_id = g.folder_id
 WHERE k.live ORDER BY k.group_id DESC, k.version DESC LIMIT $1);

-- name: server
-- What `ixfast doctor` checks of a server and of its own role. `connections` are those that are not reserved for superusers.
SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
       pg_is_in_recovery() AS in_recovery,
       current_setting('transaction_read_only') = 'on' AS read_only,
       current_setting('fsync') = 'on' AS fsync,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0) AS connections,
       pg_backend_pid() AS pid,
       current_user::text AS role,
       current_schema()::text AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       ARRAY(
           SELECT relname::text
           FROM pg_class
           WHERE oid IN (to_regclass('scan_log'), to_regclass('keyed_scan'), to_regclass('visitor_country'),
                       to_regclass('tag_counter'), to_regclass('room_probe'))
             AND NOT pg_has_role(relowner, 'USAGE')
           ORDER BY relname
       ) AS not_owned;
