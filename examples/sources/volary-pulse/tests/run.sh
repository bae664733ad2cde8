#!/bin/sh
# Tests the program from outside, as its users see it.
set -eu
program=$PWD/volary-pulse
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"

fail() {
    echo "FAIL: $1"
    exit 1
}

cat >good.conf <<END
# comment
interval = 60
message = hello  world
END
# Only where a second measurement is waited for: on a busy machine a second is short.
sed 's/60/1/' good.conf >quick.conf

pulse() {
    "$program" --config good.conf --status status "$@"
}

[ "$("$program" --version)" = "volary-pulse $VERSION" ] || fail "--version says the package's version"

pulse --once || fail "one measurement"
grep -Eq '^version=[^ ]+ boot_s=[0-9]+ uptime_s=[0-9]+ interval_s=60 beats=1 ' status || fail "the fields: $(cat status)"
grep -q ' message="hello  world"$' status || fail "the message: $(cat status)"
[ ! -e status.new ] || fail "no temporary file stays"
pulse --check >/dev/null || fail "a new measurement is fresh"

echo 'version=1 boot_s=1 uptime_s=1 interval_s=1 beats=1' >status
! pulse --check 2>/dev/null || fail "an old measurement is stale"
echo garbage >status
! pulse --check 2>/dev/null || fail "garbage is no measurement"
rm status
! pulse --check 2>/dev/null || fail "no measurement is not fresh"

for line in 'interval = 0' 'interval = soon' 'intervall = 1' 'interval' 'message = a "b"'; do
    echo "$line" >bad.conf
    status=0
    "$program" --config bad.conf --status status --once 2>/dev/null || status=$?
    [ "$status" = 78 ] || fail "the setting \"$line\" is refused (got $status)"
done

"$program" --config quick.conf --status status &
pid=$!
tries=0
until grep -q ' beats=2 ' status 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || fail "a second measurement comes"
    sleep 0.1
done
kill "$pid"
wait "$pid" || fail "it ends well when asked to"
pid=
[ ! -e status ] || fail "the status goes with the service"
echo "all tests passed"
