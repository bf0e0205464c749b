// What renews itself, in a real Chromium: told on standard input what is there; prints a line of JSON for each flow.
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"

const require = createRequire(import.meta.url)
const { chromium } = require("playwright-core")
const { base, tokens, chromium: executablePath, chosen } = JSON.parse(readFileSync(0, "utf8"))
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] })
let said = []

async function signedIn(role = "admin", path = "/") {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } })
  const page = await context.newPage()
  page.setDefaultTimeout(20000)
  page.on("console", message => /status of [45]\d\d|ERR_/.test(message.text()) || said.push(`${message.type()}: ${message.text()}`))
  page.on("pageerror", error => said.push(`error: ${error.message}`))
  page.streams = []
  page.asked = []
  page.on("request", one => (/\/events$/.test(one.url()) ? page.streams : page.asked).push(one.url()))
  await page.goto(`${base}/login#t=${tokens[role]}`)
  await page.waitForURL(url => url.pathname !== "/login")
  await page.goto("about:blank")
  page.streams.length = page.asked.length = 0
  await page.goto(base + path)
  return page
}

function expect(is, words) {
  if (!is) throw new Error(words)
}

const push = (page, queue, count) => page.evaluate(([queue, count]) => fetch(`/api/v1/queues/${queue}/tasks`, {
  method: "POST", headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ tasks: Array.from({ length: count }, (_, n) => ({ parameters: { user: `p${n}` } })) }),
}).then(answer => answer.json()), [queue, count])
const change = (page, path, body = {}) => page.evaluate(([path, body]) => fetch(`/api/v1${path}`, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
}).then(answer => answer.status), [path, body])
const text = (page, selector) => page.locator(selector).first().innerText()
const until = (page, what, given) => page.waitForFunction(what, given, { polling: 100 })
const cell = (queue, label) => `[id="q-${queue}"] [data-l="${label}"]`
const rowTop = page => page.evaluate(() => document.querySelector("tbody tr").getBoundingClientRect().top)
async function hide(page, is) {
  await page.evaluate(is => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => is })
    document.dispatchEvent(new Event("visibilitychange"))
  }, is)
}

const flows = {
  async "the overview goes on by one stream"() {
    const page = await signedIn()
    await until(page, () => /renewed \d+ s ago/.test(document.querySelector("[data-renewed]").textContent))
    const before = await text(page, cell("flowing", "waiting"))
    await push(page, "flowing", 7)
    await until(page, ([at, was]) => document.querySelector(at).textContent !== was, [cell("flowing", "waiting"), before])
    expect(page.streams.length === 1, `${page.streams.length} streams`)
    expect(new URL(page.url()).search === "", page.url())
    await page.context().close()
  },

  async "what has the focus keeps it, and is renewed all the same"() {
    const page = await signedIn()
    const link = page.locator(`[id="q-flowing"] th a`)
    await link.focus()
    const top = await rowTop(page), before = await text(page, cell("flowing", "waiting"))
    await push(page, "flowing", 3)
    await until(page, ([at, was]) => document.querySelector(at).textContent !== was, [cell("flowing", "waiting"), before])
    expect(await link.evaluate(one => one === document.activeElement), "the focus is lost")
    expect((await rowTop(page)) === top, "the rows have moved")
    await page.context().close()
  },

  async "a row under the pointer stays where it is; new ones are a bar"() {
    const page = await signedIn("admin", "/tasks?queue=hovered")
    const first = page.locator("tbody tr").first(), id = await first.getAttribute("id")
    await first.hover()
    const top = await rowTop(page)
    await push(page, "hovered", 3)
    await page.waitForSelector("#fresh")
    expect((await text(page, "#fresh")) === "3 new show", await text(page, "#fresh"))
    expect((await page.locator("tbody tr").first().getAttribute("id")) === id, "another row is under the pointer")
    expect((await rowTop(page)) === top, "the row has moved")
    await page.click("#fresh a")
    await until(page, was => document.querySelector("tbody tr").id !== was, id)
    expect((await page.locator("#fresh").count()) === 0, "the bar is still there")
    await page.context().close()
  },

  async "a selected row shows how its task goes on although it fits no longer"() {
    const page = await signedIn("admin", "/tasks?queue=selected&status=created")
    const row = page.locator("tbody tr").first(), id = (await row.getAttribute("id")).slice(2)
    await row.locator("input").check()
    await page.mouse.move(2, 2)
    expect((await change(page, `/tasks/${id}/cancel`)) === 200, "not cancelled")
    await page.waitForSelector(`#t-${id} .st.cancelled`)
    expect(await row.locator("input").isChecked(), "it is not selected any more")
    await row.locator("input").uncheck()
    await page.mouse.move(2, 2)
    await page.evaluate(() => document.activeElement.blur())
    await page.waitForSelector(`#t-${id}`, { state: "detached" })
    await page.context().close()
  },

  async "a selection grows to all that fit, and the question is asked over the list"() {
    const page = await signedIn("admin", "/tasks?queue=many&status=created")
    await page.check("[data-all]")
    expect((await text(page, "[data-count]")) === "50 on this page selected.", await text(page, "[data-count]"))
    await page.click("[data-all-fit]")
    expect((await text(page, "[data-count]")) === "All 60 that fit are selected.", await text(page, "[data-count]"))
    await page.click(".bar button[value=cancel]")
    await page.waitForSelector("dialog[open]")
    expect((await text(page, "dialog h1")).includes("Cancel 60 tasks?"), await text(page, "dialog h1"))
    expect(await page.evaluate(() => document.activeElement.name === "reason"), "the reason has no focus")
    await page.keyboard.press("Escape")
    await page.waitForSelector("dialog", { state: "detached" })
    expect((await page.locator("tbody input:checked").count()) === 50, "the selection is gone")
    await page.click(".bar button[value=cancel]")
    await page.fill("dialog [name=reason]", "enough")
    await page.click("dialog button.danger")
    await page.waitForURL(/\/operations\/\w+$/)
    await page.waitForSelector("h1 .st.concluded")
    expect((await text(page, ".figs")).includes("60"), await text(page, ".figs"))
    await page.context().close()
  },

  async "a stream that is refused is said, and the page asks every 5 s"() {
    const page = await signedIn("admin", "/nodes")
    await page.route("**/overview/events", route => route.fulfill({ status: 503, contentType: "application/problem+json", body: "{}" }))
    await page.goto(`${base}/`)
    await until(page, () => /every 5 s/.test(document.querySelector("[data-renewed]").textContent))
    const before = await text(page, cell("flowing", "waiting"))
    await push(page, "flowing", 2)
    await until(page, ([at, was]) => document.querySelector(at).textContent !== was, [cell("flowing", "waiting"), before])
    expect((await page.locator("#stream").count()) === 0, "it still has a stream")
    await page.context().close()
  },

  async "a stream that breaks three times is given up"() {
    const page = await signedIn("admin", "/nodes")
    await page.route("**/overview/events", route => route.fulfill({ status: 200, contentType: "text/event-stream", body: ":\n\n" }))
    await page.goto(`${base}/`)
    await until(page, () => /every 5 s/.test(document.querySelector("[data-renewed]").textContent))
    const count = page.streams.length
    expect(count === 3, `streams: ${page.streams.join()}`)
    await page.context().close()
  },

  async "trouble is said with the words of the store, and what was seen stays"() {
    const page = await signedIn("admin", "/nodes")
    const told = `event: trouble\ndata: {"message": "the disk is full", "age_seconds": 4}\n\n`
    await page.route("**/overview/events", route => route.fulfill({ status: 200, contentType: "text/event-stream", body: told }))
    await page.route(`${base}/`, async (route, request) => (request.headers()["hx-request"] ? route.abort() : route.continue()))
    await page.goto(`${base}/`)
    await page.waitForSelector("#trouble")
    const words = await text(page, "#trouble")
    expect(/^Not renewed since \d\d:\d\d: the disk is full\. Try now$/.test(words), words)
    expect(await page.locator("#live.old .figs").isVisible(), "the figures are gone, or look as if they were new")
    await page.unroute(`${base}/`)
    await page.unroute("**/overview/events")
    await page.click("#trouble a")
    await page.waitForSelector("#trouble", { state: "detached" })
    expect((await page.locator("#live.old").count()) === 0, "still grey")
    await page.context().close()
  },

  async "a hidden tab lets go of its stream and asks nothing; it comes back with what is new"() {
    const page = await signedIn()
    await page.waitForResponse(/\/events$/)
    await until(page, () => /renewed \d+ s ago/.test(document.querySelector("[data-renewed]").textContent))
    const gone = page.waitForEvent("requestfailed", one => /\/events$/.test(one.url())).catch(() => null)
    await hide(page, true)
    await Promise.race([gone, page.waitForEvent("requestfinished", one => /\/events$/.test(one.url()))])
    const asked = page.asked.length, streams = page.streams.length, before = await text(page, cell("flowing", "waiting"))
    await push(page, "flowing", 4)
    await page.waitForTimeout(3000)
    expect(page.asked.length === asked + 1 && page.streams.length === streams, "it asks while nobody sees it")
    const back = page.waitForRequest(/\/events$/)
    await hide(page, false)
    await until(page, ([at, was]) => document.querySelector(at).textContent !== was, [cell("flowing", "waiting"), before])
    await back
    expect(page.streams.length === streams + 1, `${page.streams.length} streams`)
    await page.context().close()
  },

  async "a point pauses and goes on, by its address"() {
    const page = await signedIn()
    await page.keyboard.press(".")
    await page.waitForURL(/live=off/)
    expect((await text(page, ".live")).startsWith("paused at"), await text(page, ".live"))
    expect((await page.locator("#stream").count()) === 0, "it still has a stream")
    await page.keyboard.press(".")
    await page.waitForURL(url => !url.search.includes("live"))
    await page.context().close()
  },

  async "a batch goes on by its own stream"() {
    const page = await signedIn("admin", "/batches/wave")
    const before = await text(page, "#s-waiting .n")
    const { items } = await page.evaluate(() => fetch("/api/v1/tasks?batch=wave&status=created&limit=2").then(one => one.json()))
    for (const one of items) await change(page, `/tasks/${one._id}/cancel`)
    await until(page, ([at, was]) => document.querySelector(at).textContent !== was, ["#s-waiting .n", before])
    expect(page.streams.length === 1 && page.streams[0].endsWith("/batches/wave/events"), page.streams.join())
    await page.context().close()
  },

  async "keys go through rows and open one, and can be switched off"() {
    const page = await signedIn("admin", "/tasks?queue=selected")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    const id = await page.evaluate(() => document.activeElement.closest("tr").id)
    expect(id === (await page.locator("tbody tr").first().getAttribute("id")), id)
    await page.keyboard.press("x")
    expect((await page.locator("tbody input:checked").count()) === 1, "x selects nothing")
    await page.keyboard.press("x")
    await page.keyboard.press("Enter")
    await page.waitForURL(/\/tasks\/\w{24}/)
    const there = page.url()
    await page.keyboard.press("?")
    await page.waitForSelector("dialog[open] #keys")
    expect(page.url() === there, `the keys lead to ${page.url()}`)
    await page.keyboard.press("Escape")
    await page.waitForSelector("dialog[open]", { state: "hidden" })
    for (const [key, path] of [["o", "/"], ["b", "/batches"], ["q", "/queues"], ["t", "/tasks"], ["f", "/failures"], ["n", "/nodes"], ["p", "/plugins"]]) {
      await page.keyboard.press("g")
      await page.keyboard.press(key)
      await page.waitForURL(url => url.pathname === path)
    }
    await page.goto(`${base}/keys`)
    await page.check("#keys-off")
    await page.evaluate(() => document.activeElement.blur())
    await page.keyboard.press("g")
    await page.keyboard.press("o")
    await page.waitForTimeout(300)
    expect(page.url().endsWith("/keys"), page.url())
    await page.context().close()
  },
}

for (const [flow, run] of Object.entries(flows)) {
  if (chosen && !flow.includes(chosen)) continue
  said = []
  const problems = []
  try {
    await run()
  } catch (error) {
    problems.push(String(error.stack).slice(0, 2000))
  }
  console.log(JSON.stringify({ flow, problems: [...problems, ...said] }))
  if (process.env.TIMES) console.error(flow, Math.round(performance.now()))
}
await browser.close()
