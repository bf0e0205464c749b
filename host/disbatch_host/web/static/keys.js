// Keys: none with a modifier, none in fields, and none where somebody has switched them off.
import { $, $$, store } from "./dom.js"

export function showOff(root = document) {
  const off = $("#keys-off", root)
  if (off) off.checked = store?.getItem("keys") === "off"
}
showOff()
document.addEventListener("change", event => {
  if (event.target.id === "keys-off") store?.setItem("keys", event.target.checked ? "off" : "on")
})
let before = ""
const rows = () => $$("main tbody tr").filter(one => $("a", one))
function step(by) {
  const all = rows(), here = all.findIndex(one => one.contains(document.activeElement))
  const row = all[Math.min(all.length - 1, Math.max(0, here < 0 ? 0 : here + by))]
  $("th a, a", row)?.focus()
}
const click = key => () => $(`[data-key='${key}']`)?.click()
const KEYS = {
  "/": () => $(".find input")?.focus(),
  "?": click("?"),
  ".": click("."),
  w: click("w"),
  e: click("e"),
  f: click("f"),
  j: () => step(1),
  k: () => step(-1),
  x: () => document.activeElement?.closest("tr")?.querySelector("input[type=checkbox]")?.click(),
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || store?.getItem("keys") === "off") return
  if (event.key === "Escape") $$("details.menu[open]").forEach(one => { one.open = false })
  if ($("dialog[open]") || event.target.closest?.("input:not([type=checkbox],[type=radio]), textarea, select, [contenteditable]")) return
  const go = before === "g" ? $(`[data-go="${CSS.escape(event.key)}"]`) : null
  before = event.key
  if (go) { event.preventDefault(); go.click() } else if (KEYS[event.key]) { event.preventDefault(); KEYS[event.key]() }
})
