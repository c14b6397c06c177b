#!/bin/sh
# Runs once, when the database's volume is empty: creates the role and the database of ixfast, and denies network logins of
# the superuser. The password is passed in the environment, so that it does not appear in the process list.
set -eu

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
\getenv password POSTGRES_PASSWORD
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
CREATE ROLE ixfast LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE ixfast OWNER ixfast;
REVOKE ALL ON DATABASE ixfast FROM PUBLIC;
ALTER ROLE CURRENT_USER PASSWORD NULL;
SQL
