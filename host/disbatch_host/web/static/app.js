// What the page does beyond links and forms. Everything that shows or changes something works without it.
const $ = (selector, root = document) => root.querySelector(selector)
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)]
const store = (() => { try { return window.localStorage } catch { return null } })()

// Signing in by an address with a token: it is taken out of the address before anything else.
const token = location.hash.match(/^#t=([\w-]+)$/)
if (token && $("#token")) {
  history.replaceState(null, "", location.pathname + location.search)
  $("#token").value = token[1]
  $("#token").form.requestSubmit()
}

// Times that say how long ago they were go on doing so.
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]
function span(seconds) {
  if (seconds < 1) return "0 s"
  let rest = Math.round(seconds)
  const parts = []
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size)
    rest -= count * size
    if (count) parts.push(`${count} ${unit}`)
    else if (parts.length) break
  }
  return parts.slice(0, seconds < 3600 ? 1 : 2).join(" ")
}

class LocalTime extends HTMLElement {
  renew() {
    const time = $("time", this)
    if (!time?.textContent.endsWith(" ago")) return
    const words = `${span(Math.max(1, (Date.now() - Date.parse(time.dateTime)) / 1000))} ago`
    if (time.textContent !== words) time.textContent = words
  }
}
customElements.define("local-time", LocalTime)
setInterval(() => { if (!document.hidden) $$("local-time").forEach(one => one.renew()) }, 5000)

// "Local" times are those of the browser: the server is told their zone.
$$("[data-zone]").forEach(one => { one.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "local" })

// A list of which some are picked. What is done with them needs at least one.
class PickList extends HTMLElement {
  connectedCallback() {
    this.addEventListener("change", event => {
      if (event.target.matches("[data-all]")) this.boxes.forEach(one => { one.checked = event.target.checked })
      this.show()
    })
    this.addEventListener("click", event => this.range(event))
    this.show()
  }

  get boxes() { return $$("tbody input[type=checkbox]", this) }

  range(event) {
    if (!event.target.matches("tbody input[type=checkbox]")) return
    const boxes = this.boxes, here = boxes.indexOf(event.target)
    if (event.shiftKey && this.last >= 0) {
      boxes.slice(Math.min(here, this.last), Math.max(here, this.last) + 1).forEach(one => { one.checked = event.target.checked })
      this.show()
    }
    this.last = here
  }

  show() {
    const picked = this.boxes.filter(one => one.checked).length
    const bar = $(".bar", this), count = $("[data-count]", this), all = $("[data-all]", this)
    if (!bar) return
    if (count) count.textContent = `${picked} on this page selected.`
    bar.hidden = !picked
    if (all) {
      all.checked = picked > 0 && picked === this.boxes.length
      all.indeterminate = picked > 0 && !all.checked
    }
  }
}
customElements.define("pick-list", PickList)

// Colors of a terminal, as the server has them too; all other control characters are made visible.
const COLORS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"]
const SEQUENCE = /\x1b(?:\[([0-9;:]*)m|\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g
class Painter {
  color = ""
  weight = ""

  paint(text, into, isPlain) {
    let at = 0
    const add = part => {
      if (!part) return
      const classes = isPlain ? "" : [this.color, this.weight].filter(Boolean).join(" ")
      const node = document.createElement(classes ? "b" : "span")
      node.textContent = part.replace(CONTROL, "\ufffd")
      if (classes) node.className = classes
      into.append(classes ? node : node.firstChild)
    }
    for (const match of text.matchAll(SEQUENCE)) {
      add(text.slice(at, match.index))
      if (match[1] !== undefined) this.apply(match[1])
      at = match.index + match[0].length
    }
    add(text.slice(at))
  }

  apply(codes) {
    const parts = codes.replaceAll(":", ";").split(";").map(one => Number(one) || 0)
    for (let n = 0; n < parts.length; n += 1) {
      const code = parts[n]
      if (code === 0) this.color = this.weight = ""
      else if (code === 1 || code === 2) this.weight = code === 1 ? "c-bold" : "c-dim"
      else if (code === 22) this.weight = ""
      else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) this.color = `c-${COLORS[code % 10]}`
      else if (code === 39) this.color = ""
      else if (code === 38 || code === 48) n += parts[n + 1] === 5 ? 2 : 4
    }
  }
}

// The output of a task. While it runs, what comes is added, and its end stays in view; a reader who scrolls up stays there.
const LINES_MAX = 5000
class LiveLog extends HTMLElement {
  connectedCallback() {
    this.failures = this.unseen = 0
    this.text = ""
    this.painter = new Painter()
    if (!this.dataset.events || this.last !== undefined) return
    this.last = this.dataset.from
    this.at = Number(this.dataset.from.split(":")[this.dataset.stream === "stdout" ? 1 : 2])
    this.openLine = this.dataset.open ? $("li:last-child span", this) : null
    this.setAttribute("hx-morph-skip", "")
    this.seen = () => (document.hidden ? this.stop() : this.follow())
    document.addEventListener("visibilitychange", this.seen)
    this.pane.addEventListener("scroll", () => {
      if (this.isFollowing && this.unseen) { this.unseen = 0; this.tell() }
    })
    this.seen()
  }

  disconnectedCallback() {
    this.stop()
    if (this.seen) document.removeEventListener("visibilitychange", this.seen)
  }

  get pane() { return $(".log", this) }
  get isFollowing() { return !this.pane || !this.pane.matches(".follow") || this.pane.scrollTop > -24 }
  end() { if (this.pane) this.pane.scrollTop = this.pane.matches(".follow") ? 0 : this.pane.scrollHeight }

  follow() {
    if (this.source || !this.last) return
    const { stream, events } = this.dataset
    this.source = new EventSource(`${events}?streams=${stream}&from=${encodeURIComponent(this.last)}`)
    const on = (name, does) => this.source.addEventListener(name, event => {
      this.failures = 0
      if (event.lastEventId) this.last = event.lastEventId
      does(event.data ? JSON.parse(event.data) : {})
    })
    on(stream, ({ text }) => this.add(text))
    on("task", () => {})
    on("reset", ({ attempt }) => { this.at = 0; this.note(`attempt ${attempt}`) })
    on("gap", ({ from, to }) => { this.at = to; this.note(`${to - from} bytes came too fast to be shown here`) })
    on("end", () => this.finish())
    this.source.addEventListener("error", () => {
      this.failures += 1
      if (this.failures >= 3 || this.source?.readyState === EventSource.CLOSED) this.finish()
    })
  }

  stop() {
    this.source?.close()
    this.source = null
  }

  // From now on the page is renewed as a whole, this with it.
  finish() {
    this.stop()
    this.last = ""
    this.removeAttribute("hx-morph-skip")
  }

  add(text) {
    if (!this.text) setTimeout(() => this.show(), 50)
    this.text += text
  }

  show() {
    const list = $("ol", this), was = this.pane.scrollHeight, isFollowing = this.isFollowing
    const lines = this.text.split("\n"), isOpen = lines.at(-1) !== ""
    this.text = ""
    if (!isOpen) lines.pop()
    $("p.none", this)?.remove()
    const added = document.createDocumentFragment(), bytes = new TextEncoder()
    const first = Math.max(0, lines.length - LINES_MAX)
    let number = Number($("li:last-child a", list)?.textContent) || 0
    lines.forEach((line, n) => {
      if (n === 0 && this.openLine) this.painter.paint(line, this.openLine, this.dataset.plain)
      else {
        number += 1
        if (n >= first) added.append(this.line(line, this.dataset.places ? this.at : number))
      }
      this.at += bytes.encode(line).length + (n < lines.length - 1 || !isOpen ? 1 : 0)
    })
    list.append(added)
    this.openLine = isOpen ? $("li:last-child span", list) : null
    while (list.children.length > LINES_MAX) list.firstElementChild.remove()
    if (!isFollowing) {
      this.pane.scrollTop -= this.pane.scrollHeight - was
      this.unseen += lines.length
    }
    this.tell()
  }

  line(text, number) {
    const item = document.createElement("li"), anchor = document.createElement("a")
    const words = document.createElement("span")
    item.id = `${this.dataset.stream}@${this.at}`
    anchor.href = `#${item.id}`
    anchor.textContent = number
    this.painter.paint(text, words, this.dataset.plain)
    item.append(anchor, words)
    return item
  }

  note(words) {
    const item = document.createElement("li"), text = document.createElement("span")
    text.textContent = `— ${words} —`
    item.append(document.createElement("a"), text)
    $("ol", this).append(item)
    this.openLine = null
  }

  tell() {
    const state = $("[data-state]", this)
    if (!state) return
    state.className = this.unseen ? "st paused" : "st running"
    state.textContent = this.unseen ? `↓ ${this.unseen} new lines` : "following"
  }
}
customElements.define("live-log", LiveLog)

// What renews itself. Nothing moves below a pointer, a focus or a selection: rows are renewed in place then.
const live = () => $("#live")
function isBusy() {
  const part = live()
  const focus = document.activeElement
  return Boolean(
    $("details[open]", part) || $("tbody input:checked", part) || $("tbody tr:hover", part)
    || (getSelection()?.type === "Range" && !getSelection().anchorNode?.parentElement?.closest("live-log")) || (focus && focus !== document.body && part.contains(focus) && !focus.closest("live-log"))
    || $$("live-log:not([hx-morph-skip])", part).some(one => !one.isFollowing),
  )
}

function renewInPlace(text) {
  const found = new DOMParser().parseFromString(text, "text/html")
  let fresh = 0
  for (const row of $$("#live tbody tr[id]", found)) {
    const mine = document.getElementById(row.id)
    if (!mine) { fresh += 1; continue }
    if (mine.matches(":hover") || mine.contains(document.activeElement) || mine.cells.length !== row.cells.length) continue
    ;[...row.cells].forEach((cell, number) => {
      if (!cell.matches(".ck") && cell.innerHTML !== mine.cells[number].innerHTML) mine.cells[number].replaceWith(document.importNode(cell, true))
    })
  }
  say("fresh", fresh ? `${fresh} new` : "", "show")
}

let renewedAt = Date.now()
function say(id, words, link) {
  let bar = document.getElementById(id)
  if (!words) { bar?.remove(); return }
  if (!bar) {
    bar = document.createElement("p")
    bar.id = id
    bar.className = "held"
    bar.setAttribute("role", "status")
    $("main").prepend(bar)
  }
  bar.textContent = `${words} `
  const anchor = document.createElement("a")
  anchor.href = location.href
  anchor.textContent = link
  bar.append(anchor)
}

document.addEventListener("htmx:before:request", event => {
  if (event.target === live() && document.hidden) event.preventDefault()
})
document.addEventListener("htmx:after:request", event => {
  const { ctx } = event.detail
  if (ctx.sourceElement !== live()) return
  if (ctx.response.raw.redirected && /\/login$/.test(new URL(ctx.response.raw.url).pathname)) {
    event.preventDefault()
    location.reload()
  } else if (ctx.response.status >= 400) {
    event.preventDefault()
    trouble($(".note b", new DOMParser().parseFromString(ctx.text, "text/html"))?.textContent ?? `status ${ctx.response.status}`)
  } else {
    renewedAt = Date.now()
    say("trouble", "")
    live().classList.remove("old")
    if (isBusy()) { event.preventDefault(); renewInPlace(ctx.text) } else say("fresh", "")
  }
})
document.addEventListener("htmx:error", event => {
  if (event.detail.ctx?.sourceElement === live()) trouble("the server does not answer")
})
function trouble(words) {
  live()?.classList.add("old")
  say("trouble", `Not renewed since ${new Date(renewedAt).toLocaleTimeString("en-GB")}: ${words}.`, "Try now")
}

// Keys: none with a modifier, none in fields, and none where somebody has switched them off.
const off = $("#keys-off")
if (off) {
  off.checked = store?.getItem("keys") === "off"
  off.addEventListener("change", () => store?.setItem("keys", off.checked ? "off" : "on"))
}
let before = ""
const rows = () => $$("#live tbody tr, main tbody tr").filter((one, number, all) => $("a", one) && all.indexOf(one) === number)
function step(by) {
  const all = rows(), here = all.findIndex(one => one.contains(document.activeElement))
  const row = all[Math.min(all.length - 1, Math.max(0, here < 0 ? 0 : here + by))]
  $("th a, a", row)?.focus()
}
const KEYS = {
  "/": () => $(".find input")?.focus(),
  "?": () => $("[data-key='?']")?.click(),
  ".": () => $("[data-key='.']")?.click(),
  w: () => $("[data-key='w']")?.click(),
  e: () => ($("[data-key='e']") ? $("[data-key='e']").click() : $("live-log")?.end()),
  f: () => $("live-log")?.end(),
  j: () => step(1),
  k: () => step(-1),
  x: () => document.activeElement?.closest("tr")?.querySelector("input[type=checkbox]")?.click(),
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || store?.getItem("keys") === "off") return
  if (event.key === "Escape") $$("details.menu[open]").forEach(one => { one.open = false })
  if (event.target.closest?.("input:not([type=checkbox],[type=radio]), textarea, select, [contenteditable]")) return
  const go = before === "g" ? $(`[data-go="${CSS.escape(event.key)}"]`) : null
  before = event.key
  if (go) { event.preventDefault(); go.click() } else if (KEYS[event.key]) { event.preventDefault(); KEYS[event.key]() }
})

// A menu closes when somebody goes on elsewhere.
document.addEventListener("click", event => {
  $$("details.menu[open]").forEach(one => { if (!one.contains(event.target)) one.open = false })
})
