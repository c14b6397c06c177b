#!/bin/sh
# Creates the secrets for compose.yaml in the folder `secrets` beside it: the database's password, the connection string
# with that password, and the key-encryption key. Never overwrites existing files.
set -eu
cd "$(dirname "$0")"
image=${SERVER_IMAGE:-ixfast:0.1.0}
umask 077

if [ -e secrets ]; then
    echo "The folder secrets exists already; nothing was changed." >&2
    exit 1
fi
mkdir secrets
password=$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')
printf '%s' "$password" >secrets/database-password
printf 'postgresql://ixfast:%s@postgres:5432/ixfast' "$password" >secrets/ixfast-dsn

# The image creates the key file. It and the connection string must belong to the user that ixfast runs as.
docker run --rm --network none --user 0:0 --volume "$PWD/secrets:/secrets" --env IXFAST_DSN_FILE= \
    --entrypoint sh "$image" -c \
    'ixfast keys init --kek-file /secrets/ixfast-kek && chown 10001:10001 /secrets/ixfast-kek /secrets/ixfast-dsn'
echo "Back up secrets/ixfast-kek, apart from the backups of the database: without it every tag key is lost."
