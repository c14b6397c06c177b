-- name: announce
-- Note which keys a worker has open. $1 server, $2 worker, $3 host, $4 key file, $5 ids of the open keys, $6 id of the key that
-- seals, null if none does. The rows of servers that have been gone for a day are deleted on the way.
WITH gone AS (
    DELETE FROM key_holder WHERE at < now() - interval '1 day'
)
INSERT INTO key_holder (server, worker, host, address, key_file, kek_ids, current_id)
VALUES ($1, $2, $3, inet_client_addr(), $4, $5, $6)
ON CONFLICT (server, worker) DO UPDATE
SET host = excluded.host, address = excluded.address, key_file = excluded.key_file, kek_ids = excluded.kek_ids,
    current_id = excluded.current_id, at = now();

-- name: withdraw
-- A worker ends. $1 server, $2 worker.
DELETE FROM key_holder WHERE server = $1 AND worker = $2;

-- name: holders
-- The workers that have announced their keys and not expired. $1 seconds until an announcement expires.
SELECT server, worker, host, key_file, kek_ids, current_id
FROM key_holder
WHERE at > now() - make_interval(secs => $1::float8)
ORDER BY host, key_file, server, worker;

-- name: silent
-- Client addresses of other sessions of ixfast on this database that no announcement comes from: servers of a release that makes
-- none, or imports. Sessions whose address this role may not see are left out. $1 as above.
SELECT DISTINCT coalesce(host(a.client_addr), 'the database''s own host') AS address
FROM pg_stat_activity AS a
WHERE a.application_name = 'ixfast' AND a.datname = current_database() AND pg_has_role(a.usesysid, 'USAGE')
  AND a.client_addr IS DISTINCT FROM inet_client_addr()
  AND NOT EXISTS (
      SELECT FROM key_holder AS k
      WHERE k.address IS NOT DISTINCT FROM a.client_addr AND k.at > now() - make_interval(secs => $1::float8)
  )
ORDER BY address;
