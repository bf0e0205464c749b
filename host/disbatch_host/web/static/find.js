// A text in all of an output: asked for piece after piece, gone to one by one.
const HITS_MAX = 2000
const pause = ms => new Promise(done => setTimeout(done, ms))

export class Find {
  constructor(log) {
    Object.assign(this, { log, text: "", current: -1, hits: [], number: -1 })
    this.form = log.querySelector("form.logbar")
    this.told = this.form?.querySelector("[data-found]")
    this.form?.addEventListener("submit", event => {
      event.preventDefault()
      const text = this.form.elements.find.value
      if (text && text === this.text && this.hits.length) this.step(event.submitter?.dataset.step === "-1" ? -1 : 1)
      else this.ask(text)
    })
    this.form?.elements.find?.addEventListener("keydown", event => {
      if (event.key === "Enter" && event.shiftKey) { event.preventDefault(); this.step(-1) }
      if (event.key === "Escape" && this.text) this.ask("")
    })
    this.form?.addEventListener("click", event => {
      const step = event.target.closest("[data-step]")
      if (step) { event.preventDefault(); this.step(Number(step.dataset.step)) }
    })
  }

  ask(text) {
    const address = new URL(location.href)
    if (text) address.searchParams.set("find", text)
    else address.searchParams.delete("find")
    history.replaceState(null, "", address)
    this.look(text)
  }

  async look(text) {
    this.running?.abort()
    const running = this.running = new AbortController()
    Object.assign(this, { text: text.length > 1 ? text : "", hits: [], number: -1, current: -1, isAll: false, words: "" })
    this.log.draw(this.log.goesToEnd ? null : this.log.anchor())
    if (text.length === 1) this.words = "2 letters at least"
    this.tell()
    if (!this.text) return
    const begin = this.log.anchor()?.at ?? 0
    let next = "0"
    try {
      while (next !== null && this.hits.length < HITS_MAX) {
        this.words = this.hits.length ? "" : "searching…"
        this.tell()
        const found = await this.page(next, running.signal)
        this.hits.push(...found.hits)
        next = found.next
        this.isAll = found.is_all
        if (this.number < 0) {
          const at = this.hits.findIndex(one => one.offset >= begin)
          if (at >= 0 || (next === null && this.hits.length)) this.go(at >= 0 ? at : this.hits.length - 1)
        }
      }
      if (this.number < 0 && this.hits.length) this.go(this.hits.length - 1)
      this.words = this.hits.length ? "" : "not found"
    } catch (error) {
      if (running.signal.aborted) return
      this.words = error.message
    }
    this.tell()
  }

  // One search at a time is allowed: the one before may be on its way out.
  async page(from, signal, tries = 8) {
    const { output, section } = this.log
    const query = new URLSearchParams({ q: this.text, from, limit: 200, ...(section.attempt ? { attempt: section.attempt } : {}) })
    const answer = await fetch(`${output}/search?${query}`, { signal })
    if (answer.status === 429 && tries) { await pause(300); return this.page(from, signal, tries - 1) }
    const found = await answer.json()
    if (!answer.ok) throw new Error(found.detail ?? `status ${answer.status}`)
    return found
  }

  step(by) {
    if (this.hits.length) this.go((this.number + by + this.hits.length) % this.hits.length)
  }

  async go(number) {
    const hit = this.hits[this.number = number]
    this.current = hit.offset
    this.tell()
    await this.log.goTo(hit.offset)
    const item = this.log.section.itemAt(hit.offset)
    if (hit.line && item?.starts) {
      this.log.section.know(item.at + item.starts[item.lineAt(hit.offset)], hit.line)
      this.log.draw(this.log.anchor())
    }
  }

  tell() {
    if (!this.told) return
    const many = `${this.hits.length}${this.isAll ? "" : "+"}`
    this.told.textContent = this.words || (this.hits.length ? `${this.number + 1} of ${many}` : "")
    for (const one of this.form.querySelectorAll("[data-step]")) one.hidden = this.hits.length < 1
  }
}
