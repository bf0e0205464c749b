#!/bin/sh
# Prints the checksum of a file, or compares it with the expected one.
# Exit 3: the file cannot be read. Exit 4: its checksum differs.

export LC_ALL=C

task=$(cat)  # several parameters are read from it, but standard input can be read only once

# Sets `value` to the parameter $1, or fails if the task does not have it.
parameter() {
    value=$(printf '%s' "$task" | awk -v name="$1" -f "$(dirname -- "$0")/parameter.awk") || return
    value=${value%.}
}

parameter path || {
    echo 'checksum: expected a parameter "path", found none; write {"path": "some/file"}' >&2
    exit 2
}
path=$value
# The host fills in the schema's default; a run by hand does not.
parameter algorithm && algorithm=$value || algorithm=sha256
parameter expect && expect=$(printf '%s' "$value" | tr A-F a-f) || expect=

case $algorithm in
    md5 | sha1 | sha256 | sha512) ;;
    *)
        echo "checksum: expected md5, sha1, sha256 or sha512 as \"algorithm\", found $algorithm" >&2
        exit 2
        ;;
esac

# From standard input, because names with a backslash or a line end would be quoted in the output.
sum=$("${algorithm}sum" <"$path") || exit 3
sum=${sum%% *}

printf '%s  %s\n' "$sum" "$path"

# Descriptor 3 takes the result as data. Without a host, the variable is not set and nothing is sent.
if [ -n "${DISBATCH_EVENT_FD-}" ]; then
    { printf '{"type":"result","value":{"algorithm":"%s","sum":"%s"}}\n' "$algorithm" "$sum" >&3; } 2>/dev/null
fi

if [ -n "$expect" ] && [ "$sum" != "$expect" ]; then
    echo "checksum: expected $algorithm $expect of $path, found $sum" >&2
    exit 4
fi
exit 0
