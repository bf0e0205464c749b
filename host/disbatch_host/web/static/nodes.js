// Lines of an output, and what stands between them, as nodes of the document. Text is text: `textContent` alone.
import { CUT, marked, runs } from "./ansi.js"

const GAP = 2 ** 20

export function size(count) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (count < 1024) return unit === "B" ? `${count} B` : `${count.toFixed(1)} ${unit}`
    count /= 1024
  }
  return `${count.toFixed(1)} GiB`
}

export function made(name, properties = {}, ...inner) {
  const element = Object.assign(document.createElement(name), properties)
  element.append(...inner)
  return element
}

export function lineNode(log, item, line, at, number) {
  const [text, left] = item.text(line), [begin, end] = item.edges(line), words = made("span")
  const isCurrent = log.find.current >= at && log.find.current < at + Math.max(1, end - begin)
  if (CUT.test(text)) words.className = "cut"
  for (const [part, classes, isFound] of marked(runs(text, item.stateAt(line), log.isPlain), log.find.text)) {
    if (isFound) words.append(made("mark", { textContent: part, className: isCurrent ? "on" : "" }))
    else words.append(classes ? made("b", { className: classes, textContent: part }) : part)
  }
  if (left) words.append(made("b", { className: "cut", textContent: ` … about ${left} more letters` }))
  return made("li", { id: `${log.stream}@${at}` }, made("a", { href: `#${log.stream}@${at}`, textContent: number }), words)
}

// For what is not here: why, and what shows it.
export function noteNode(log, item) {
  const words = made("span", { className: "cut" })
  const button = (does, text) => made("button", { type: "button", textContent: text, onclick: does })
  const many = size(item.end - item.at)
  if (item.mark) words.append(`— ${item.mark} —`)
  else if (item.why === "gone") words.append(`${many} not shown: ${item.words} `, button(() => log.change(() => { item.why = "" }), "Try again"))
  else if (item.why === "gap") words.append(`${many} came too fast to be shown `, button(() => log.newer(item, GAP), "Load"))
  else if (item.at === 0) words.append(`${many} before this `, button(() => log.older(item), "Show older"))
  else words.append(`${many} not loaded `, button(() => log.newer(item), "Show"))
  return made("li", {}, made("a"), words)
}
