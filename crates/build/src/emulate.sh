# Lets programs of another architecture run in this user namespace and in no other, then becomes
# the command. In the environment: EMULATE (the line for the kernel), EMULATE_NAME (the emulator),
# EMULATE_AT (an empty folder).
#
# Exit status 125 means that it cannot be had.
set -eu
register() {
    mount -t binfmt_misc binfmt_misc "$EMULATE_AT" 2>/dev/null && printf '%s' "$EMULATE" >"$EMULATE_AT/register"
}
# Kernels before 6.7 know only what the machine as a whole has. F means that the emulator was opened
# outside, and is there in every chroot.
registered() {
    entry=/proc/sys/fs/binfmt_misc/$EMULATE_NAME
    grep -qsx enabled "$entry" && grep -qs '^flags:.*F' "$entry"
}
if ! register && ! registered; then
    echo "cannot register $EMULATE_NAME with the kernel: that needs Linux 6.7 or newer, or a machine that has" \
        "it registered already (apt-get install qemu-user-static binfmt-support)"
    exit 125
fi
exec "$@"
