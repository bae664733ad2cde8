#!/bin/sh
# Enrols the device with what lies in the folder volary of the boot partition, which any computer can
# write to: the file token (as "volary device token" prints it), or the file settings with lines
# KEY=VALUE: name, key, and without a token server and stage, with the files ca.pem and
# allowed_signers beside it. The token is removed once the device has its certificate.
set -eu

folder=@BOOT@/volary
name= key= server= stage=
if [ -e "$folder/settings" ]; then
    # Editors of other systems end lines with a carriage return.
    tr -d '\r' <"$folder/settings" >/run/volary-settings
    while IFS='=' read -r word value; do
        case "$word" in
            '' | '#'*) ;;
            name) name=$value ;;
            key) key=$value ;;
            server) server=$value ;;
            stage) stage=$value ;;
            *)
                echo "$folder/settings: the key \"$word\" is unknown; known are name, key, server, stage" >&2
                exit 1
                ;;
        esac
    done </run/volary-settings
fi
set --
[ -z "$name" ] || set -- "$@" --name "$name"
[ -z "$key" ] || set -- "$@" --key "$key"
if [ -e "$folder/token" ]; then
    set -- "$@" --token "$(tr -d '[:space:]' <"$folder/token")"
elif [ -e /etc/volary/enrolling.json ]; then
    :
elif [ -n "$server" ]; then
    set -- "$@" --server "$server" --stage "$stage" --ca "$folder/ca.pem" --signers "$folder/allowed_signers"
else
    echo "$folder has neither a token nor settings with a server" >&2
    exit 0
fi
volary-agent enroll "$@"
if [ -e "$folder/token" ]; then
    mount -o remount,rw @BOOT@
    rm "$folder/token"
    sync
    mount -o remount,ro @BOOT@
fi
