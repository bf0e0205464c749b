// One stream of events of a task: goes on where it was, rests while nobody looks, and where it breaks again and again,
// polls instead. `on(name, data)`: an event; `poll()`: one look; `told(mode)`: live, polling, off.
const AGAIN_MS = 2000, POLL_MS = 5000, BROKEN_MAX = 3, POLLS_MAX = 12
const NAMES = ["task", "stdout", "stderr", "reset", "gap", "trouble", "end"]

export class Following {
  constructor(events, last, { on, poll, told }) {
    Object.assign(this, { events, last, on, poll, told, broken: 0, isOver: false })
    this.seen = () => (document.hidden ? this.rest() : this.open())
  }

  start() {
    document.addEventListener("visibilitychange", this.seen)
    this.seen()
  }

  stop() {
    this.isOver = true
    this.rest()
    document.removeEventListener("visibilitychange", this.seen)
    this.told("off")
  }

  rest() {
    this.source?.close()
    this.source = null
    clearTimeout(this.timer)
  }

  open() {
    if (this.source || this.isOver) return
    clearTimeout(this.timer)
    // A new one cannot say by a header where it was.
    const source = this.source = new EventSource(`${this.events}?from=${encodeURIComponent(this.last)}`)
    source.addEventListener("open", () => { this.told("live") })
    for (const name of NAMES) {
      source.addEventListener(name, event => {
        this.broken = 0
        if (source !== this.source) return
        if (event.lastEventId) this.last = event.lastEventId
        this.on(name, JSON.parse(event.data))
        if (name === "end") this.stop()
      })
    }
    source.addEventListener("bye", event => {
      if (source !== this.source) return
      const { why } = JSON.parse(event.data)
      this.rest()
      if (why === "signed_out") location.reload()
      else if (why !== "end") this.later(() => this.open(), AGAIN_MS)
    })
    source.addEventListener("error", () => {
      if (source !== this.source) return
      this.rest()
      this.broken += 1
      if (this.broken < BROKEN_MAX) this.later(() => this.open(), AGAIN_MS)
      else this.look(0, true)
    })
  }

  // Instead of a stream. One is tried again as soon as the server answers again, and once a minute.
  async look(polls, isTroubled) {
    if (this.isOver || document.hidden || this.source) return
    this.told("polling")
    let isWell = true
    try { await this.poll() } catch { isWell = false }
    if (this.isOver || document.hidden || this.source) return
    if ((isWell && isTroubled && polls) || polls >= POLLS_MAX) { this.broken = BROKEN_MAX - 1; this.open(); return }
    this.later(() => this.look(polls + 1, !isWell), POLL_MS)
  }

  later(does, ms) {
    if (this.isOver || document.hidden) return
    this.timer = setTimeout(does, ms)
  }
}
