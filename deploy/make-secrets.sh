#!/bin/sh
# Makes the secrets that compose.yaml names, once, in the folder `secrets` beside it: the database's password, the
# connection string with the same password, and the key-encryption key. Nothing that exists is overwritten.
set -eu
cd "$(dirname "$0")"
image=${IXFAST_IMAGE:-ixfast:0.1.0}
umask 077

if [ -e secrets ]; then
    echo "secrets exists already and is left as it is" >&2
    exit 1
fi
mkdir secrets
password=$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')
printf '%s' "$password" >secrets/database-password
printf 'postgresql://ixfast:%s@postgres:5432/ixfast' "$password" >secrets/ixfast-dsn

# The image makes the key file. It and the connection string belong to the user that ixfast runs as.
docker run --rm --network none --user 0:0 --volume "$PWD/secrets:/secrets" --env IXFAST_DSN_FILE= \
    --entrypoint sh "$image" -c \
    'ixfast keys init --kek-file /secrets/ixfast-kek && chown 10001:10001 /secrets/ixfast-kek /secrets/ixfast-dsn'
echo "Keep a copy of secrets/ixfast-kek apart from the backups of the database: without it every tag key is lost."
