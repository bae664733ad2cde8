# Takes down a lab: every process in its control group, its bridge, its folder.
# Runs when a lab ends, and as the guardian's last act when the lab's owner died.
# Everything here may be gone already; that is fine.
# arguments: CGROUP BRIDGE FOLDER
set -u
cgroup=$1 bridge=$2 folder=$3

if [ -d "$cgroup" ]; then
    # Again and again: whoever runs the lab may still be starting something.
    tries=0
    while echo 1 2>/dev/null > "$cgroup/cgroup.kill" &&
        grep -q 'populated 1' "$cgroup/cgroup.events" 2>/dev/null && [ $tries -lt 400 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null
fi
# The kernel takes its time with the network of a dead device, and its end here keeps the name.
for link in /sys/class/net/"$bridge"/brif/*; do
    ip link delete "${link##*/}" 2>/dev/null
done
ip link delete "$bridge" 2>/dev/null
# Overlays were mounted in the name spaces of the processes that are dead now, so nothing is
# mounted below; --one-file-system makes sure that nothing else is ever removed.
rm -rf --one-file-system "$folder"
[ ! -e "$folder" ] && [ ! -d "$cgroup" ]
