#!/bin/sh
# A hook of mmdebstrap, before packages are chosen: these are said to be there already, so that what
# depends on them is unpacked without them. PostgreSQL compiles no query without LLVM, and needs
# Debian's own cluster commands, which are Perl, for nothing that an entry point does.
set -eu
for name in libllvm19 perl perl-base postgresql-common postgresql-client-common \
    locales ssl-cert debconf adduser dpkg ucf; do
    printf 'Package: %s\nStatus: install ok installed\nVersion: 9999:1\nArchitecture: all\n' "$name"
    printf 'Multi-Arch: foreign\nMaintainer: tests\nDescription: not there\n\n'
done >> "$1/var/lib/dpkg/status"
