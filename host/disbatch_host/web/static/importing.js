// A file on its way: how much of it has come, one that is dropped, one that is too large. Without this it is a form.
const UNITS = ["B", "KiB", "MiB", "GiB"]
function size(bytes) {
  let unit = 0
  while (bytes >= 1024 && unit < UNITS.length - 1) { bytes /= 1024; unit += 1 }
  return `${unit ? bytes.toFixed(1) : bytes} ${UNITS[unit]}`
}

class SendFile extends HTMLElement {
  connectedCallback() {
    this.form = this.querySelector("form")
    this.input = this.querySelector("input[type=file]")
    this.querySelector("[data-drop]").hidden = false
    this.form.addEventListener("submit", event => { event.preventDefault(); this.send() })
    this.part("[data-cancel]").addEventListener("click", () => this.request?.abort())
    for (const name of ["dragenter", "dragover"]) {
      this.addEventListener(name, event => { event.preventDefault(); this.form.style.outline = "2px dashed" })
    }
    this.addEventListener("dragleave", event => { if (!this.contains(event.relatedTarget)) this.form.style.outline = "" })
    this.addEventListener("drop", event => {
      event.preventDefault()
      this.form.style.outline = ""
      if (!event.dataTransfer.files.length) return
      this.input.files = event.dataTransfer.files
      this.send()
    })
  }

  part(selector) { return this.querySelector(selector) }

  send() {
    const file = this.input.files[0]
    if (!file) return
    if (file.size > Number(this.dataset.max)) {
      this.tell(`${file.name} has ${size(file.size)}; at most ${size(Number(this.dataset.max))} are taken. Pack it by gzip, or send it in parts.`)
      return
    }
    const request = this.request = new XMLHttpRequest()
    request.responseType = "document"
    request.upload.addEventListener("progress", ({ loaded, total }) => this.show(file, loaded, total))
    request.upload.addEventListener("load", () => { this.part("[role=status]").textContent = `${file.name} has come; its beginning is looked at.` })
    request.addEventListener("load", () => this.take(request))
    request.addEventListener("error", () => this.tell("The server does not answer, or has closed the connection."))
    request.addEventListener("abort", () => this.tell("Cancelled; nothing of it is kept."))
    request.open("POST", this.form.action)
    request.send(new FormData(this.form))
    this.busy(true)
    this.show(file, 0, file.size)
  }

  busy(is) {
    this.part(".primary").disabled = this.input.disabled = is
    this.part("[data-cancel]").hidden = !is
    this.part("[data-progress]").hidden = !is
  }

  show(file, loaded, total) {
    const share = total ? loaded / total : 0
    this.part("progress").value = share
    this.part("[role=status]").textContent = `${size(loaded)} of ${size(total)} of ${file.name} sent, ${Math.round(100 * share)} %`
  }

  // Where it has led to, or the same page with what is wrong.
  take(request) {
    const main = request.response?.querySelector("main")
    if (request.status < 400 || !main) { location.assign(request.responseURL); return }
    const words = main.querySelector(".note b")?.textContent ?? `status ${request.status}`
    this.tell(words)
  }

  tell(words) {
    this.busy(false)
    let note = document.getElementById("faults")
    if (!note) {
      note = document.createElement("div")
      note.id = "faults"
      note.className = "note bad"
      note.tabIndex = -1
      note.setAttribute("role", "alert")
      this.before(note)
    }
    const line = document.createElement("b")
    line.textContent = words
    note.replaceChildren(line)
    note.focus()
  }
}
customElements.define("send-file", SendFile)
