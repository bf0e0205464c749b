// Random pieces of a text, in any order and cut anywhere, against the text itself. Prints what is wrong.
import { readFileSync } from "node:fs"

const told = JSON.parse(readFileSync(0, "utf8"))
const { Lines } = await import(`${told.static}/lines.js`)
let seed = told.seed
const chance = below => { seed = (seed * 1103515245 + 12345) % 2147483648; return Math.floor((seed / 2147483648) * below) }
const encoder = new TextEncoder(), problems = []

function text(rounds) {
  let made = ""
  for (let n = 0; n < rounds; n += 1) made += ["a", "bc", "\n", "\n", "€", "\r\n", "\x1b[31m", "\x1b[0m", "long ".repeat(chance(30))][chance(9)]
  return made
}

function linesOf(lines) {
  const found = []
  for (const { item } of lines.entries) {
    if (!item.starts) { found.push(item.mark ?? `<${item.at}-${item.end}>`); continue }
    for (let line = 0; line < item.count; line += 1) {
      found.push(item.text(line)[0])
      const at = item.at + item.starts[line]
      if (item.lineAt(at) !== line) problems.push(`lineAt(${at}) is ${item.lineAt(at)}, not ${line}`)
    }
  }
  return found
}

function same(one, other, words) {
  if (JSON.stringify(one) !== JSON.stringify(other)) problems.push(`${words}: ${JSON.stringify(one).slice(0, 300)} is not ${JSON.stringify(other).slice(0, 300)}`)
}

for (let round = 0; round < told.rounds && !problems.length; round += 1) {
  const whole = text(chance(400) + 1), bytes = encoder.encode(whole), lines = new Lines([1, 20, 200, 65536][chance(4)])
  const expected = whole.replace(/\n$/, "").split("\n").map(one => one.replace(/\r$/, ""))
  lines.begin(1, chance(2) ? bytes.length : 0, "")
  const section = lines.last
  // In parts that overlap and come in any order; a jump ahead leaves a hole.
  for (let n = 0; n < 12; n += 1) {
    const at = chance(bytes.length), end = Math.min(bytes.length, at + chance(300) + 1)
    section.put(at, bytes.slice(at, end))
    if (!chance(4)) {
      lines.layout()
      lines.trim(0, 0, chance(bytes.length), 1e6)
    }
    let place = 0
    for (const item of section.items) {
      if (item.at !== place) problems.push(`a hole that nobody knows of before ${item.at}, expected ${place}`)
      place = item.end
    }
    if (place !== section.size) problems.push(`the items end at ${place}, the section at ${section.size}`)
    section.items.forEach((item, n) => {
      const next = section.items[n + 1]
      if (item.starts && next?.starts && item.isOpen) problems.push("a line is in two pieces")
      if (item.starts && JSON.stringify([...item.bytes.subarray(0, item.length)]) !== JSON.stringify([...bytes.subarray(item.at, item.end)])) problems.push("other bytes")
    })
  }
  for (let at = 0; at < bytes.length; at += 50) section.put(at, bytes.slice(at, at + 70))
  lines.layout()
  same(linesOf(lines), expected, "lines")
  same(section.items.map(one => one.first), section.items.reduce((found, one) => [...found, found.length ? found.at(-1) + section.items[found.length - 1].count : 1], []), "numbers")
  lines.layout(10)
  let row = 0
  for (const { item } of lines.entries) {
    for (let line = 0; line < item.count; line += 1) {
      const found = lines.at(row)
      if (found.entry.item !== item || found.line !== line || found.row !== row) problems.push(`row ${row}: line ${found.line} at ${found.row}, not ${line}`)
      if (lines.rowOf(section, item.at + item.starts[line]) !== row) problems.push(`rowOf is ${lines.rowOf(section, item.at + item.starts[line])}, not ${row}`)
      row += item.rows[line]
    }
  }
  if (row !== lines.rows) problems.push(`${row} rows, not ${lines.rows}`)
  // Colors go on from line to line, whatever pieces they are in.
  let color = ""
  const colors = whole.replace(/\n$/, "").split("\n").map(one => { const now = color; for (const code of one.match(/\x1b\[31m|\x1b\[0m/g) ?? []) color = code === "\x1b[0m" ? "" : "c-red"; return now })
  same(section.items.flatMap(item => item.starts.map((_, line) => item.stateAt(line).color)), colors, "colors")
}
console.log(JSON.stringify(problems.slice(0, 5)))
