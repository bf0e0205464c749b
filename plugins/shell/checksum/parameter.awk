# Prints one parameter of the task document on standard input, for shell plugins on machines without jq.
#
#   LC_ALL=C awk -v name=path -f parameter.awk    exit 0: printed, and a "." after it; exit 1: the task does not have it
#
# Rules:
# 1. It takes strings, numbers, true and false directly in "parameters". Lists, objects, null, and strings
#    with a null character (which no shell can hold) count as missing. For those, and for more than a few parameters,
#    use jq.
# 2. It expects well-formed JSON, which is what the host writes, and does not report anything else.
# 3. It works on bytes, hence LC_ALL=C. The "." protects line ends at the end of a value from the shell's $( ).

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
}
