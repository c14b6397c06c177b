-- name: fix_durability
-- A level set in the session is not affected by later reloads of the server's configuration. $1 names and $2 values of further
-- settings. Does nothing unless the session's process is $3 or that is null, and returns the process.
SELECT pg_backend_pid(),
       (
           SELECT count(set_config(name, value, false))
           FROM (
               SELECT 'synchronous_commit',
                      CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END
               UNION ALL
               SELECT * FROM unnest($1::text[], $2::text[])
           ) AS wanted (name, value)
           WHERE pg_backend_pid() = coalesce($3, pg_backend_pid())
       );

-- name: history
-- System identifier and timeline. While both stay the same, no commit can have been lost.
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
