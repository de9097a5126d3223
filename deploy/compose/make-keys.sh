#!/bin/sh
# Make what is secret, once: a file that is there is never touched, so this runs at each start.
# What the service may have goes to /etc/keyturn; what only the database and `migrate` may have
# goes to /etc/keyturn-owner. Nothing is printed.
set -eu
umask 077
cd /etc/keyturn

# once FILE COMMAND...: the file holds what the command prints, all of it or nothing.
once() {
    file=$1
    shift
    [ -s "$file" ] && return
    "$@" > "$file.new"
    mv "$file.new" "$file"
}
password() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
address() { printf 'postgresql://%s:%s@db:5432/keyturn' "$1" "$(cat "$2")"; }

once root.key keyturn key generate --root
once operator.key keyturn key generate --operator
once first.key keyturn key generate
once service.password password
once worker.password password
once database.url address keyturn_service service.password
once worker.url address keyturn_finder worker.password

cd /etc/keyturn-owner
once password password
once owner.url address postgres password
# PostgreSQL's own image reads it as an account that is not ours; nobody else mounts this volume.
chmod 644 password
