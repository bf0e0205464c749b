// Flows through the screen of a task: its output as it comes, and what goes on around it.
import { ask, base, expect, forgive, run, signedIn, text, tokens, visitor } from "./visiting.mjs"

const opened = async (path, role = "read", options = {}) => {
  const page = await signedIn(role, options)
  await page.goto(base + path)
  return page
}
const log = (page, does, given) => page.evaluate(`(${does})(document.querySelector("live-log"), ${JSON.stringify(given) ?? "null"})`)
// Without waitForFunction, which has the page evaluate a text: it forbids that.
const until = async (page, does, given) => {
  const end = Date.now() + 20000
  while (!(await log(page, does, given))) {
    if (Date.now() > end) throw new Error(`not within 20 s: ${does}`)
    await page.waitForTimeout(30)
  }
}
const drawn = page => page.evaluate(() => document.querySelectorAll("live-log .log li").length)
const state = page => page.evaluate(() => document.querySelector("[data-state]").textContent)
const isState = (page, words) => until(page, (_, words) => document.querySelector("[data-state]").textContent === words, words)
const size = (page, count) => until(page, (log, count) => log.lines?.last.size === count && log.space, count)
// All of what is here, as a program would read it.
const whole = page => log(page, log => log.lines.sections.map(one => one.items.map(item => item.bytes
  ? new TextDecoder().decode(item.bytes.subarray(0, item.length)) : `<${item.at}-${item.end}>`).join("")))
const shown = page => page.evaluate(() => {
  const box = document.querySelector(".log").getBoundingClientRect()
  return [...document.querySelectorAll(".log li")].filter(one => {
    const { top, bottom } = one.getBoundingClientRect()
    return top >= box.top - 1 && bottom <= box.bottom + 1
  }).map(one => one.lastChild.textContent)
})
const numbered = (first, count, form = "line %d\n") => Array.from({ length: count }, (_, n) => form.replace("%d", first + n)).join("")
const scrolledTo = (page, top) => log(page, (log, top) => { log.pane.scrollTop = top < 0 ? log.pane.scrollTop + top : top }, top)
const frame = page => page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))))
const hide = (page, isHidden) => page.evaluate(isHidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden })
  document.dispatchEvent(new Event("visibilitychange"))
}, isHidden)

run({
  async "follows at the end; scrolled up it stays there, says how much is new, and goes on"() {
    const task = await ask("task")
    let all = await ask("print", { task, text: "line %d\n", times: 300 })
    const page = await opened(`/tasks/${task}`)
    await size(page, all)
    expect((await shown(page)).at(-1) === "line 299", `not at the end: ${await shown(page)}`)
    expect((await state(page)) === "following", await state(page))
    expect((await drawn(page)) < 100, `${await drawn(page)} lines in the document`)
    await scrolledTo(page, -400)
    await isState(page, "paused")
    const seen = await shown(page)
    all += await ask("print", { task, text: "more %d <script>alert(1)</script><img src=x>\n", times: 214 })
    await size(page, all)
    await isState(page, "↓ 214 new lines")
    await frame(page)
    expect(String(await shown(page)) === String(seen), "what is read has moved")
    await page.click("[data-state]")
    await isState(page, "following")
    await frame(page)
    expect((await shown(page)).at(-1).startsWith("more 213 <script>"), String(await shown(page)))
    expect(await page.evaluate(() => !document.querySelector(".log script, .log img")), "an output is HTML")
    await page.keyboard.press("f")
    await isState(page, "paused")
    await page.keyboard.press("f")
    await isState(page, "following")
    const numbers = await page.evaluate(() => document.querySelector(".log li:last-child a").textContent)
    expect(numbers === "514", `the last line has number ${numbers}`)
  },

  async "older parts come as somebody scrolls up, to the first line"() {
    const task = await ask("task")
    const all = await ask("print", { task, text: "a line that is not short, with number %d\n", times: 20000 })
    await ask("end", { task })
    const page = await opened(`/tasks/${task}`), ranges = []
    page.on("request", request => { if (request.headers().range) ranges.push(request.headers().range) })
    await size(page, all)
    expect((await shown(page)).at(-1).endsWith("number 19999"), String(await shown(page)))
    for (let n = 0; n < 3; n += 1) {
      const held = await log(page, log => log.lines.last.items.filter(one => one.bytes).reduce((sum, one) => sum + one.length, 0))
      await scrolledTo(page, 0)
      await until(page, (log, held) => log.lines.last.items.filter(one => one.bytes).reduce((sum, one) => sum + one.length, 0) > held, held)
      await frame(page)
    }
    expect(ranges.length >= 3 && ranges.every(one => { const [a, b] = one.match(/\d+/g).map(Number); return b - a < 65536 }), String(ranges))
    await page.click("[data-do=s]")
    await until(page, log => log.lines.last.items[0].at === 0 && log.lines.last.items[0].bytes)
    await frame(page)
    expect((await shown(page))[0].endsWith("number 0"), String(await shown(page)))
    expect((await page.evaluate(() => document.querySelector(".log li a").textContent)) === "1", "the first line is not 1")
    const numbers = await page.evaluate(() => [...document.querySelectorAll(".log li[id]")].map(one => [one.firstChild.textContent, one.lastChild.textContent.split(" ").at(-1)]))
    expect(numbers.every(([number, said]) => Number(number) === Number(said) + 1), String(numbers))
  },

  async "200,000 lines arrive, are shown and scrolled through, and few of them are in the document"() {
    const task = await ask("task"), times = 200000
    const page = await opened(`/tasks/${task}`)
    await until(page, log => log.lines)
    const all = await ask("print", { task, text: "2026-11-28 line %d of a program that says much\n", times })
    const began = performance.now()
    await ask("end", { task })
    await size(page, all)
    await frame(page)
    const arrived = performance.now()
    expect((await shown(page)).at(-1).includes(`line ${times - 1} `), String(await shown(page)))
    const slowest = await log(page, async log => {
      let slowest = 0
      for (let n = 0; n <= 100; n += 1) {
        const began = performance.now()
        log.pane.scrollTop = (log.pane.scrollHeight * n) / 100
        log.scrolled()
        log.list.offsetHeight
        slowest = Math.max(slowest, performance.now() - began)
        await new Promise(requestAnimationFrame)
      }
      return slowest
    })
    const figures = await page.evaluate(() => ({ nodes: document.querySelectorAll(".log li").length, heap: performance.memory.usedJSHeapSize / 2 ** 20 }))
    if (process.env.TIMES) console.error(JSON.stringify({ all, arrived: arrived - began, slowest, ...figures }))
    expect(figures.nodes < 150, `${figures.nodes} lines in the document`)
    expect(slowest < 1000, `a step of scrolling took ${slowest} ms`)
    expect(figures.heap < 200, `${figures.heap} MiB`)
    await scrolledTo(page, 100000 * 20)
    await frame(page)
    expect((await shown(page))[0].includes("line 1000") || (await shown(page))[0].includes("line 99999"), (await shown(page))[0])
  },

  async "at most 32 MiB are kept; what went comes back by scrolling"() {
    const task = await ask("task"), line = `%d ${"x".repeat(1000)}\n`
    const page = await opened(`/tasks/${task}`)
    await until(page, log => log.lines)
    let all = 0
    for (let n = 0; n < 4; n += 1) {
      all += await ask("print", { task, text: line, times: 10000, first: n * 10000 })
      await until(page, (log, all) => log.lines.last.size > all - 3e5, all)
    }
    await ask("end", { task })
    await size(page, all)
    await frame(page)
    const held = await log(page, log => log.lines.last.items.filter(one => one.bytes).reduce((sum, one) => sum + one.length, 0))
    expect(held <= 2 ** 25, `${held} bytes are kept`)
    expect((await shown(page)).at(-1).startsWith("39999 "), "not at the end")
    await scrolledTo(page, 0)
    await page.click("[data-do=s]")
    await until(page, log => log.lines.last.items[0].at === 0 && log.lines.last.items[0].bytes)
    await frame(page)
    expect((await shown(page))[0].startsWith("0 x"), (await shown(page))[0].slice(0, 20))
    expect((await page.evaluate(() => document.querySelector(".log li[id]:last-child a").textContent)) % 100 !== 99, "lines above 8 MiB have numbers")
    await page.keyboard.press("e")
    await frame(page)
    await page.waitForFunction(() => [...document.querySelectorAll(".log li")].at(-1).textContent.includes("39999 x"))
  },

  async "a tab that was hidden, and a server that was started again, lose no line and repeat none"() {
    const task = await ask("task")
    await ask("print", { task, text: "line %d\n", times: 10 })
    const page = await opened(`/tasks/${task}`), streams = []
    page.on("request", request => { if (request.url().includes("/events")) streams.push(request.url()) })
    await size(page, 70)
    await hide(page, true)
    let all = 70 + await ask("print", { task, text: "line %d\n", times: 90, first: 10 })
    await hide(page, false)
    await size(page, all)
    expect(streams.at(-1).endsWith("from=1%3A70%3A0"), streams.at(-1))
    await ask("stop")
    all += await ask("print", { task, text: "line %d\n", times: 50, first: 100 })
    await ask("restart")
    await size(page, all)
    all += await ask("print", { task, text: "line %d\n", times: 50, first: 150 })
    await size(page, all)
    expect((await whole(page))[0] === numbered(0, 200), "lines are missing, or there twice")
    await ask("stop")
    await page.waitForFunction(() => document.querySelector("#t-trouble")?.textContent.includes("the server does not answer"))
    expect((await text(page, "[data-clock]")).startsWith("every 5 s"), await text(page, "[data-clock]"))
    all += await ask("print", { task, text: "line %d\n", times: 50, first: 200 })
    await ask("restart")
    await page.waitForFunction(() => document.querySelector("[data-clock]").textContent.startsWith("live") && !document.querySelector("#t-trouble"))
    await size(page, all)
    expect((await whole(page))[0] === numbered(0, 250), "lines are missing, or there twice, after a longer while")
    forgive(/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET/)
    expect((await state(page)) === "following", await state(page))
  },

  async "a new attempt puts a line and clears nothing; its last words before it are not lost, and a pause is kept"() {
    const task = await ask("task")
    let all = await ask("print", { task, text: "first %d\n", times: 100 })
    const page = await opened(`/tasks/${task}`)
    await size(page, all)
    await scrolledTo(page, -400)
    await isState(page, "paused")
    const seen = await shown(page)
    await ask("again", { task, last: "last words\n" })
    await ask("print", { task, text: "second %d\n", times: 50 })
    await until(page, log => log.lines.sections.length === 2 && log.lines.sections[1].size === 500 - 10 && log.lines.sections[0].size > 900)
    await frame(page)
    expect((await state(page)).startsWith("↓"), await state(page))
    expect(String(await shown(page)) === String(seen), "what is read has moved")
    expect(String(await whole(page)) === String([`${numbered(0, 100, "first %d\n")}last words\n`, numbered(0, 50, "second %d\n")]), String(await whole(page)))
    await page.keyboard.press("e")
    await isState(page, "following")
    await scrolledTo(page, -900)
    await frame(page)
    expect((await shown(page)).includes("— attempt 2 —"), String(await shown(page)))
    await page.waitForFunction(() => document.querySelector("#t-attempts").textContent.includes("2 of 4"))
  },

  async "where the stream breaks again and again it is asked every 5 s, and said so"() {
    const task = await ask("task")
    let all = await ask("print", { task, text: "line %d\n", times: 10 })
    const page = await signedIn("read")
    await page.route(/\/events/, route => route.abort())
    await page.goto(`${base}/tasks/${task}`)
    await page.waitForFunction(() => document.querySelector("[data-clock]").textContent.startsWith("every 5 s"))
    all += await ask("print", { task, text: "line %d\n", times: 20, first: 10 })
    await ask("tell", { task, progress: { value: 0.5, message: "half" } })
    await size(page, all)
    await page.waitForFunction(() => document.querySelector("#t-progress")?.textContent.includes("50.0 %, half"))
    await ask("end", { task })
    await page.waitForSelector("h1 .st.concluded")
    expect(/^line 29$/.test((await shown(page)).at(-1)), String(await shown(page)))
    forgive(/ERR_FAILED/)
  },

  async "what came too fast is a line, and is loaded by it"() {
    const task = await ask("task")
    const all = await ask("print", { task, text: "line %d\n", times: 1000 })
    const page = await signedIn("read")
    const event = (name, id, data) => `id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`
    await page.route(/\/events/, route => route.fulfill({
      contentType: "text/event-stream",
      body: event("stdout", "1:70:0", { offset: 0, text: numbered(0, 10) }) + event("gap", `1:${all - 9}:0`, { stream: "stdout", from: 70, to: all - 9 })
        + event("stdout", `1:${all}:0`, { offset: all - 9, text: "line 999\n" }) + event("bye", `1:${all}:0`, { why: "hour" }),
    }))
    await page.goto(`${base}/tasks/${task}`)
    await size(page, all)
    await frame(page)
    expect((await whole(page))[0] === `${numbered(0, 10)}<70-${all - 9}>line 999\n`, (await whole(page))[0])
    expect((await text(page, ".log .cut")).includes("came too fast"), await text(page, ".log .cut"))
    await page.click(".log button:has-text('Load')")
    await until(page, log => log.lines.last.items.every(one => one.bytes))
    expect((await whole(page))[0] === numbered(0, 1000), "what was loaded does not fit")
    await frame(page)
    expect((await page.evaluate(() => document.querySelector(".log li:last-child a").textContent)) === "1000", "the last line is not 1000")
  },

  async "a text is found in all of it, far from what is shown, and gone through"() {
    const task = await ask("task")
    for (let n = 0; n < 14; n += 1) {
      await ask("print", { task, text: "2026-11-28 INFO copied another message to its mailbox, number %d\n", times: 20000 })
      await ask("print", { task, text: `WARN message ${n}: Header "Date" cannot be read\n` })
    }
    await ask("end", { task })
    const page = await opened(`/tasks/${task}`)
    await until(page, log => log.space)
    await page.fill("[name=find]", "header \"date\"")
    await page.keyboard.press("Enter")
    await page.waitForFunction(() => document.querySelector("[data-found]").textContent === "14 of 14")
    const isAt = n => page.waitForFunction(n => document.querySelector(".log mark.on")?.parentElement.textContent.startsWith(`WARN message ${n}:`), n)
    await isAt(13)
    await page.keyboard.press("Enter")
    await isAt(0)
    expect((await text(page, "[data-found]")) === "1 of 14", await text(page, "[data-found]"))
    await page.click("[data-step='1']")
    await isAt(1)
    await page.click("[data-step='-1']")
    await isAt(0)
    expect(page.url().includes("find=header"), page.url())
    expect((await page.locator(".log mark").first().innerText()) === "Header \"Date\"", "another text is marked")
    await page.reload()
    await page.waitForFunction(() => / of 14$/.test(document.querySelector("[data-found]").textContent) && document.querySelector(".log mark.on"))
  },

  async "a line has an address that marks it, and Back leads to the one before"() {
    const task = await ask("task")
    await ask("print", { task, text: "fault %d\n", times: 30000, stream: "stderr" })
    await ask("end", { task, status: 2 })
    const page = await opened(`/tasks/${task}`)
    await until(page, log => log.space)
    expect((await text(page, ".tabs [aria-current]")).startsWith("stderr"), "stderr is not first where it failed")
    await scrolledTo(page, -3000)
    await frame(page)
    const line = page.locator(".log li[id]").nth(15), id = await line.getAttribute("id"), words = await line.locator("span").innerText()
    await line.locator("a").click()
    expect(page.url().endsWith(`stream=stderr&at=${id.split("@")[1]}#${id}`), page.url())
    await page.reload()
    await page.waitForSelector(".log li.at")
    expect((await text(page, ".log li.at span")) === words, await text(page, ".log li.at"))
    await page.goto(`${base}/tasks/${task}?stream=stderr#stderr@${"fault 0\n".length}`)
    await page.waitForFunction(() => document.querySelector(".log li.at")?.lastChild.textContent === "fault 1")
    expect((await text(page, ".log li.at a")) === "2", `number ${await text(page, ".log li.at a")}`)
    await page.goBack()
    await page.waitForFunction(words => document.querySelector(".log li.at")?.lastChild.textContent === words, words)
  },

  async "wraps and colors, by keys and by the address; keys do nothing in fields"() {
    const task = await ask("task")
    await ask("print", { task, text: `\x1b[1;31mred %d\x1b[0m ${"a long line ".repeat(40)}\u4f60\u597d\x07\n\x1b[32mgreen\n`, times: 200 })
    await ask("end", { task })
    const page = await opened(`/tasks/${task}`)
    await until(page, log => log.space)
    expect((await page.locator(".log b.c-red.c-bold").count()) > 0, "no colors")
    expect((await page.evaluate(() => document.querySelector(".log b.c-green + *, .log li:last-child").textContent)).includes("green"), "no green")
    expect((await shown(page)).some(one => one.includes("\ufffd")), "a control character is not made visible")
    await page.keyboard.press("w")
    await page.waitForFunction(() => location.search.includes("wrap=1") && document.querySelector(".log.log-wrap"))
    await page.keyboard.press("e")
    await frame(page)
    const end = await page.evaluate(() => {
      const pane = document.querySelector(".log"), box = pane.getBoundingClientRect(), last = [...document.querySelectorAll(".log li")].at(-1).getBoundingClientRect()
      return { gap: box.bottom - last.bottom, wide: pane.scrollWidth - pane.clientWidth, overlap: [...document.querySelectorAll(".log li")].some((one, n, all) => n && one.getBoundingClientRect().top < all[n - 1].getBoundingClientRect().bottom - 1) }
    })
    expect(end.gap > -2 && end.gap < 22 && end.wide <= 0 && !end.overlap, JSON.stringify(end))
    await page.click("[data-do=p]")
    expect((await page.locator(".log b.c-red").count()) === 0 && page.url().includes("plain=1"), "it is not plain")
    await page.focus("[name=find]")
    await page.keyboard.type("wef")
    expect((await page.inputValue("[name=find]")) === "wef" && page.url().includes("wrap=1"), "a key was taken from a field")
    await page.reload()
    await until(page, log => log.space && log.isWrapped && log.isPlain)
  },

  async "everything on the screen goes on by one stream"() {
    const task = await ask("task", { begins: false })
    const page = await signedIn("operate")
    const open = new Set()
    let most = 0
    page.on("request", request => { if (request.url().includes("/events")) most = Math.max(most, open.add(request).size) })
    page.on("requestfinished", request => open.delete(request))
    page.on("requestfailed", request => open.delete(request))
    await page.goto(`${base}/tasks/${task}`)
    expect((await text(page, "#t-notes")).includes("No node is alive") || (await text(page, "#t-notes")).includes("no node is alive"), await text(page, "#t-notes"))
    await page.waitForFunction(() => document.querySelector("[data-clock]").textContent.startsWith("live"))
    await ask("begin", { task })
    await page.waitForSelector("h1 .st.running")
    await page.waitForSelector("live-log")
    await ask("print", { task, text: "line %d\n", times: 5 })
    await page.waitForFunction(() => document.querySelector(".log li:last-child span")?.textContent === "line 4")
    await ask("tell", { task, progress: { value: 0.123, message: "some" }, log: [{ level: "info", message: "one" }] })
    await page.waitForFunction(() => document.querySelector("#t-progress")?.textContent.includes("12.3 %, some"))
    await page.waitForFunction(() => document.querySelector("[data-count]").textContent === "1")
    await ask("print", { task, text: "oops\n", stream: "stderr" })
    await page.waitForFunction(() => document.querySelector("[data-size=stderr]").textContent === "5 B" && document.querySelector(".tabs .fresh"))
    await page.click("summary:has-text('CLI')")
    await ask("tell", { task, progress: { value: 0.9, message: "nearly" } })
    await page.waitForFunction(() => document.querySelector("#t-progress")?.textContent.includes("90.0 %, nearly"))
    expect((await page.locator(".menu[open] code").count()) > 2, "an open menu was closed")
    await page.keyboard.press("Escape")
    await ask("end", { task, status: 2 })
    await page.waitForSelector("h1 .st.failed")
    await page.waitForFunction(() => document.title.startsWith("✗") && document.querySelector("#t-story").textContent.includes("ended"))
    await page.waitForFunction(() => document.querySelector("[data-state]").textContent.startsWith("ended"))
    expect(most === 1 && open.size === 0, `${most} streams at once, ${open.size} at the end`)
    expect((await page.locator("summary:has-text('Retry')").count()) === 1, "there is no Retry")
    expect((await text(page, ".tabs [aria-current]")).startsWith("stdout"), "another tab than the one that is shown seems open")
    expect((await page.locator("#t-live a").count()) === 0, "what has ended can be paused")
    expect((await text(page, ".logend")).startsWith("ended"), await text(page, ".logend"))
  },

  async "can be read and steered by the keyboard; what is focused stays so"() {
    const task = await ask("task")
    let all = await ask("print", { task, text: "line %d\n", times: 500 })
    const page = await opened(`/tasks/${task}`)
    await size(page, all)
    await page.focus(".log")
    await page.keyboard.press("PageUp")
    await isState(page, "paused")
    await page.keyboard.press("Home")
    await page.waitForFunction(() => document.querySelector(".log li span").textContent === "line 0")
    await page.keyboard.press("Tab")
    const id = await page.evaluate(() => document.activeElement.closest("li").id)
    all += await ask("print", { task, text: "line %d\n", times: 500, first: 500 })
    await size(page, all)
    expect((await page.evaluate(() => document.activeElement.closest("li")?.id)) === id, "the focus is lost")
    await page.keyboard.press("e")
    await isState(page, "following")
    await frame(page)
    expect(await page.evaluate(() => document.activeElement.matches(".log")), "the focus went nowhere")
    const label = await page.getAttribute(".log", "aria-label"), live = await page.evaluate(() => document.querySelector(".log").closest("[aria-live], [role=log], [role=status]"))
    expect(label === "stdout of attempt 1" && live === null, `${label}; every line would be read aloud`)
    expect((await page.textContent("[data-said]")) === "following", await page.textContent("[data-said]"))
  },

  async "nine tabs of which eight are hidden: each loads, and the one that is seen goes on"() {
    const task = await ask("task")
    let all = await ask("print", { task, text: "line %d\n", times: 10 })
    const first = await opened(`/tasks/${task}`), pages = [first]
    for (let n = 1; n < 9; n += 1) {
      await size(pages.at(-1), all)
      await hide(pages.at(-1), true)
      const page = await first.context().newPage(), began = Date.now()
      await page.goto(`${base}/tasks/${task}`)
      await size(page, all)
      expect(Date.now() - began < 5000, `tab ${n + 1} took ${Date.now() - began} ms`)
      pages.push(page)
    }
    all += await ask("print", { task, text: "line %d\n", times: 10, first: 10 })
    await size(pages.at(-1), all)
    expect((await log(first, log => log.lines.last.size)) < all, "a hidden tab goes on")
    await hide(pages.at(-1), true)
    await hide(first, false)
    await size(first, all)
    expect((await whole(first))[0] === numbered(0, 20), "lines are missing, or there twice")
  },

  async "whose token ends has to sign in again, and comes back to the same place"() {
    const task = await ask("task")
    await ask("print", { task, text: "line %d\n", times: 10 })
    const page = await opened(`/tasks/${task}?stream=stdout`, "admin")
    await size(page, 70)
    await ask("sign_out", { role: "admin" })
    await page.waitForURL(url => url.pathname === "/login")
    expect(page.url().includes(encodeURIComponent(`/tasks/${task}?stream=stdout`)), page.url())
  },

  async "a command is copied"() {
    const task = await ask("task")
    const page = await opened(`/tasks/${task}`, "operate", { permissions: ["clipboard-read", "clipboard-write"] })
    await page.click("summary:has-text('CLI')")
    await page.click(".menu .row:has-text('task output') button")
    const copied = await page.evaluate(() => navigator.clipboard.readText())
    expect(copied === `disbatch-host task output ${task} --follow`, copied)
  },

  async "without JavaScript the end is there, and links to what is older, and what is found"() {
    const task = await ask("task")
    await ask("print", { task, text: "line %d\n", times: 20000 })
    await ask("end", { task })
    const page = await visitor({ javaScriptEnabled: false })
    await page.goto(`${base}/tasks/${task}`)
    await page.fill("#token", tokens.read)
    await page.click("button.primary")
    await page.waitForLoadState()
    expect((await page.locator(".log li").last().innerText()).trim().endsWith("line 19999"), "not the end")
    await page.click("text=Show older")
    await page.waitForLoadState()
    expect((await page.locator(".log li").last().innerText()).includes("line "), "nothing older")
    await page.fill("[name=find]", "line 1234")
    await page.click("button:has-text('Find')")
    expect((await text(page, "[data-found]")) === "11 of 11", await text(page, "[data-found]"))
    await page.click("[aria-label='Previous hit']")
    expect((await text(page, "[data-found]")) === "10 of 11", await text(page, "[data-found]"))
    const marked = page.locator(".log li:target")
    expect((await marked.innerText()).includes("line 12348"), await marked.innerText())
  },
})
