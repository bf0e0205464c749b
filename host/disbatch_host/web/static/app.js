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

// What renews itself. Nothing moves below a pointer, a focus or a selection: rows are renewed in place then.
const live = () => $("#live")
function isBusy() {
  const part = live()
  const focus = document.activeElement
  return Boolean(
    $("details[open]", part) || $("tbody input:checked", part) || $("tbody tr:hover", part)
    || getSelection()?.type === "Range" || (focus && focus !== document.body && part.contains(focus)),
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
  e: () => $("[data-key='e']")?.click(),
  f: () => $("[data-key='f']")?.click(),
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
