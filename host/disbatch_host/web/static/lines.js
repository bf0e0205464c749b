// The output of a task as far as it is here: bytes in pieces, lines in each of them, holes for what is not here. No
// document, no network.
//
// Rules:
// 1. The items of a section cover all of its bytes, from the first to the last that is known of.
// 2. A piece begins where a line does, unless a hole is before it: a line is never in two pieces beside each other.
import { after, columns, PLAIN } from "./ansi.js"

export const KEPT_BYTES = 32 * 2 ** 20
export const NUMBERED_BYTES = 8 * 2 ** 20 // above, lines have places, not numbers
const KEPT_LINES = 800000 // of 20 px: browsers show no element that is higher
const PIECE = 65536
const LETTERS = 20000 // of a line that are shown
const NEWLINE = 10, RETURN = 13, ESCAPE = 27
const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

class Piece {
  constructor(at, bytes) {
    this.at = at
    this.bytes = bytes
    this.length = bytes.length
    this.starts = [0]
    this.hasEscape = false
    this.incoming = PLAIN // how letters look at its beginning
    this.states = []
    this.first = null // the number of its first line
    this.index(0)
  }

  get end() { return this.at + this.length }
  get count() { return this.starts.length }
  get isOpen() { return this.bytes[this.length - 1] !== NEWLINE }

  index(from) {
    this.hasEscape ||= this.bytes.subarray(from, this.length).includes(ESCAPE)
    for (let at = this.bytes.indexOf(NEWLINE, from); at >= 0 && at < this.length - 1; at = this.bytes.indexOf(NEWLINE, at + 1)) {
      this.starts.push(at + 1)
    }
    this.rows = null
  }

  append(bytes) {
    const before = this.length
    this.length += bytes.length
    if (this.length > this.bytes.length) {
      const larger = new Uint8Array(Math.max(this.length, Math.min(2 * this.bytes.length, this.length + 2 ** 20)))
      larger.set(this.bytes.subarray(0, before))
      this.bytes = larger
    }
    this.bytes.set(bytes, before)
    if (this.bytes[before - 1] === NEWLINE) this.starts.push(before)
    else this.states.length = Math.min(this.states.length, this.count) // its last line goes on
    this.index(before)
  }

  // Its first bytes, up to the end of a line, or all; it begins behind them then.
  taken() {
    const found = this.bytes.subarray(0, this.length).indexOf(NEWLINE)
    const size = found < 0 ? this.length : found + 1, head = this.bytes.slice(0, size)
    return [head, size < this.length ? new Piece(this.at + size, this.bytes.slice(size, this.length)) : null]
  }

  edges(line) {
    const begin = this.starts[line]
    let end = line + 1 < this.count ? this.starts[line + 1] : this.length
    if (end > begin && this.bytes[end - 1] === NEWLINE) end -= 1
    if (end > begin && this.bytes[end - 1] === RETURN) end -= 1
    return [begin, end]
  }

  // Its letters, and how many more there are.
  text(line) {
    const [begin, end] = this.edges(line)
    const text = decoder.decode(this.bytes.subarray(begin, Math.min(end, begin + 4 * LETTERS)))
    return text.length <= LETTERS && end - begin <= 4 * LETTERS
      ? [text, 0] : [text.slice(0, LETTERS), Math.max(1, end - begin - LETTERS)]
  }

  // The line that a byte is in.
  lineAt(at) {
    let low = 0, high = this.count - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (this.at + this.starts[middle] <= at) low = middle
      else high = middle - 1
    }
    return low
  }

  // How letters look where a line begins.
  stateAt(line) {
    if (!this.hasEscape) return this.incoming
    if (!this.states.length) this.states.push(this.incoming)
    while (this.states.length <= line) {
      const [begin, end] = this.edges(this.states.length - 1)
      this.states.push(after(this.states.at(-1), decoder.decode(this.bytes.subarray(begin, end))))
    }
    return this.states[line]
  }

  enter(state) {
    if (state.color === this.incoming.color && state.weight === this.incoming.weight) return
    this.incoming = state
    this.states = []
  }

  // How many rows its lines take, if they wrap after so many columns.
  measure(wide) {
    if (!wide) { this.rows = null; this.height = this.count; return }
    if (this.rows?.wide === wide) return
    const isSimple = !this.bytes.subarray(0, this.length).some(one => one > 126 || one === 9 || one === ESCAPE)
    this.rows = this.starts.map((_, line) => {
      const [begin, end] = this.edges(line)
      const count = isSimple ? Math.min(end - begin, LETTERS) : columns(this.text(line)[0])
      return Math.max(1, Math.ceil(count / wide))
    })
    this.rows.wide = wide
    this.height = this.rows.reduce((sum, one) => sum + one, 0)
  }

  // What was seen of a line is right.
  correct(line, rows) {
    this.height += rows - this.rows[line]
    this.rows[line] = rows
  }
}

class Hole {
  constructor(at, end, why = "") {
    Object.assign(this, { at, end, why, count: 1, height: 1 }) // why: gap (came too fast), gone (and the words)
  }
}

class Section {
  constructor(attempt, size, mark, piece) {
    this.piece = piece // bytes, about
    this.attempt = attempt
    this.size = size
    this.mark = mark && { mark, count: 1, height: 1, at: 0 }
    this.items = size ? [new Hole(0, size)] : []
    this.known = [] // [byte where a line begins, its number]
  }

  // What is here already is left as it is.
  put(at, bytes) {
    if (at > this.size) this.leaveOut(this.size, at)
    const end = at + bytes.length
    for (const hole of this.items.filter(one => one instanceof Hole && one.at < end && one.end > at)) {
      const from = Math.max(at, hole.at), to = Math.min(end, hole.end)
      this.fill(hole, from, bytes.slice(from - at, to - at))
    }
    if (end > this.size) this.add(bytes.slice(Math.max(0, this.size - at)))
  }

  add(bytes) {
    const last = this.items.at(-1)
    this.size += bytes.length
    if (last instanceof Piece && last.length < this.piece) { last.append(bytes); return }
    this.items.push(new Piece(this.size - bytes.length, bytes))
    this.join(this.items.length - 1)
  }

  fill(hole, at, bytes) {
    if (!bytes.length) return
    const end = at + bytes.length, here = this.items.indexOf(hole)
    const before = at > hole.at ? [new Hole(hole.at, at, hole.why)] : []
    const behind = end < hole.end ? [new Hole(end, hole.end, hole.why)] : []
    this.items.splice(here, 1, ...before, new Piece(at, bytes), ...behind)
    this.join(here + before.length + 1)
    this.join(here + before.length)
  }

  // Rule 2, for an item and the one before it.
  join(number) {
    const [one, next] = [this.items[number - 1], this.items[number]]
    if (!(one instanceof Piece && next instanceof Piece)) return
    if (one.length + next.length <= this.piece) {
      one.append(next.bytes.subarray(0, next.length))
      this.items.splice(number, 1)
    } else if (one.isOpen) {
      const [head, rest] = next.taken()
      one.append(head)
      this.items.splice(number, 1, ...(rest ? [rest] : []))
      if (!rest) this.join(number)
    }
  }

  // These bytes exist, and are not here.
  leaveOut(from, to, why = "") {
    if (to <= this.size) return
    this.items.push(new Hole(Math.max(from, this.size), to, why))
    this.size = to
    this.merge()
  }

  evict(piece) {
    this.items[this.items.indexOf(piece)] = new Hole(piece.at, piece.end)
    this.merge()
  }

  merge() {
    for (let n = this.items.length - 1; n > 0; n -= 1) {
      const one = this.items[n - 1], next = this.items[n]
      if (one instanceof Hole && next instanceof Hole && one.why === next.why) {
        this.items.splice(n - 1, 2, new Hole(one.at, next.end, one.why))
      }
    }
  }

  itemAt(at) { return this.items.find(one => one.at <= at && at < one.end) }
  know(at, number) { if (number) this.known.push([at, number]) }

  // Numbers of lines, as far as they are known, and how letters look at the beginning of each piece.
  settle() {
    let run = []
    const close = () => {
      if (!run.length) return
      let count = run[0].at === 0 ? 1 : null
      if (count === null) {
        for (const [at, number] of this.known) {
          const piece = run.find(one => one.at <= at && at < one.end)
          if (!piece) continue
          count = number - piece.lineAt(at)
          for (const one of run) { if (one === piece) break; count -= one.count }
          break
        }
      }
      let state = PLAIN
      for (const one of run) {
        one.first = count
        if (count !== null) count += one.count
        one.enter(state)
        state = one.hasEscape ? one.stateAt(one.count) : state
      }
      run = []
    }
    for (const one of this.items) if (one instanceof Piece) run.push(one); else close()
    close()
  }
}

export class Lines {
  sections = []
  entries = [] // { section, item, row }: after `layout`
  rows = 0

  constructor(piece = PIECE) { this.piece = piece }
  begin(attempt, size, mark) { this.sections.push(new Section(attempt, size, mark, this.piece)) }
  get last() { return this.sections.at(-1) }
  static isHole(item) { return item instanceof Hole }

  layout(wide = 0) {
    this.entries = []
    this.rows = 0
    this.sections.forEach((section, number) => {
      section.settle()
      for (const item of section.mark ? [section.mark, ...section.items] : section.items) {
        item.measure?.(wide)
        this.entries.push({ section, number, item, row: this.rows })
        this.rows += item.height
      }
    })
  }

  // The entry and the line in it that a row is of, and the row where that line begins.
  at(row) {
    let low = 0, high = this.entries.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (this.entries[middle].row <= row) low = middle
      else high = middle - 1
    }
    const entry = this.entries[low]
    if (!entry) return null
    let left = row - entry.row, line = 0
    if (!entry.item.rows) return { entry, index: low, line: Math.max(0, Math.min(left, entry.item.count - 1)), row: Math.max(entry.row, Math.min(row, entry.row + entry.item.count - 1)) }
    while (line + 1 < entry.item.count && left >= entry.item.rows[line]) { left -= entry.item.rows[line]; line += 1 }
    return { entry, index: low, line, row: row - left }
  }

  // The row of the line, or the hole, that a byte is in.
  rowOf(section, at) {
    const entry = this.entries.find(one => one.section === section && one.item.at <= at && at < one.item.end)
    if (!entry) return null
    if (Lines.isHole(entry.item)) return entry.row
    const line = entry.item.lineAt(at)
    return entry.row + (entry.item.rows ? entry.item.rows.slice(0, line).reduce((sum, one) => sum + one, 0) : line)
  }

  // Lets go of what is farthest from these rows, of more than may be kept.
  trim(top, bottom, bytes = KEPT_BYTES, lines = KEPT_LINES) {
    const pieces = this.entries.filter(one => one.item instanceof Piece)
    let size = pieces.reduce((sum, one) => sum + one.item.length, 0), count = this.rows
    if (size <= bytes && count <= lines) return false
    const distance = one => Math.max(top - one.row - one.item.height, one.row - bottom)
    for (const one of pieces.sort((a, b) => distance(b) - distance(a))) {
      if ((size <= bytes && count <= lines) || distance(one) <= 0) break
      one.section.evict(one.item)
      size -= one.item.length
      count -= one.item.height
    }
    return true
  }
}
