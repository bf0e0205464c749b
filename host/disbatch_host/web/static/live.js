// What renews itself: when, and how little of the page moves by it.
//
// `#live` is the part of the page that is renewed. Its attributes, which come anew with each renewal:
//   data-every   seconds between two renewals
//   data-age     seconds since what it shows was so, as the page was made
//   data-rows    where its rows are got alone, by their ids, so that each shows how its task goes on
//   data-news    events that tell when there is something new; then `data-every` is the least pause
import { $, $$, parsed, span } from "./dom.js"

const FALLBACK_SECONDS = 5 // between two renewals, where the stream was refused or broke
const BREAKS_MAX = 3
const ROWS_SECONDS = 3
const live = () => $("#live")
const now = () => Date.now() / 1000
let renewedAt = now() - (Number(live()?.dataset.age) || 0)
let askedAt = now()
let rowsAt = now()
let isNew = false // the stream has told of something
let isShown = false // somebody wants to see what is new, whatever moves

// The stream

let connection = null
let breaks = 0
let wasHidden = false
let isPolled = false
const stream = () => $("#stream")
document.addEventListener("visibilitychange", () => {
  wasHidden ||= document.hidden
  if (!document.hidden) { isNew = true; tick() }
})
// Not before everything is loaded: htmx looks through a page once, which may be before its extension is there.
const begin = () => {
  const address = live()?.dataset.news
  if (!address) return
  const element = document.createElement("div")
  element.id = "stream"
  element.hidden = true
  element.setAttribute("hx-sse:connect", address)
  element.setAttribute("hx-swap", "none")
  document.body.append(element)
  htmx.process(element)
}
if (document.readyState === "complete") begin()
else addEventListener("load", begin)
document.addEventListener("htmx:sse:after:connection", event => { connection = event.detail.connection })
document.addEventListener("htmx:sse:before:connection", event => {
  if (event.detail.connection.attempt > 0 && !wasHidden) broke()
  wasHidden = false
})
document.addEventListener("htmx:sse:error", broke)
document.addEventListener("htmx:sse:before:message", () => { breaks = 0 })
for (const name of ["overview", "batch"]) document.addEventListener(name, () => { isNew = true; tick() })
document.addEventListener("trouble", event => {
  if (event.target === stream()) trouble(JSON.parse(event.detail.data).message)
})

function broke() {
  breaks += 1
  if (breaks >= BREAKS_MAX) giveUp()
}

function giveUp() {
  isPolled = true
  letGo()
  tell()
}

function letGo() {
  stream()?.remove()
  connection?.reader?.cancel()
  connection = null
}

// When it is renewed

const isOn = () => Boolean(live()?.dataset.every)
const seconds = () => (isPolled ? FALLBACK_SECONDS : Number(live().dataset.every))
function tick() {
  tell()
  if (!isOn() || document.hidden) return
  if (stream() && !isNew) return
  if (now() - askedAt >= seconds()) renew()
  else if (live().dataset.rows && now() - rowsAt >= ROWS_SECONDS) renewRows()
}
setInterval(tick, 500)

function renew() {
  askedAt = now()
  isNew = false
  htmx.trigger(live(), "renew")
}

async function renewRows() {
  rowsAt = now()
  const part = live(), shown = $$("tbody tr[id^=t-]", part).map(one => `id=${one.id.slice(2)}`)
  if (!shown.length) return
  const answer = await fetch(`${part.dataset.rows}&${shown.join("&")}`).catch(() => null)
  if (!answer?.ok || answer.redirected || part !== live()) return
  const fresh = parsed(await answer.text())
  for (const row of $$("tbody tr[id^=t-]", fresh)) {
    const mine = document.getElementById(row.id)
    if (mine && mine.cells.length === row.cells.length) settle(mine, row)
  }
}

document.addEventListener("htmx:after:request", event => {
  const { ctx } = event.detail
  if (ctx.sourceElement === stream() && ctx.response.status >= 400) giveUp()
  if (ctx.sourceElement !== live()) return
  const { status, raw } = ctx.response
  if (raw.redirected && /\/login$/.test(new URL(raw.url).pathname)) {
    event.preventDefault()
    location.reload()
    return
  }
  const page = parsed(ctx.text), old = $("#trouble b", page)
  if (status >= 400) {
    event.preventDefault()
    trouble($(".note b", page)?.textContent ?? `status ${status}`)
    return
  }
  renewedAt = now() - (Number($("#live", page)?.dataset.age) || 0)
  if (old) trouble(old.textContent)
  else { hold("trouble", ""); live().classList.remove("old") }
  rowsAt = now()
  if (isBusy() && !isShown) {
    event.preventDefault()
    fresh = 0
    settle(live(), $("#live", page))
    hold("fresh", fresh ? `${fresh} new` : "", "show")
  } else hold("fresh", "")
  isShown = false
})
document.addEventListener("htmx:after:swap", () => {
  $$("pick-list").forEach(one => one.show?.())
  if (!live()?.dataset.news) letGo()
  tell()
})
document.addEventListener("htmx:error", event => {
  const source = event.detail.ctx?.sourceElement
  if (source && source === stream()) giveUp()
  if (source && source === live()) trouble("the server does not answer")
})

// How little of it moves. What is below a pointer, a focus or a selection stays where it is; words and numbers in it are
// renewed all the same.

function isBusy() {
  const part = live(), focus = document.activeElement, chosen = getSelection()
  return Boolean(
    $("details[open]", part) || $("tbody input:checked", part) || $("tbody tr:hover", part)
    || (chosen?.type === "Range" && part.contains(chosen.anchorNode))
    || (focus && focus !== document.body && part.contains(focus)),
  )
}

// Of a form with fields of that name, `id` would be these.
const idOf = node => node.getAttribute?.("id") ?? ""
let fresh = 0 // rows that are not shown yet
const OF_READER = new Set(["open", "hidden", "checked"])
function settle(mine, other) {
  if (mine.matches("input, select, textarea, .bar")) return
  for (const { name, value } of [...other.attributes]) {
    if (!OF_READER.has(name) && mine.getAttribute(name) !== value) mine.setAttribute(name, value)
  }
  for (const { name } of [...mine.attributes]) {
    if (!OF_READER.has(name) && !other.hasAttribute(name)) mine.removeAttribute(name)
  }
  if (mine.matches("tbody")) return settleRows(mine, other)
  const ours = [...mine.childNodes], theirs = [...other.childNodes]
  if (ours.length === theirs.length && ours.every((one, n) => one.nodeName === theirs[n].nodeName && idOf(one) === idOf(theirs[n]))) {
    ours.forEach((one, n) => {
      if (one.nodeType === Node.ELEMENT_NODE) settle(one, theirs[n])
      else if (one.data !== theirs[n].data) one.data = theirs[n].data
    })
  } else if (mine.matches("td, th, svg, dd") && !mine.contains(document.activeElement)) {
    mine.replaceChildren(...theirs.map(one => document.importNode(one, true)))
  } else settleAlike(mine, other)
}

function settleRows(mine, other) {
  const known = new Map([...mine.rows].map((row, n) => [row.id || n, row]));
  [...other.rows].forEach((row, n) => {
    const own = known.get(row.id || n)
    if (own && own.cells.length === row.cells.length) settle(own, row)
    else if (row.id && !own) fresh += 1
  })
}

function settleAlike(mine, other) {
  const left = [...other.children]
  for (const one of mine.children) {
    const at = left.findIndex(their => their.localName === one.localName && idOf(their) === idOf(one) && their.className === one.className)
    if (at >= 0) settle(one, left.splice(at, 1)[0])
  }
}

// What is said of it

function hold(id, words, link) {
  let bar = document.getElementById(id)
  if (!words) { bar?.remove(); return }
  if (!bar) {
    bar = document.createElement("p")
    bar.id = id
    bar.className = "held"
    bar.setAttribute("role", "status")
    document.body.append(bar)
  }
  const anchor = document.createElement("a")
  anchor.href = location.href
  anchor.textContent = link
  anchor.addEventListener("click", event => {
    event.preventDefault()
    isShown = true
    renew()
  })
  if (bar.firstChild?.data !== `${words} `) bar.replaceChildren(`${words} `, anchor)
}

function trouble(words) {
  live()?.classList.add("old")
  const time = new Date(renewedAt * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })
  hold("trouble", `Not renewed since ${time}: ${words.replace(/\.$/, "")}.`, "Try now")
}

function tell() {
  const said = $("[data-renewed]")
  if (!said || !isOn()) return
  const words = `renewed ${span(Math.max(1, now() - renewedAt))} ago${isPolled ? `, every ${FALLBACK_SECONDS} s` : ""}`
  if (said.textContent !== words) said.textContent = words
}
tell()
