-- name: grants
-- What `ixfast serve` and the commands of management need, for a role that owns nothing. Run by the owner of the tables, whose later
-- migrations then grant the same on new tables. {schema} and {role} are quoted identifiers.
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
REVOKE INSERT, UPDATE, DELETE ON {schema}.schema_migration FROM {role};
REVOKE UPDATE, DELETE ON {schema}.audit_log FROM {role};
GRANT TRUNCATE ON {schema}.room_probe TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
GRANT EXECUTE ON FUNCTION {schema}.spread_new_counters(boolean) TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {role};

-- name: identifiers
-- The schema of the tables and a role ($1), quoted. Null where there is none.
SELECT quote_ident(current_schema()) AS schema,
       (SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = $1) AS role;

-- name: missing
-- What this role may not do, although a server must: one line for each privilege.
SELECT what
FROM (
    SELECT format('%s on %s', privilege, relname) AS what
    FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind IN ('r', 'p') AND NOT relispartition
      AND NOT (relname = 'schema_migration' AND privilege <> 'SELECT')
      AND NOT (relname = 'audit_log' AND privilege IN ('UPDATE', 'DELETE'))
      AND NOT has_table_privilege(oid, privilege)
    UNION ALL
    SELECT 'TRUNCATE on room_probe' WHERE NOT has_table_privilege('room_probe', 'TRUNCATE')
    UNION ALL
    SELECT 'USAGE on ' || relname
    FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
      AND CASE WHEN relkind = 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') ELSE false END
    UNION ALL
    SELECT 'EXECUTE on spread_new_counters' WHERE NOT has_function_privilege('spread_new_counters(boolean)', 'EXECUTE')
    UNION ALL
    SELECT 'TEMPORARY on database ' || current_database()
    WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
) AS privileges
ORDER BY what;

-- name: role
-- This role, and what it may create and own. `owner` is null while there are no tables.
SELECT current_user::text AS role,
       current_database()::text AS database,
       current_schema()::text AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       (SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = current_database()) AS database_owner,
       (SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass('scan_log')) AS owner,
       (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('scan_log')) AS owns;
