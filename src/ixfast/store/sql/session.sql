-- name: fix_durability
-- A level set in the session is not affected by later reloads of the server's configuration.
SELECT set_config(
    'synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END,
    false
);

-- name: history
-- System identifier and timeline. While both stay the same, no commit can have been lost.
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
