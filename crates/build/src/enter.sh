# Runs one command in a fresh view of the build chroot. The caller has put this process into new
# mount, process, IPC and host name namespaces (and without a network, if so wanted), so that
# everything here vanishes with it, however it ends.
#
# In the environment: LOWER (folders, first on top), UPPER, SCRATCH, ROOT, OPTIONS (more overlay
# options), NETWORK (on|off), RUN_AS (root|builder), BINDS (lines: ro|rw SOURCE TARGET),
# INSIDE (lines NAME=VALUE for the command), COMMAND (shell text to run inside, in the folder DIR),
# LIMITS (options of prlimit for the builder), HOST (the host's name inside).
#
# Exit status 125 means that the view could not be made; any other is the command's own.
set -eu
exec 2>&1 </dev/null
trap 'status=$?; [ "$entered" = yes ] || { [ $status = 0 ] || status=125; }; exit $status' EXIT
entered=no

mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$SCRATCH,$OPTIONS" "$ROOT"
mount -t proc -o nosuid,nodev,noexec proc "$ROOT/proc"
# The settings of the kernel open to root by its number alone, whatever capabilities it lacks.
for settings in sys sysrq-trigger; do
    [ -e "$ROOT/proc/$settings" ] || continue
    mount --bind "$ROOT/proc/$settings" "$ROOT/proc/$settings"
    mount -o remount,bind,ro,nosuid,nodev,noexec "$ROOT/proc/$settings"
done
# Some programs count processors there. A user namespace may refuse it, which they survive.
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$ROOT/sys" 2>/dev/null || true
mount -t tmpfs -o mode=755,nosuid,size=1m dev "$ROOT/dev"
for device in null zero full random urandom tty; do
    : >"$ROOT/dev/$device"
    mount --bind "/dev/$device" "$ROOT/dev/$device"
done
mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec devpts "$ROOT/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$ROOT/dev/shm"
ln -s pts/ptmx "$ROOT/dev/ptmx"
ln -s /proc/self/fd "$ROOT/dev/fd"
ln -s /proc/self/fd/0 "$ROOT/dev/stdin"
ln -s /proc/self/fd/1 "$ROOT/dev/stdout"
ln -s /proc/self/fd/2 "$ROOT/dev/stderr"
hostname "$HOST"

if [ "$NETWORK" = on ]; then
    # A link into another file system is followed by the mount; the base has an empty file there.
    [ ! -e /etc/resolv.conf ] || mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf"
else
    ip link set lo up
fi

echo "$BINDS" | while read -r mode source target; do
    [ -n "$mode" ] || continue
    mkdir -p "$ROOT$target"
    mount --bind "$source" "$ROOT$target"
    # A user namespace must repeat the flags that are locked; a plain remount does without them.
    [ "$mode" = rw ] || mount -o "remount,bind,ro,$LOCKED" "$ROOT$target"
done

set -- env -i
while IFS= read -r pair; do
    [ -z "$pair" ] || set -- "$@" "$pair"
done <<END
$INSIDE
END
set -- "$@" /bin/sh -c "cd $DIR && $COMMAND"
# By number, because this machine does not know the user of the chroot.
if [ "$RUN_AS" = builder ]; then
    chown -R -h 1000:1000 "$ROOT/build"
    # Not even a setuid program in the chroot gives the build more rights.
    # shellcheck disable=SC2086 # several options
    set -- prlimit $LIMITS --core=0 -- setpriv --no-new-privs chroot --userspec=1000:1000 --groups=1000 "$ROOT" "$@"
else
    # Scripts of packages are strangers' too: root keeps what installing takes, and not the rights
    # to mount, to make devices, to leave a chroot or to change the machine. The program that drops
    # them is the chroot's: it must run inside, and nothing but the base's maker has written there.
    known=$(chroot "$ROOT" setpriv --list-caps)
    drop=
    for right in $known; do
        case $right in
        chown | dac_override | fowner | fsetid | kill | setfcap | setgid | setpcap | setuid) ;;
        *) drop=$drop,-$right ;;
        esac
    done
    set -- chroot "$ROOT" setpriv --inh-caps=-all --bounding-set="${drop#,}" "$@"
fi
entered=yes
"$@"
