#!/bin/sh
# What the public image's entry point does, as far as the compose file depends on it: begins as
# root, gives the folder to postgres, becomes it, and sets up behind a socket before it listens.
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres '{}' +
    exec setpriv --reuid=postgres --regid=postgres --clear-groups sh "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --auth=scram-sha-256 --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" > /dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -w -o "-c listen_addresses=''" start > /dev/null
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") \
        psql -q -U postgres -d postgres -c "create database \"$POSTGRES_DB\""
    pg_ctl -w stop > /dev/null
fi
exec postgres -c listen_addresses='*'
