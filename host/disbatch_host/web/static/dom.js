// What all scripts of the page use.
export const $ = (selector, root = document) => root.querySelector(selector)
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)]
export const store = (() => { try { return window.localStorage } catch { return null } })()

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]
export function span(seconds) {
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
export const parsed = text => new DOMParser().parseFromString(text, "text/html")
