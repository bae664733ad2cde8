# Finishes a new chroot, whose folder is $1: mmdebstrap runs this as its last hook. $cross is the
# architecture that it compiles for, if that is another one.
set -eu
if [ -n "$cross" ]; then
    # C++ programs are linked with the other architecture's own library; which one goes with the
    # compiler has its version in its name.
    compiler=$(chroot "$1" dpkg-architecture -a "$cross" -q DEB_HOST_GNU_TYPE)-g++
    version=$(chroot "$1" "$compiler" -dumpversion)
    chroot "$1" apt-get install -q -y "libstdc++-$version-dev:$cross"
fi
chroot "$1" groupadd --gid 1000 builder
chroot "$1" useradd --uid 1000 --gid 1000 --home-dir /build --no-create-home --shell /bin/sh builder
mkdir -m 755 "$1/build"
# Packages that are installed to build with must not start services.
printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
chmod 755 "$1/usr/sbin/policy-rc.d"
# The same on every machine; the real resolv.conf is laid over it while apt works.
printf '127.0.0.1 localhost builder\n::1 localhost builder\n' >"$1/etc/hosts"
echo builder >"$1/etc/hostname"
rm -f "$1/etc/resolv.conf"
: >"$1/etc/resolv.conf"
# Nobody reads manuals here, and indexing them takes longer than unpacking.
echo 'man-db man-db/auto-update boolean false' | chroot "$1" debconf-set-selections
# The package lists stay, so that a build need not fetch them; their cache too.
chroot "$1" apt-cache gencaches
