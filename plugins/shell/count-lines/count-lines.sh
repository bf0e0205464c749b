#!/bin/sh
# Counts the lines, words and bytes of a file. Exit 3: the file cannot be read.

export LC_ALL=C  # words are separated by blanks, whatever the file's encoding

path=$(awk -v name=path -f "$(dirname -- "$0")/parameter.awk") || {
    echo 'count-lines: expected a parameter "path", found none; write {"path": "some/file"}' >&2
    exit 2
}
path=${path%.}

# wc's own message, or the shell's, says why a file cannot be read. "-lwc" prints in the order lines, words, bytes.
counts=$(wc -lwc <"$path") || exit 3
read -r lines words bytes <<END
$counts
END

printf '%s: %s lines, %s words, %s bytes\n' "$path" "$lines" "$words" "$bytes"

# Descriptor 3 takes the result as data. Without a host, the variable is not set and nothing is sent.
if [ -n "${DISBATCH_EVENT_FD-}" ]; then
    { printf '{"type":"result","value":{"lines":%s,"words":%s,"bytes":%s}}\n' "$lines" "$words" "$bytes" >&3; } 2>/dev/null
fi
exit 0  # an event that could not be sent is not a failure
