// The screen of a task that goes on: what has changed is put in place of what was there, by one stream of events.
import { Following } from "./following.js"
import "./log.js"
import { span } from "./dom.js"
import { size } from "./nodes.js"

const $ = (selector, root = document) => root.querySelector(selector)
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)]
const RENEW_MS = 300, WAITING_MS = 10000
const STREAMS = ["stdout", "stderr"]

const WAITS = new Set(["created", "blocked", "claimed", "running"])
const page = $("#task")
let log = $("live-log"), following = null, renewedAt = Date.now(), isStale = false

// Parts of the page

function place(text) {
  const found = new DOMParser().parseFromString(text, "text/html")
  document.title = found.title
  isStale = false
  for (const one of $$("[data-renew]", found)) {
    const mine = document.getElementById(one.id)
    if (!mine || mine.dataset.shown === one.innerHTML) continue
    if (mine.dataset.shown === undefined && mine.innerHTML === one.innerHTML) continue
    if ($("details[open], :active", mine) || isSelected(mine)) { isStale = true; continue }
    const focused = focusable(mine).indexOf(document.activeElement)
    mine.dataset.shown = one.innerHTML
    mine.replaceChildren(...document.importNode(one, true).childNodes)
    if (focused >= 0) focusable(mine)[focused]?.focus({ preventScroll: true })
  }
  const theirs = $("live-log", found), { word, attempt } = $("#task", found).dataset
  Object.assign(page.dataset, { word, attempt })
  if (!log && theirs && page.dataset.tab === $("#task", found)?.dataset.tab) {
    $("#output").replaceChildren(...document.importNode($("#output", found), true).childNodes)
    log = $("live-log")
    begin($("#task", found).dataset)
  }
  showCopies()
  showSizes()
  clock()
}

const focusable = root => $$("a[href], button, summary, input", root)
function isSelected(part) {
  const selection = getSelection()
  return selection?.type === "Range" && part.contains(selection.anchorNode)
}

let renewing = null, isAgain = false
function renew() {
  if (renewing) { isAgain = true; return }
  renewing = setTimeout(async () => {
    try {
      const address = new URL(location.href)
      for (const one of ["find", "hit", "at"]) address.searchParams.delete(one) // of the output, which is not renewed
      if (STREAMS.includes(page.dataset.tab)) address.searchParams.set("stream", page.dataset.tab) // it may be another one that is first now
      const answer = await fetch(address)
      if (answer.redirected && /\/login$/.test(new URL(answer.url).pathname)) { location.reload(); return }
      if (!answer.ok) throw new Error(`status ${answer.status}`)
      place(await answer.text())
      well()
    } catch (error) {
      trouble(error instanceof TypeError ? "the server does not answer" : error.message)
      isStale = true
    }
    renewing = null
    if (isAgain || (isStale && !document.hidden)) { isAgain = false; renew() }
  }, RENEW_MS)
}

// What is said of how new it is

let mode = "off"
function told(now) {
  mode = now
  clock()
  if (now === "polling") log?.say("the stream of events was broken; renewed every 5 s")
}

function well() {
  renewedAt = Date.now()
  $("#t-trouble")?.remove()
}

function trouble(words) {
  let bar = $("#t-trouble")
  if (!bar) {
    bar = Object.assign(document.createElement("p"), { id: "t-trouble", className: "held" })
    bar.setAttribute("role", "status")
    $("main").prepend(bar)
  }
  bar.textContent = `Not renewed since ${new Date(renewedAt).toLocaleTimeString("en-GB")}: ${words}.`
}

// How long it has been running: what the server said, and what has gone by since that was put in place.
function lasts() {
  const place = $("[data-seconds]")
  if (!place || document.hidden) return
  if (place.dataset.at === undefined) place.dataset.at = Date.now()
  const seconds = Math.floor(Number(place.dataset.seconds) + (Date.now() - Number(place.dataset.at)) / 1000)
  const words = seconds < 60 || seconds >= 3600 ? span(seconds) : `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  if (place.textContent !== words) place.textContent = words
}

function clock() {
  lasts()
  const note = $("[data-clock]")
  if (!note || document.hidden) return
  const words = { live: "live", polling: "every 5 s", off: "" }[mode]
  note.textContent = words ? `${words}, renewed ${Math.max(0, Math.round((Date.now() - renewedAt) / 1000))} s ago` : ""
}

// What comes

let shown = null, entries = Number(page?.dataset.entries)
function heardOf(task) {
  well()
  const { progress, log: added = [], log_is_whole: isWhole, mtime, story, why, actions, ...rest } = task
  entries = isWhole ? added.length : entries + added.length
  const count = $("[data-count]")
  if (count && count.textContent !== String(entries)) count.textContent = entries || "·"
  if (added.length && page.dataset.tab === "log" && shown) renew()
  showProgress(progress)
  const now = JSON.stringify(rest)
  const isNew = shown === null ? task.status_name !== page.dataset.word || Number(page.dataset.attempt) !== task.attempt : shown !== now
  shown = now
  if (isNew) renew()
}

function showProgress(progress) {
  const bar = $("#t-progress progress"), words = $("#t-progress [data-words]")
  if (!progress) return
  const hasValue = typeof progress.value === "number"
  if (!words || hasValue !== Boolean(bar)) { renew(); return }
  const share = 100 * progress.value
  if (bar) bar.value = progress.value
  words.textContent = [hasValue ? (share > 0 && share < 0.1 ? "<0.1 %" : `${share.toFixed(1)} %`) : "", progress.message ?? ""].filter(Boolean).join(", ")
}

// Sizes in the tabs, and a mark at the one that something new has come to.
const sizes = {}, fresh = new Set()
function came(stream, end) {
  if (sizes[stream] === end) return
  sizes[stream] = end
  if (page.dataset.tab !== stream) fresh.add(stream)
  showSizes()
}

function showSizes() {
  for (const [stream, end] of Object.entries(sizes)) {
    const tab = $(`[data-size="${stream}"]`)
    if (!tab || new URLSearchParams(location.search).has("attempt")) continue
    tab.textContent = end ? size(end) : "·"
    if (!fresh.has(stream) || $(".fresh", tab.parentElement)) continue
    const mark = Object.assign(document.createElement("span"), { className: "fresh", textContent: " ●" })
    mark.setAttribute("aria-label", "something new")
    mark.setAttribute("role", "img")
    tab.after(mark)
  }
}

const HEARD = {
  task: heardOf,
  trouble: ({ message }) => trouble(message),
  reset: ({ attempt }) => { Object.assign(sizes, { stdout: 0, stderr: 0 }); renew(); if (log?.isLive) log.reset(attempt) },
  end: ({ reason }) => ended(reason),
}

function hear(name, data) {
  if (name === "gap" && data.stream === log?.stream) log.gap(data)
  if (STREAMS.includes(name) && log?.isLive && name === log.stream) log.add(data)
  const [, ...ends] = following.last.split(":")
  STREAMS.forEach((one, n) => { if ((name === one || name === "gap") && Number(ends[n])) came(one, Number(ends[n])) })
  HEARD[name]?.(data)
  if (name !== "trouble") well()
}

function ended(words) {
  renew()
  if (log?.isLive) log.finish(words || "no more is to come")
}

async function poll() {
  const answer = await fetch(page.dataset.task)
  if (answer.status === 401) { location.reload(); return }
  if (!answer.ok) { trouble(`status ${answer.status}`); throw new Error() }
  const task = await answer.json(), attempt = task.run?.attempt ?? 0
  if (log?.isLive) {
    if (attempt !== log.section.attempt) await log.reset(attempt)
    await log.poll()
    const [before, ...places] = following.last.split(":")
    following.last = [attempt, ...STREAMS.map((one, n) => (one === log.stream ? log.section.size : Number(before) === attempt ? places[n] : 0))].join(":")
    came(log.stream, log.section.size)
  }
  heardOf({ ...task, attempt, log_is_whole: true, log: task.log ?? [] })
  if (!WAITS.has(task.status_name)) { following.stop(); ended(task.reason || task.status_name) }
}

async function carefully() {
  try { await poll() } catch (error) {
    if (error instanceof TypeError) trouble("the server does not answer")
    throw error
  }
}

function begin(data) {
  following?.stop()
  const place = STREAMS.map(one => (log?.isLive && one === log.stream ? log.place : data[one] ?? 0))
  following = new Following(data.events, [data.attempt ?? 0, ...place].join(":"), { on: hear, poll: carefully, told })
  following.start()
}

// A command, or an id, that is copied. Where a page may not write to the clipboard, it is selected.
const showCopies = () => $$("[data-copies]").forEach(one => { one.hidden = false })
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-copies]")
  if (!button) return
  const text = button.previousElementSibling
  let word = "Copied"
  try {
    await navigator.clipboard.writeText(text.textContent)
  } catch {
    getSelection().selectAllChildren(text)
    if (!document.execCommand("copy")) word = "Selected"
  }
  button.dataset.word ??= button.textContent
  button.textContent = word
  setTimeout(() => { button.textContent = button.dataset.word }, 2000)
})

showCopies()
if (page?.dataset.events) {
  begin(page.dataset)
  setInterval(clock, 1000)
  // Why it waits changes with its queue and the nodes, of which its stream tells nothing.
  setInterval(() => { if (/created|blocked/.test(page.dataset.word) && !document.hidden && mode !== "off") renew() }, WAITING_MS)
}
