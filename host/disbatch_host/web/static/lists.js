// Lists of which some are picked, and the questions that are asked before something is done with them.
import { $, $$, parsed } from "./dom.js"
import { showOff } from "./keys.js"

// What is done with picked rows needs at least one. Where all on a page are picked, all that fit can be.
class PickList extends HTMLElement {
  connectedCallback() {
    this.addEventListener("change", event => {
      if (event.target.matches("[data-all]")) this.boxes.forEach(one => { one.checked = event.target.checked })
      this.show()
    })
    this.addEventListener("click", event => {
      if (event.target.matches("[data-all-fit]")) this.show(event.target.value !== "all")
      else this.range(event)
    })
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

  show(isAll = false) {
    const picked = this.boxes.filter(one => one.checked).length
    const bar = $(".bar", this), count = $("[data-count]", this), all = $("[data-all]", this), fit = $("[data-all-fit]", this)
    if (!bar) return
    const isWhole = picked > 0 && picked === this.boxes.length
    bar.hidden = !picked
    if (all) {
      all.checked = isWhole
      all.indeterminate = picked > 0 && !isWhole
    }
    if (fit) {
      fit.hidden = !isWhole
      fit.value = isAll ? "all" : ""
      fit.textContent = isAll ? `Only the ${picked} on this page` : `Select all ${fit.dataset.allFit} that fit`
      $("[name=all]", this).value = fit.value
    }
    if (count) count.textContent = isAll ? `All ${fit.dataset.allFit} that fit are selected.` : `${picked} on this page selected.`
  }
}
customElements.define("pick-list", PickList)

// The form of a filter shows the fields of its kind; without a script it has all of them.
function showKind() {
  const kind = $("#fk"), { parameter, word, value } = kind?.form.elements ?? {}
  if (!parameter || !word) return // the form of failures has neither
  parameter.hidden = kind.value !== "p."
  word.hidden = kind.value !== "status"
  value.hidden = !word.hidden
  if (value.hidden) value.value = ""
}
showKind()
document.addEventListener("change", event => { if (event.target.id === "fk") showKind() })

// A page that asks before many tasks are changed is shown over the list that it was asked from, and so are the keys.
async function ask(request, selector = "main form[data-question]") {
  const answer = await fetch(...request).catch(() => null)
  const form = answer?.ok && $(selector, parsed(await answer.text()))
  if (!form) return false
  const dialog = document.createElement("dialog")
  dialog.setAttribute("aria-labelledby", "question")
  $("h1", form).id = "question"
  dialog.append(document.importNode(form, true))
  dialog.addEventListener("close", () => dialog.remove())
  dialog.addEventListener("click", event => {
    if (event.target === dialog || event.target.closest("[data-back]")) { event.preventDefault(); dialog.close() }
  })
  document.body.append(dialog)
  showOff(dialog)
  dialog.showModal()
  return true
}

document.addEventListener("submit", event => {
  const form = event.target, how = event.submitter
  if (!form.matches("[data-asks]")) return
  event.preventDefault()
  const body = new URLSearchParams(new FormData(form, how))
  ask([form.getAttribute("action"), { method: "POST", body }]).then(done => {
    if (done) return
    delete form.dataset.asks
    form.requestSubmit(how)
  })
})
document.addEventListener("click", event => {
  const link = event.target.closest?.("a[data-asks], a[data-key='?']")
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
  event.preventDefault()
  ask([link.href], link.matches("[data-asks]") ? undefined : "#keys").then(done => { if (!done) location.href = link.href })
})
