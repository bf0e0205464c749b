// What the page does beyond links and forms. Everything that shows or changes something works without it.
import "./keys.js"
import "./lists.js"
import "./live.js"
import { $, $$, span } from "./dom.js"

// Signing in by an address with a token: it is taken out of the address before anything else.
const token = location.hash.match(/^#t=([\w-]+)$/)
if (token && $("#token")) {
  history.replaceState(null, "", location.pathname + location.search)
  $("#token").value = token[1]
  $("#token").form.requestSubmit()
}

// Times that say how long ago they were go on doing so.
class LocalTime extends HTMLElement {
  renew() {
    const time = $("time", this)
    if (!time?.textContent.endsWith(" ago")) return
    const seconds = Math.max(1, (Date.now() - Date.parse(time.dateTime)) / 1000)
    const hours = seconds / 3600 >= 24 && seconds / 3600 < 48 && `${Math.floor(seconds / 3600)} h`
    const words = `${hours || span(seconds).split(" ").slice(0, 2).join(" ")} ago`
    if (time.textContent !== words) time.textContent = words
  }
}
customElements.define("local-time", LocalTime)
setInterval(() => { if (!document.hidden) $$("local-time").forEach(one => one.renew()) }, 5000)

// What was wrong with a value is not said of another one.
document.addEventListener("input", ({ target }) => {
  if (target.getAttribute("aria-invalid") !== "true") return
  target.removeAttribute("aria-invalid")
  const said = document.getElementById(`${target.id}-e`)
  if (said) said.hidden = true
})

// "Local" times are those of the browser: the server is told their zone.
$$("[data-zone]").forEach(one => { one.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "local" })

// A menu closes when somebody goes on elsewhere.
document.addEventListener("click", event => {
  $$("details.menu[open]").forEach(one => { if (!one.contains(event.target)) one.open = false })
})

// A question that opens takes the focus: what is typed is its reason, and Enter sends it.
document.addEventListener("toggle", event => {
  // Not on a touch screen, where a keyboard would come up over the buttons.
  const wanted = matchMedia("(pointer: coarse)").matches ? "form button" : "form input:not([type=hidden]), form button"
  if (event.target.matches?.("details.ask[open]")) $(wanted, event.target)?.focus()
}, true)

// Its button may lie where the one that opened it was: of two quick taps on one place the second does nothing.
const SURE = 600, NEAR = 24 // ms, px
let tap = { x: -NEAR, y: -NEAR, at: -SURE }
document.addEventListener("click", event => {
  if (!event.detail) return // a key
  const isSame = performance.now() - tap.at < SURE && Math.hypot(event.clientX - tap.x, event.clientY - tap.y) < NEAR
  if (event.target.closest("summary")) tap = { x: event.clientX, y: event.clientY, at: performance.now() }
  else if (isSame && event.target.closest("details.menu form")) event.preventDefault()
}, true)
