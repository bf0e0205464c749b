// <live-log>: the output of a task. Only the lines that are seen are in the document; what is not here comes by Range as
// somebody scrolls; what comes while the task runs is added, and its end stays in view unless somebody scrolls up.
//
// Rules:
// 1. Without a script there is the part that the server has rendered; it stays until the same lines are here.
// 2. What is read stays where it is, whatever comes before or behind it.
// 3. Text is text: `textContent` alone.
import { Find } from "./find.js"
import { Lines, NUMBERED_BYTES } from "./lines.js"
import { lineNode, made, noteNode } from "./nodes.js"

const LINE = 20 // px, as the style sheet says
const AROUND = 10 // lines that are drawn beyond what is seen
const TAIL = 65536, MANY = 2 ** 20
const encoder = new TextEncoder()
const pause = ms => new Promise(done => setTimeout(done, ms))

export class LiveLog extends HTMLElement {
  connectedCallback() {
    if (this.lines) return
    const data = this.dataset
    Object.assign(this, {
      lines: new Lines(), stream: data.stream, output: data.output, nodes: new Map(), unseen: 0, wide: 0,
      isLive: "live" in data, isPlain: "plain" in data, isWrapped: "wrap" in data || matchMedia("(max-width:639px)").matches,
      pane: this.querySelector(".log"), state: this.querySelector("[data-state]"), said: this.querySelector("[data-said]"),
      goesToEnd: !data.at, waits: new Set(),
    })
    const attempt = Number(data.attempt), end = Number(data.end), start = Number(data.start)
    // Of one that is followed from its end on, the stream itself brings the end.
    this.place = this.isFollowing ? start : Number(data.size)
    this.lines.begin(attempt, this.place, "")
    this.lines.last.know(start, Number(data.number))
    this.find = new Find(this)
    this.pane.addEventListener("scroll", () => this.scrolled())
    this.pane.addEventListener("click", event => this.clicked(event))
    new ResizeObserver(() => this.draw()).observe(this.pane)
    this.addEventListener("click", event => this.pressed(event))
    addEventListener("popstate", () => this.goToPlace())
    addEventListener("hashchange", () => this.goToPlace())
    if (!this.isFollowing && end > start && !data.at) this.load(this.section.itemAt(start), start, end, true).then(() => this.opened())
    else this.opened()
    this.tell()
  }

  get section() { return this.lines.last }
  get isFollowing() { return this.isLive && this.goesToEnd }

  opened() {
    if (!this.goToPlace() && this.dataset.at) this.goTo(Number(this.dataset.at), "start")
    if (this.dataset.find) this.find.look(this.dataset.find)
  }

  // The line that the address names.
  goToPlace() {
    const found = location.hash.match(/^#(stdout|stderr)@(\d{1,15})$/)
    if (found?.[1] !== this.stream) return false
    this.here = Number(found[2])
    this.goTo(this.here)
    return true
  }

  // What comes. A pause is kept, whatever that is.
  add({ offset, text }) {
    const bytes = encoder.encode(text), section = this.section
    if (!this.isFollowing) this.unseen += Math.max(1, text.split("\n").length - 1)
    this.change(() => section.put(offset, bytes))
  }

  gap({ from, to }) {
    this.change(() => this.section.leaveOut(from, to, "gap"))
  }

  // A new attempt puts a line, and clears nothing. What the one before has printed last is asked for.
  async reset(attempt) {
    const before = this.section
    if (!before.attempt || before.attempt === attempt) {
      if (!before.attempt && !before.size) { before.attempt = attempt; this.pane.setAttribute("aria-label", `${this.stream} of attempt ${attempt}`); return }
      before.isGone = true // its number now stands for another one
      for (const one of before.items) if (Lines.isHole(one)) Object.assign(one, { why: "gone", words: "its output was replaced by the next attempt" })
    }
    this.change(() => this.lines.begin(attempt, 0, `attempt ${attempt}`))
    this.say(`attempt ${attempt} has begun`)
    if (!before.isGone) await this.poll(before)
  }

  // What there is beyond the end of what is known.
  async poll(section = this.section) {
    if (!section.attempt) return
    const found = await this.ask(section, section.size, section.size + 4 * MANY)
    if (found.bytes?.length) {
      if (section === this.section && !this.isFollowing) this.unseen += 1
      this.change(() => section.put(found.from, found.bytes))
    }
  }

  finish(words) {
    this.isLive = false
    this.finalWords = `ended: ${words}`
    const none = this.querySelector(".none")
    if (none) none.textContent = `${this.stream}: printed nothing`
    this.tell()
    this.say(`ended: ${words}`)
  }

  async ask(section, from, to) {
    const answer = await fetch(`${this.output}?attempt=${section.attempt}`, { headers: { Range: `bytes=${from}-${to - 1}` } })
    if (answer.status === 206) {
      const given = answer.headers.get("content-range").match(/bytes (\d+)-/)
      return { from: Number(given[1]), bytes: new Uint8Array(await answer.arrayBuffer()) }
    }
    if (answer.status === 416) return {}
    if (answer.status === 401) location.reload()
    return { words: (await answer.json().catch(() => ({}))).detail ?? `status ${answer.status}` }
  }

  // A part of what is not here. `isExact`: it begins where a line does.
  async load(hole, from, to, isExact = false) {
    const entry = this.lines.sections.find(one => one.items.includes(hole))
    if (!entry || this.waits.has(entry)) return false
    this.waits.add(entry)
    let found
    try { found = await this.ask(entry, from, to) } catch { found = { words: "the server does not answer" } }
    this.waits.delete(entry)
    this.change(() => {
      if (!found.bytes?.length) { hole.why = "gone"; hole.words = found.words ?? "it is not kept any more"; return }
      let skip = 0
      if (!isExact && found.from > hole.at) skip = found.bytes.indexOf(10) + 1
      if (skip === found.bytes.length) skip = 0
      entry.put(found.from + skip, found.bytes.subarray(skip))
    })
    return Boolean(found.bytes)
  }

  older(hole) { return this.load(hole, Math.max(hole.at, hole.end - TAIL), hole.end) }
  newer(hole, count = TAIL) { return this.load(hole, hole.at, Math.min(hole.end, hole.at + count), true) }

  // So that the line with this byte is here. Of what is not too long, all up to what is here already: its lines have
  // numbers then.
  async reach(at) {
    const { section } = this
    for (let tries = 0; this.isLive && at >= section.size && tries < 40; tries += 1) await pause(50)
    for (let tries = 0; tries < 3; tries += 1) {
      const hole = section.itemAt(Math.min(at, section.size - 1))
      if (!hole || !Lines.isHole(hole) || hole.why === "gone") return
      const isShort = section.size <= NUMBERED_BYTES
      const from = Math.max(hole.at, at - TAIL / 2), to = Math.min(hole.end, isShort ? hole.end : at + TAIL / 2)
      while (this.waits.has(section)) await pause(50)
      if (hole === section.itemAt(at)) await this.load(hole, from, to)
    }
  }

  async goTo(at, where = "center") {
    this.goesToEnd = false
    await this.reach(at)
    this.kept = null
    this.draw()
    const { section } = this, item = section.itemAt(Math.min(at, section.size - 1)), row = item && this.lines.rowOf(section, Math.min(at, section.size - 1))
    if (item?.starts && this.here === at) this.here = item.at + item.starts[item.lineAt(at)]
    if (!(row >= 0)) return
    this.pane.scrollTop = row * LINE - (where === "center" ? this.pane.clientHeight / 2 - LINE : 0)
    this.draw()
    this.tell()
  }

  async end() {
    this.goesToEnd = true
    this.unseen = 0
    const last = this.section.items.at(-1)
    if (Lines.isHole(last) && last.why !== "gone") await this.load(last, Math.max(last.at, last.end - TAIL), last.end)
    this.kept = null
    this.draw()
    this.tell()
  }

  follow() {
    if (!this.isLive) return
    if (this.isFollowing) { this.goesToEnd = false; this.tell() } else this.end()
  }

  // A change of the lines: what is read stays where it is.
  change(does) {
    const anchor = this.goesToEnd ? null : this.anchor()
    does()
    this.kept = anchor ?? this.kept
    if (this.planned) return
    const show = () => { this.planned = 0; this.draw(); this.tell() }
    this.planned = document.hidden ? show() : requestAnimationFrame(show)
  }

  anchor() {
    if (this.kept) return this.kept
    let found = this.lines.at(Math.floor(this.pane.scrollTop / LINE))
    if (found && Lines.isHole(found.entry.item)) { // what is below it
      const next = this.lines.entries[found.index + 1]
      if (next) found = { entry: next, line: 0, row: next.row }
    }
    if (!found) return null
    const { section, item } = found.entry
    return { section, at: item.starts ? item.at + item.starts[found.line] : item.at, from: found.row * LINE - this.pane.scrollTop }
  }

  draw(anchor = this.kept) {
    const { pane, lines } = this
    this.kept = null
    if (!lines.sections.some(one => one.mark || one.items.some(item => !Lines.isHole(item) || item.why))) return
    this.space ??= this.upgrade()
    this.wide = this.isWrapped ? this.measured() : 0
    lines.layout(this.wide)
    const seen = Math.floor(pane.scrollTop / LINE), all = Math.ceil(pane.clientHeight / LINE)
    const isOver = this.goesToEnd ? lines.trim(lines.rows - all, lines.rows) : lines.trim(seen, seen + all)
    if (isOver) lines.layout(this.wide)
    this.space.style.height = `${lines.rows * LINE}px`
    if (this.goesToEnd) pane.scrollTop = pane.scrollHeight
    else if (anchor) {
      const row = lines.rowOf(anchor.section, anchor.at)
      if (row !== null) pane.scrollTop = row * LINE - anchor.from
    }
    this.top = pane.scrollTop
    this.paint()
  }

  upgrade() {
    this.list = made("ol")
    const space = made("div", { className: "space" }, this.list)
    this.pane.classList.remove("follow")
    this.pane.replaceChildren(space)
    return space
  }

  // How many letters fit beside each other.
  measured() {
    const probe = made("li", {}, made("a"), made("span", { textContent: "0".repeat(100) }))
    this.pane.classList.remove("log-wrap")
    this.list.append(probe)
    const one = probe.lastChild.getBoundingClientRect().width / 100, first = probe.firstChild.getBoundingClientRect().width
    probe.remove()
    this.pane.classList.add("log-wrap")
    return Math.max(20, Math.floor((this.pane.clientWidth - first - 12) / (one || 8)))
  }

  // The lines around what is seen.
  paint() {
    const { pane, lines, list } = this
    const first = Math.max(0, Math.floor(pane.scrollTop / LINE) - AROUND)
    const last = Math.min(lines.rows, Math.ceil((pane.scrollTop + pane.clientHeight) / LINE) + AROUND)
    const wanted = [], holes = []
    let found = lines.rows ? lines.at(first) : null
    const begin = found?.row ?? 0
    let row = begin
    for (let { index, line } = found ?? {}; found && row < last && index < lines.entries.length; index += 1, line = 0) {
      const entry = lines.entries[index]
      for (; line < entry.item.count && row < last; line += 1) {
        wanted.push(this.node(entry, line))
        if (Lines.isHole(entry.item)) holes.push([entry.item, row])
        row += entry.item.rows?.[line] ?? 1
      }
    }
    const kept = new Set(wanted)
    for (const [key, node] of this.nodes) {
      if (kept.has(node)) continue
      if (node.contains(document.activeElement)) this.pane.focus({ preventScroll: true })
      node.remove()
      this.nodes.delete(key)
    }
    wanted.forEach((node, n) => { if (list.children[n] !== node) list.insertBefore(node, list.children[n] ?? null) })
    list.style.transform = `translateY(${begin * LINE}px)`
    const digits = this.section.size > NUMBERED_BYTES ? String(this.section.size).length : 0
    if (digits) pane.style.setProperty("--w", `calc(${digits}ch + 16px)`)
    if (!this.isWrapped) this.space.style.minWidth = `${this.widest = Math.max(this.widest ?? 0, list.offsetWidth)}px`
    else { this.space.style.minWidth = ""; if (this.corrected(wanted)) { this.draw(this.goesToEnd ? null : this.anchor()); return } }
    for (const [hole, at] of holes) this.scrolledTo(hole, at)
  }

  // Lines that take more rows than was thought, or fewer.
  corrected(nodes) {
    let isChanged = false
    for (const node of nodes) {
      const { item, line } = node.of
      if (!item.rows) continue
      const rows = Math.max(1, Math.round(node.lastChild.offsetHeight / LINE))
      if (rows !== item.rows[line]) { item.correct(line, rows); isChanged = true }
    }
    const again = isChanged && (this.corrections = (this.corrections ?? 0) + 1) < 4
    if (!again) this.corrections = 0
    return again
  }

  scrolledTo(hole, row) {
    if (hole.why || row * LINE < this.pane.scrollTop - LINE || row * LINE > this.pane.scrollTop + this.pane.clientHeight) return
    if (this.goesToEnd || row * LINE < this.pane.scrollTop + this.pane.clientHeight / 2) this.older(hole)
    else this.newer(hole)
  }

  node(entry, line) {
    const { section, item, number } = entry
    const at = item.starts ? item.at + item.starts[line] : item.mark ? `m${number}` : `h${item.end}`
    const isHere = item.starts && section === this.section && this.here === at
    const isNumbered = section.size <= NUMBERED_BYTES && item.first !== null
    const end = item.starts ? item.edges(line)[1] : item.at
    const key = `${number}/${at}`, version = `${end}/${item.why}/${this.isPlain}/${this.find.text}/${this.find.current}/${isHere}/${isNumbered && item.first}/${item.rows?.[line]}`
    const known = this.nodes.get(key)
    if (known?.version === version) { known.of = { item, line }; return known }
    const node = item.starts ? lineNode(this, item, line, at, isNumbered ? item.first + line : at) : noteNode(this, item)
    if (known) {
      const hadFocus = known.contains(document.activeElement)
      known.replaceWith(node)
      if (hadFocus) node.querySelector("button, a[href]")?.focus({ preventScroll: true })
    }
    Object.assign(node, { version, of: { item, line } })
    if (isHere) node.className = "at"
    this.nodes.set(key, node)
    return node
  }

  // What somebody does

  scrolled() {
    const { pane } = this
    if (!this.space) return
    const isAtEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < LINE / 2
    if (isAtEnd && !this.goesToEnd && !Lines.isHole(this.section.items.at(-1))) {
      this.goesToEnd = true
      this.unseen = 0
      this.tell()
    } else if (!isAtEnd && pane.scrollTop < this.top && this.goesToEnd) {
      this.goesToEnd = false
      this.tell()
    }
    this.top = pane.scrollTop
    this.paint()
  }

  clicked(event) {
    const link = event.target.closest("li[id] > a")
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return
    event.preventDefault()
    this.here = Number(link.hash.split("@")[1])
    const address = new URL(location.href)
    address.searchParams.delete("tab")
    address.searchParams.set("stream", this.stream)
    address.searchParams.set("at", this.here)
    address.hash = link.hash
    history.pushState(null, "", address)
    this.goesToEnd = false
    this.tell()
    this.paint()
  }

  pressed(event) {
    const key = event.target.closest("[data-do]")?.dataset.do
    if (!key || event.ctrlKey || event.metaKey || event.shiftKey) return
    event.preventDefault()
    this.key(key)
  }

  key(key) {
    if (key === "f") this.follow()
    else if (key === "e") this.end()
    else if (key === "s") this.goTo(0, "start")
    else if (key === "w") this.toggle("isWrapped", "wrap")
    else if (key === "p") this.toggle("isPlain", "plain")
  }

  toggle(name, word) {
    const anchor = this.goesToEnd ? null : this.anchor(), address = new URL(location.href)
    this[name] = !this[name]
    if (this[name]) address.searchParams.set(word, "1")
    else address.searchParams.delete(word)
    history.replaceState(null, "", address)
    this.pane.classList.toggle("log-wrap", this.isWrapped)
    this.widest = 0
    this.pane.style.removeProperty("--w")
    this.draw(anchor)
    this.tell()
  }

  // What is said: the state beside the log; aloud only what changes it.
  tell() {
    const pressed = { w: this.isWrapped, p: this.isPlain, f: this.isFollowing }
    for (const one of this.querySelectorAll("[data-do]")) {
      if (one.dataset.do in pressed) one.setAttribute("aria-pressed", pressed[one.dataset.do])
      if (one.dataset.do === "f" && one !== this.state) one.hidden = !this.isLive
    }
    if (!this.state) return
    const lines = `${this.unseen} new ${this.unseen === 1 ? "line" : "lines"}`
    const words = this.unseen && !this.isFollowing ? `↓ ${lines}` : this.isFollowing ? "following" : this.isLive ? "paused" : this.finalWords ?? ""
    const kind = this.isFollowing ? "st running" : this.isLive ? "st paused" : "st"
    if (this.state.textContent !== words) this.state.textContent = words
    this.state.className = kind
    this.state.disabled = !this.isLive
    this.state.parentElement.hidden = !words
    this.state.nextElementSibling.textContent = this.isFollowing ? "scroll up to stop" : this.isLive ? "f goes on" : ""
    if (this.wasFollowing !== this.isFollowing && this.wasFollowing !== undefined && this.isLive) this.say(words)
    this.wasFollowing = this.isFollowing
  }

  say(words) { if (this.said) this.said.textContent = words }
}
customElements.define("live-log", LiveLog)
