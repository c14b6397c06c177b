#!/bin/sh
# Runs once, when the database's volume is empty: the role and the database of ixfast, and no way in for the superuser
# from the network. The password comes through the environment, so that it stands in no list of processes.
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
