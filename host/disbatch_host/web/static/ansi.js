// What a program printed as letters that look alike: colors as classes, all other control characters made visible. The
// server knows the same rules (pages/ansi.py). No document, no network.
const COLORS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"]
const SEQUENCE = /\x1b(?:\[([0-9;:]*)m|\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g
export const CUT = /^disbatch-host: \d+ bytes of output are left out here \(/

function applied(state, codes) {
  let { color, weight } = state
  const parts = codes.replaceAll(":", ";").split(";").map(one => Number(one) || 0)
  for (let n = 0; n < parts.length; n += 1) {
    const code = parts[n]
    if (code === 0) color = weight = ""
    else if (code === 1 || code === 2) weight = code === 1 ? "c-bold" : "c-dim"
    else if (code === 22) weight = ""
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) color = `c-${COLORS[code % 10]}`
    else if (code === 39) color = ""
    else if (code === 38 || code === 48) n += parts[n + 1] === 5 ? 2 : 4 // of many colors: passed over
  }
  return { color, weight }
}

export const PLAIN = Object.freeze({ color: "", weight: "" })

// How letters look after a text, from how they looked before it.
export function after(state, text) {
  for (const match of text.matchAll(SEQUENCE)) if (match[1] !== undefined) state = applied(state, match[1])
  return state
}

// [text, classes] of each run of letters.
export function runs(text, state, isPlain) {
  const found = []
  let at = 0
  const add = part => {
    const classes = isPlain ? "" : [state.color, state.weight].filter(Boolean).join(" ")
    if (part) found.push([part.replace(CONTROL, "\ufffd"), classes])
  }
  for (const match of text.matchAll(SEQUENCE)) {
    add(text.slice(at, match.index))
    if (match[1] !== undefined) state = applied(state, match[1])
    at = match.index + match[0].length
  }
  add(text.slice(at))
  return found
}

const lowered = text => text.replace(/[A-Z]/g, one => one.toLowerCase())

// The same, cut where a text is found in it: [text, classes, isFound].
export function marked(parts, wanted) {
  if (!wanted) return parts
  const whole = lowered(parts.map(([text]) => text).join("")), sought = lowered(wanted), found = []
  const hits = []
  for (let at = whole.indexOf(sought); at >= 0; at = whole.indexOf(sought, at + sought.length)) hits.push(at)
  let begin = 0
  for (const [text, classes] of parts) {
    const end = begin + text.length
    let at = begin
    for (const hit of hits) {
      const from = Math.max(at, hit), to = Math.min(end, hit + sought.length)
      if (from >= to) continue
      if (from > at) found.push([text.slice(at - begin, from - begin), classes, false])
      found.push([text.slice(from - begin, to - begin), classes, true])
      at = to
    }
    if (at < end) found.push([text.slice(at - begin), classes, false])
    begin = end
  }
  return found
}

// How many columns a line takes in a font of equal widths, about.
export function columns(text) {
  let count = 0
  for (const letter of text.replace(SEQUENCE, "")) {
    const code = letter.codePointAt(0)
    if (code === 9) count += 8 - (count % 8)
    else if (code >= 0x300 && code <= 0x36f) continue
    else count += code >= 0x1100 && (code <= 0x115f || code >= 0x2e80) ? 2 : 1
  }
  return count
}
