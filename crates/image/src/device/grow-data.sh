#!/bin/sh
# Grows the data partition and its file system to the end of the disk. Runs at each boot: it does
# nothing where there is nothing to grow, and goes on where a power cut stopped it.
set -eu

part=$(readlink -f "$1")
sys=$(readlink -f "/sys/class/block/${part##*/}")
disk=/dev/$(basename "$(dirname "$sys")")
number=$(cat "$sys/partition")
end=$(($(cat "$sys/start") + $(cat "$sys/size")))
whole=$(cat "$sys/../size")

# 2 MiB: alignment and the second copy of a GPT.
if [ $((whole - end)) -gt 4096 ]; then
    if [ "$(sfdisk --list --quiet --output Device "$disk" >/dev/null && blkid -p -s PTTYPE -o value "$disk")" = gpt ]; then
        # The second copy lies where the image ended.
        sfdisk --quiet --relocate gpt-bak-std --no-reread --force "$disk"
    elif [ "$number" -gt 4 ]; then
        echo ', +' | sfdisk --quiet --no-reread --no-tell-kernel --force -N 4 "$disk"
    fi
    echo ', +' | sfdisk --quiet --no-reread --no-tell-kernel --force -N "$number" "$disk"
    partx --update --nr "$number" "$disk"
fi
exec resize2fs "$part"
