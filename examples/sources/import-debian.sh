#!/bin/sh
# Makes a git repository of a Debian source package, as a team has one that carries a package of
# Debian with changes of its own: upstream's files and debian/, its patches not applied.
#
#   import-debian.sh PACKAGE[=VERSION] DIR
#
# The source comes from the archives that this machine's apt uses, checked with their keys; the
# machine's own apt settings and lists stay as they are. The same package makes the same commit.
set -eu

say() {
    echo "import-debian: $1" >&2
}

[ $# = 2 ] || { say "usage: import-debian.sh PACKAGE[=VERSION] DIR"; exit 64; }
wanted=$1 target=$2
package=${wanted%%=*}
case $package in
'' | -* | *[!a-z0-9.+-]*) say "\"$package\" is no name of a source package"; exit 64 ;;
esac
case ${wanted#"$package"} in
*[!A-Za-z0-9.+~:=-]*) say "\"${wanted#*=}\" is no version"; exit 64 ;;
esac
[ ! -e "$target" ] || { say "$target is there already"; exit 73; }
for program in git dpkg-source apt-get; do
    command -v "$program" >/dev/null || { say "$program is missing; run: apt-get install git dpkg-dev"; exit 69; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt fetches as a user of its own, who must get in here.
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts" "$work/download"

# What the machine gets packages from, with a source line for each. Only what calls itself Debian:
# others often have no sources.
sources() {
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] && option="[signed-by=$keys] " || option=
    apt-get "$@" indextargets --format "deb-src $option\$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
        'Created-By: Packages' 'Origin: Debian' | sort -u
}
sources >"$work/sources.list"
if [ ! -s "$work/sources.list" ]; then
    # A machine whose package lists were cleaned away does not know yet who is Debian.
    apt-get -q -q -o Dir::State::lists="$work/lists" update
    sources -o Dir::State::lists="$work/lists" >"$work/sources.list"
fi
[ -s "$work/sources.list" ] || { say "apt of this machine has no archive of Debian"; exit 69; }

apt() {
    apt-get -q -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/parts" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
apt update
(cd "$work/download" && apt --only-source --download-only source "$wanted")
set -- "$work"/download/*.dsc
[ -f "$1" ] || { say "there is no source package $wanted"; exit 65; }
dpkg-source --no-check --skip-patches --extract "$1" "$work/tree" >/dev/null

cd "$work/tree"
version=$(dpkg-parsechangelog -S Version)
date=$(dpkg-parsechangelog -S Timestamp)
git init --quiet --initial-branch=master .
git -c core.autocrlf=false add --all --force .
GIT_AUTHOR_DATE="@$date +0000" GIT_COMMITTER_DATE="@$date +0000" \
    git -c user.name='Debian import' -c user.email=import@volary.invalid -c commit.gpgSign=false \
    commit --quiet -m "Import $package $version" -m "As it stands in Debian, with the patches of debian/ not applied."
cd - >/dev/null
mkdir -p "$(dirname "$target")"
mv "$work/tree" "$target"
echo "$package $version"
