-- name: fix_durability
-- Set in the session, a level is not changed any more by a reload of the server's configuration.
SELECT set_config(
    'synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END,
    false
);

-- name: history
-- System identifier and timeline: both stay for as long as nothing that was committed can be lost.
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
