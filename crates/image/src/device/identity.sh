#!/bin/sh
# Makes what belongs to one device only and is missing: ssh host keys and a host name. The machine
# id is made by systemd. Runs at each boot, before anybody needs it.
set -eu

# cloud-init, where it is installed, gives the name.
if [ "$(cat /etc/hostname)" = @UNNAMED@ ] && ! command -v cloud-init >/dev/null; then
    name=
    if [ -r @BOOT@/volary/settings ]; then
        name=$(sed -n 's/^name=//p' @BOOT@/volary/settings | tr -d '[:space:]')
    fi
    [ -n "$name" ] || name=@UNNAMED@-$(cut -c1-8 /etc/machine-id)
    echo "$name" >/etc/hostname.new
    mv /etc/hostname.new /etc/hostname
    echo "$name" >/proc/sys/kernel/hostname
    sync
fi

if command -v ssh-keygen >/dev/null; then
    ssh-keygen -A
    sync
fi
