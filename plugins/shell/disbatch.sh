# shellcheck shell=sh
# Write a Disbatch plugin in sh or Bash: read the task, send events.
#
#     #!/bin/sh
#     . "$(dirname -- "$0")/disbatch.sh"
#     disbatch_read
#     disbatch_param name name || exit 2
#     disbatch_progress 0.5 'half of it'
#     echo "Hello, $name"
#     disbatch_result "$name"
#
# POSIX sh, awk and nothing else: copy this file beside your program. Oneshot mode only, because a shell has no good way to
# read a second task. Run by hand, without a host, events are shown on stderr. Bytes in a text that are not
# valid UTF-8 become U+FFFD in an event.
#
#   disbatch_read                                 read the task from standard input; call this first
#   disbatch_param VARIABLE NAME [DEFAULT]        set VARIABLE to a parameter: text, number, true or false. Fails, with a
#                                                 message, if it is missing without DEFAULT; lists and objects need jq:
#                                                 printf '%s' "$DISBATCH_TASK" | jq .parameters.list
#   disbatch_progress VALUE [MESSAGE]             progress, 0 to 1, or null
#   disbatch_log LEVEL MESSAGE [NAME TEXT]...     debug, info, warning or error; with fields
#   disbatch_status N                             fail with this status (2 and up), even with exit 0; 0 takes it back
#   disbatch_set NAME TEXT                        a free field of the task document
#   disbatch_set_json NAME JSON
#   disbatch_result TEXT [STATUS]                 the task's result; the last one counts. With STATUS, 2 and up, the task
#                                                 fails with it
#   disbatch_result_json JSON [STATUS]            JSON is sent unchanged: if it is invalid, so is the event
#   disbatch_error MESSAGE [CODE [RETRY [DETAIL]]]   the failure's reason; RETRY: true or false, whether to try again
#   disbatch_snooze SECONDS [MESSAGE]             with exit code 0: run again later, without using an attempt
#   disbatch_follow_up QUEUE [NAME TEXT]...       a task to create once this one has succeeded
#   disbatch_follow_up_json QUEUE JSON
#   disbatch_quote TEXT                           print TEXT as a JSON string

disbatch_read() {
    # shellcheck disable=SC2034  # for the plugin
    IFS= read -r DISBATCH_TASK || [ -n "${DISBATCH_TASK-}" ] || {
        echo 'expected the task as a line of JSON on standard input, found nothing' >&2
        return 1
    }
}

disbatch_param() {
    # The dot protects line ends at the end of the value, which $( ) would cut off.
    if _disbatch_value=$(printf '%s' "$DISBATCH_TASK" | LC_ALL=C awk -v name="$2" "$_disbatch_parameter"); then
        _disbatch_value=${_disbatch_value%.}
    elif [ $# -ge 3 ]; then
        _disbatch_value=$3
    else
        echo "expected a parameter \"$2\", found none" >&2
        return 1
    fi
    eval "$1=\$_disbatch_value"
}

disbatch_progress() {
    _disbatch_send "{\"type\":\"progress\",\"value\":${1:-null}$(_disbatch_more message "${2-}")}"
}

disbatch_log() {
    _disbatch_event="{\"type\":\"log\",\"level\":\"$1\",\"message\":$(disbatch_quote "$2")"
    shift 2
    [ $# -eq 0 ] || _disbatch_event="$_disbatch_event,\"fields\":$(_disbatch_object "$@")"
    _disbatch_send "$_disbatch_event}"
}

disbatch_status() {
    _disbatch_send "{\"type\":\"status\",\"status\":$1}"
}

disbatch_set() {
    disbatch_set_json "$1" "$(disbatch_quote "$2")"
}

disbatch_set_json() {
    _disbatch_send "{\"type\":\"set\",\"fields\":{$(disbatch_quote "$1"):$2}}"
}

disbatch_result() {
    disbatch_result_json "$(disbatch_quote "$1")" "${2-}"
}

disbatch_result_json() {
    _disbatch_send "{\"type\":\"result\",\"value\":$1${2:+,\"status\":$2}}"
}

disbatch_error() {
    _disbatch_event="{\"type\":\"error\",\"message\":$(disbatch_quote "$1")$(_disbatch_more code "${2-}")"
    [ -z "${3-}" ] || _disbatch_event="$_disbatch_event,\"retry\":$3"
    _disbatch_send "$_disbatch_event$(_disbatch_more detail "${4-}")}"
}

disbatch_snooze() {
    _disbatch_send "{\"type\":\"snooze\",\"seconds\":$1$(_disbatch_more message "${2-}")}"
}

disbatch_follow_up() {
    _disbatch_queue=$1
    shift
    disbatch_follow_up_json "$_disbatch_queue" "$(_disbatch_object "$@")"
}

disbatch_follow_up_json() {
    _disbatch_send "{\"type\":\"tasks\",\"tasks\":[{\"queue\":$(disbatch_quote "$1"),\"parameters\":$2}]}"
}

disbatch_quote() {
    printf '%s.' "$1" | LC_ALL=C awk "$_disbatch_quoting"
}

_disbatch_more() {
    [ -z "$2" ] || printf ',"%s":%s' "$1" "$(disbatch_quote "$2")"
}

_disbatch_object() {
    printf '{'
    _disbatch_comma=
    while [ $# -ge 2 ]; do
        printf '%s%s:%s' "$_disbatch_comma" "$(disbatch_quote "$1")" "$(disbatch_quote "$2")"
        _disbatch_comma=,
        shift 2
    done
    printf '}'
}

# A line is one write, so that two processes of a plugin cannot mix theirs; an event that cannot be sent fails nothing.
_disbatch_send() {
    if [ -n "${DISBATCH_EVENT_FD-}" ]; then
        printf '%s\n' "$1" >&3 || :  # under `set -e` as well
    else
        printf 'event: %s\n' "$1" >&2 || :
    fi
}

# Writes its input, without the dot at its end, as a JSON string. Line by line and in pieces, each printed at once: building
# one long string out of short ones takes quadratic time. With split, since awks differ in the meaning of backslashes
# in the replacement of gsub.
# shellcheck disable=SC2016  # awk
_disbatch_quoting='
BEGIN {
    piece_size = 4096
    for (code = 1; code < 32; code++)
        escape[sprintf("%c", code)] = sprintf("\\u%04x", code)
    escape["\t"] = "\\t"
    escape["\n"] = "\\n"
    escape["\r"] = "\\r"
    escape["\""] = "\\\""
    escape["\\"] = "\\\\"
    printf "\""
}

NR > 1 { quote(before "\n") }

{ before = $0 }

END {
    quote(substr(before, 1, length(before) - 1))
    printf "\""
}

function quote(line,    start, piece, size) {
    for (start = 1; start <= length(line); start += size) {
        piece = substr(line, start, piece_size)
        size = length(piece)
        # A character may extend past the end of a piece: it begins the next one.
        if (start + size <= length(line) && match(piece, /[\300-\377][\200-\277]?[\200-\277]?$/) && RSTART > 1) {
            size = RSTART - 1
            piece = substr(piece, 1, size)
        }
        quote_piece(piece ~ /[\200-\377]/ ? as_utf8(piece) : piece)
    }
}

function quote_piece(piece,    part, n, i, at) {
    n = split(piece, part, /[\001-\037"\\]/)
    printf "%s", part[1]
    at = length(part[1]) + 1
    for (i = 2; i <= n; i++) {
        printf "%s%s", escape[substr(piece, at, 1)], part[i]
        at += length(part[i]) + 1
    }
}

# Anything between well-formed characters is replaced, byte by byte; their first byte gives their length.
function as_utf8(piece,    part, n, i, at, lead, size, out) {
    n = split(piece, part, /[\302-\337][\200-\277]|\340[\240-\277][\200-\277]|[\341-\354\356\357][\200-\277][\200-\277]|\355[\200-\237][\200-\277]|\360[\220-\277][\200-\277][\200-\277]|[\361-\363][\200-\277][\200-\277][\200-\277]|\364[\200-\217][\200-\277][\200-\277]/)
    at = 1
    for (i = 1; i <= n; i++) {
        at += length(part[i])
        gsub(/[\200-\377]/, "\357\277\275", part[i])
        lead = substr(piece, at, 1)
        size = lead < "\340" ? 2 : lead < "\360" ? 3 : 4
        out = out part[i] (i < n ? substr(piece, at, size) : "")
        at += size
    }
    return out
}'

# Prints one parameter of the task document on standard input and a dot after it; exit 1: the task does not have it. It
# takes strings, numbers, true and false directly in "parameters"; lists, objects, null, and strings with a null
# character (which no shell can hold) count as missing. It expects well-formed JSON, which is what the host writes, as
# bytes.
# shellcheck disable=SC2016  # awk
_disbatch_parameter='
# Every record ends at a quote, so records alternate between text outside strings and text inside them.
BEGIN {
    RS = "\""
    too_long = sprintf("%1000s", "")  # stands for a key that nobody asks for; building such keys would take long
}

in_string {
    escaped = ends_with_escape($0)
    if (wanted)
        emit(unescape($0, escaped))
    else
        text = length(text) + length($0) < length(too_long) ? text unescape($0, escaped) : too_long
    if (!escaped) {
        in_string = 0
        wanted = 0
    }
    next
}

{
    read_structure($0)
    in_string = 1
    text = ""
}

END {
    if (!found || unusable)
        exit 1
    # In pieces, because building one long string out of short ones takes quadratic time.
    for (i = 1; i <= pieces; i++)
        printf "%s", piece[i]
    printf "."
}

# Follows braces and keys. Sets `wanted` to whether the string that begins after `chunk` is the requested value.
function read_structure(chunk,    i, c, after) {
    wanted = 0
    for (i = 1; i <= length(chunk); i++) {
        c = substr(chunk, i, 1)
        if (c == "{" || c == "[") {
            key[++depth] = ""
            wanted = 0
        } else if (c == "}" || c == "]") {
            depth--
        } else if (c == ":") {
            key[depth] = text
            wanted = !found && depth == 2 && key[1] == "parameters" && key[2] == name
            after = wanted ? substr(chunk, i + 1) : ""
            if (match(after, /^[ \t\r\n]*(true|false|-?[0-9][-+.0-9eE]*)/)) {
                after = substr(after, 1, RLENGTH)
                gsub(/[ \t\r\n]/, "", after)
                emit(after)
                wanted = 0
            }
        } else if (c == ",") {
            wanted = 0
        }
    }
}

# Whether the quote after `chunk` belongs to the string: an odd number of backslashes precedes it.
function ends_with_escape(chunk,    last, n) {
    last = length(chunk)
    for (n = 0; n < last && substr(chunk, last - n, 1) == "\\"; n++)
        ;
    return n % 2
}

function emit(value) {
    found = 1
    piece[++pieces] = value
}

# The text that a piece of a JSON string stands for; `quoted` says that an escaped quote ends it.
function unescape(chunk, quoted,    part, n, i, c, out, code, low) {
    if (quoted)
        chunk = substr(chunk, 1, length(chunk) - 1)
    n = split(chunk, part, /\\/)
    out = part[1]
    for (i = 2; i <= n; i++) {
        c = substr(part[i], 1, 1)
        if (c == "u") {
            code = hex(substr(part[i], 2, 4))
            low = code >= 55296 && code < 56320 ? hex(substr(part[i + 1], 2, 4)) : 0  # a pair: D800-DBFF, DC00-DFFF
            if (low >= 56320 && low < 57344) {
                code = 65536 + (code - 55296) * 1024 + low - 56320
                i++
            }
            out = out utf8(code) substr(part[i], 6)
        } else if (c == "") {  # two backslashes: plain text follows, up to the next one
            out = out "\\" part[++i]
        } else {
            out = out plain_escape(c) substr(part[i], 2)
        }
        if (wanted && length(out) > 4096) {
            emit(out)
            out = ""
        }
    }
    return out (quoted ? "\"" : "")
}

function plain_escape(c) {
    if (c == "n") return "\n"
    if (c == "t") return "\t"
    if (c == "r") return "\r"
    if (c == "b") return "\b"
    if (c == "f") return "\f"
    return c
}

function hex(digits,    i, value) {
    for (i = 1; i <= 4; i++)
        value = value * 16 + index("123456789abcdef", tolower(substr(digits, i, 1)))
    return value
}

function utf8(code) {
    if (code == 0 && wanted)
        unusable = 1
    if (code < 128)
        return code ? sprintf("%c", code) : ""
    if (code < 2048)
        return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
    if (code < 65536)
        return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
    return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64, 128 + int(code / 64) % 64,
                   128 + code % 64)
}'
