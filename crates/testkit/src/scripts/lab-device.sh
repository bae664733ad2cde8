# Runs one device until it is powered off. Started in a mount name space of its own, so that the
# overlay and the control group mount vanish with the last process of the device.
# arguments: LAB_CGROUP CGROUP_ROOT DEVICE LOWER FOLDER MACHINE BRIDGE
set -eu
lab=$1 cgroup_root=$2 device=$3 lower=$4 folder=$5 machine=$6 bridge=$7

echo $$ > "$lab/launch/cgroup.procs"
mkdir -p "$lab/$device" "$folder/merged"
upper=$folder/upper work=$folder/work
if [ -e "$folder/disk.img" ]; then
    # A disk of its own, also mounted in this name space only. What was put there before the first
    # boot moves onto it.
    mkdir -p "$folder/disk"
    mount -o loop "$folder/disk.img" "$folder/disk"
    [ -d "$folder/disk/upper" ] || cp -a "$folder/upper" "$folder/disk/upper"
    mkdir -p "$folder/disk/work"
    upper=$folder/disk/upper work=$folder/disk/work
fi
# "volatile" leaves out the flushes that only matter when this machine itself loses power. The
# marker it leaves would refuse the next mount after a power cut of the device.
rm -rf "$work/work/incompat"
mount -t overlay overlay "$folder/merged" \
    -o "lowerdir=$lower,upperdir=$upper,workdir=$work,volatile"
# systemd inside the device needs the unified hierarchy, whatever this machine uses itself.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
here=/sys/fs/cgroup${lab#"$cgroup_root"}/$device

export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
while :; do
    status=0
    sh -c 'echo $$ > "$0/cgroup.procs"; exec "$@"' "$here" \
        systemd-nspawn --quiet --boot --register=no --keep-unit \
        --machine="$machine" --hostname="$device" --directory="$folder/merged" \
        --network-bridge="$bridge" --resolv-conf=off --timezone=off --link-journal=no \
        --console=pipe || status=$?
    # 133 is how systemd-nspawn asks to be started again: the device reboots.
    [ "$status" = 133 ] || exit "$status"
done
