# Makes the root file systems whose differences are measured, each an ext4 of 1 GiB, in the current folder:
#   before   bookworm as it was released last
#   small    the same with the newest openssl and libssl3
#   security all that bookworm-security and -updates have, the kernel included
#   trixie   the next release
# The newest mke2fs makes them, from a tar in order of names: so files keep their places, as in
# the images that `volary image build` makes. TOOLS is a folder for it.
set -eu
# Where this machine gets its packages from.
uri() { # CODENAME
    apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Identifier: Packages' |
        awk -v codename="$1" '$1 == codename && !found { print $2; found = 1 }'
}
mirror=$(uri bookworm)
security=$(uri bookworm-security)
[ -n "$mirror" ] && [ -n "$security" ] || {
    echo "apt knows no archive of bookworm and bookworm-security: apt-get update, on Debian 12" >&2
    exit 1
}
packages=systemd,systemd-sysv,dbus,udev,kmod,iproute2,ifupdown,nftables,openssh-server,ca-certificates,curl
packages=$packages,python3,python3-apt,ansible-core,git,linux-image-cloud-amd64,initramfs-tools,less,nano
packages=$packages,sudo,cron,rsyslog,chrony,openssl,e2fsprogs
export SOURCE_DATE_EPOCH=1767225600
clean='rm -rf "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/*'

bootstrap() { # NAME SUITE SOURCES
    [ -e "$1.tar" ] || {
        printf '%s\n' "$3" >sources
        mmdebstrap --quiet --variant=minbase --format=tar --include="$packages" --customize-hook="$clean" \
            "$2" "$1.unfinished" sources
        mv "$1.unfinished" "$1.tar"
    }
}
all() { # SUITE
    printf 'deb %s %s main\ndeb %s %s-updates main\ndeb %s %s-security main' \
        "$mirror" "$1" "$mirror" "$1" "$security" "$1"
}

bootstrap before bookworm "deb $mirror bookworm main"
bootstrap security bookworm "$(all bookworm)"
bootstrap trixie trixie "$(all trixie)"
[ -e small.tar ] || {
    rm -rf tree && mkdir tree && tar -xpf before.tar -C tree
    all bookworm >tree/etc/apt/sources.list.d/newest.list
    cp /etc/resolv.conf tree/etc/resolv.conf
    chroot tree sh -c 'apt-get -qq update && apt-get -qq -y --no-install-recommends install libssl3 openssl' >/dev/null 2>&1
    rm -rf tree/etc/apt/sources.list.d/newest.list tree/etc/resolv.conf tree/var/lib/apt/lists/* tree/var/cache/apt/*.bin tree/var/cache/apt/archives/*.deb
    tar -C tree --numeric-owner --xattrs -cf small.unfinished .
    mv small.unfinished small.tar
    rm -rf tree
}
[ -x "$TOOLS/usr/sbin/mke2fs" ] || {
    rm -rf "$TOOLS"
    mmdebstrap --quiet --variant=apt --include=e2fsprogs,libarchive13t64 trixie "$TOOLS" "$mirror"
}
for name in before small security trixie; do
    [ -e "$name.ext4" ] && continue
    rm -rf tree && mkdir tree && tar -xpf "$name.tar" -C tree
    rm -f tree/etc/ssh/ssh_host_* tree/etc/apt/sources.list.d/0000* tree/var/lib/dpkg/*-old tree/var/cache/ldconfig/aux-cache
    find tree/var/log -type f -delete
    tar -C tree --sort=name --numeric-owner --xattrs --mtime=@$SOURCE_DATE_EPOCH --clamp-mtime -cf "$TOOLS/root.tar" .
    rm -rf tree "$TOOLS/root.ext4"
    truncate -s 1G "$TOOLS/root.ext4"
    uuid=0ab00000-0000-4000-8000-00000000000a
    chroot "$TOOLS" mke2fs -q -F -t ext4 -U $uuid -O ^orphan_file,^metadata_csum_seed -m 0 \
        -E hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d /root.tar /root.ext4 2>/dev/null
    rm "$TOOLS/root.tar"
    mv "$TOOLS/root.ext4" "$name.ext4"
done
