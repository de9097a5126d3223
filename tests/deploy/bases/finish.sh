#!/bin/sh
# A hook of mmdebstrap, when everything is unpacked: packages are not configured, so the accounts
# are made here; and what no container of ours looks at goes, since an image is copied often.
set -eu
cd "$1"
for file in passwd group; do cp "usr/share/base-passwd/$file.master" "etc/$file"; done
echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >> etc/passwd
echo 'postgres:x:999:' >> etc/group
echo 'haproxy:x:998:998::/nonexistent:/bin/sh' >> etc/passwd
echo 'haproxy:x:998:' >> etc/group
rm -rf usr/share/doc usr/share/man usr/share/locale usr/lib/*/gconv usr/lib/postgresql/17/lib/bitcode \
    usr/lib/postgresql/17/lib/llvmjit* var/lib/apt var/cache/apt
# A container that may not write would compile the library anew at each start.
chroot . python3 -m compileall -q -j 0 usr/lib/python3.13
