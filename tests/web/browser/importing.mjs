// An import in a real Chromium: its flow with a script and without, and each of its steps and states as everybody reads it.
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"

const require = createRequire(import.meta.url)
const { chromium } = require("playwright-core")
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8")
const told = JSON.parse(readFileSync(0, "utf8"))
const { base, tokens, files, shots } = told

const browser = await chromium.launch({ executablePath: told.chromium, args: ["--no-sandbox"] })
let said = []

async function signedIn(role, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(60000)
  page.on("console", message => /status of 4\d\d/.test(message.text()) || said.push(`${message.type()}: ${message.text()}`))
  page.on("pageerror", error => said.push(`error: ${error.message}`))
  await page.goto(`${base}/login`)
  await page.fill("#token", tokens[role])
  await page.click("button.primary")
  await page.waitForURL(url => url.pathname !== "/login")
  return page
}

function expect(is, words) {
  if (!is) throw new Error(words)
}
const text = async (page, selector = "main") => (await page.locator(selector).first().innerText()).replaceAll("\u202f", "")

// Each state of a screen, once it is there: three widths, both schemes, axe-core.
const screens = {}
async function look(page, name) {
  const problems = []
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme })
    for (const width of [1280, 640, 390]) {
      await page.setViewportSize({ width, height: 900 })
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
      if (wide > 0) problems.push(`${width} px: ${wide} px too wide`)
      if (shots) await page.screenshot({ path: `${shots}/${name.replaceAll(/\W+/g, "-")}-${width}-${scheme}.png`, fullPage: true })
    }
    await page.evaluate(axe)
    const rules = scheme === "light" ? "" : "{ runOnly: ['color-contrast'] }"
    const { violations, passes } = await page.evaluate(`axe.run(${rules})`)
    if (!passes.length) problems.push("axe has looked at nothing")
    for (const one of violations) problems.push(`${scheme} ${one.id}: ${one.nodes.map(node => node.html.slice(0, 160)).join(" | ")}`)
  }
  await page.emulateMedia({ colorScheme: "light" })
  await page.setViewportSize({ width: 1280, height: 900 })
  screens[name] = problems
}

const flows = {
  async "50,000 rows of which 188 do not fit, to their batch"() {
    const page = await signedIn("operate")
    await page.goto(`${base}/queues/people`)
    await page.click(".acts a:has-text('Import')")
    await look(page, "no file")
    await page.setInputFiles("#file", files.large)
    await page.click("button.primary")
    await page.waitForURL(/step=file/)
    expect((await text(page)).includes("10000 or more"), await text(page))
    await look(page, "file")
    await page.click("a:has-text('Next: columns')")
    expect((await page.inputValue("[id='to.0']")) === "user", "the column was not guessed")
    expect(!(await page.content()).includes("planted-5ecret"), "a secret is shown")
    await look(page, "columns")
    await page.selectOption("[id='to.0']", "")
    await page.click("button.primary")
    expect(await page.evaluate(() => document.activeElement.id === "faults"), "the summary has no focus")
    expect((await text(page, "#faults")).includes("required"), await text(page, "#faults"))
    await look(page, "columns with a fault")
    await page.selectOption("[id='to.0']", "user")
    await page.click("summary:has-text('The same for all tasks')")
    await page.fill("[name='/tries']", "3")
    await look(page, "columns with what is the same")
    await page.click("button.primary")
    await page.waitForURL(/step=check/)
    await page.waitForSelector("button:has-text('Skip them')")
    const found = await text(page)
    expect(/49812\s+fit,\s+188\s+do not/.test(found), found.slice(0, 800))
    expect((await page.locator("table").first().locator("tbody tr").count()) === 100, "not the first 100 are shown")
    expect(found.includes(String(told.bad[0])) && found.includes("at most 20 characters"), "the first line is not named")
    await look(page, "checked")
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("a:has-text('Download the 188 rows')")])
    const rows = readFileSync(await download.path(), "utf8").trim().split("\r\n")
    expect(rows.length === 189 && rows[0].endsWith('"line","reason"'), `${rows.length} lines, ${rows[0]}`)
    expect(!rows.join().includes("planted-5ecret"), "a secret is in the table")
    await page.click("button:has-text('Skip them, import 49')")
    await page.waitForURL(/\/imports\//)
    await page.waitForSelector("a:has-text('Go on to its batch')")
    const done = await text(page)
    expect(/49812/.test(done) && /188/.test(done), done.slice(0, 600))
    await look(page, "done")
    await page.click("a:has-text('Go on to its batch')")
    expect((await text(page)).includes("49812"), (await text(page)).slice(0, 400))
    await page.goBack()
    expect((await text(page, "h1")).includes("done"), await text(page, "h1"))
    await page.goto(`${base}/imports`)
    await look(page, "imports")
    await page.context().close()
  },

  async "a file that is dropped, with how much of it has come"() {
    const page = await signedIn("operate")
    await page.goto(`${base}/queues/people/import`)
    const words = []
    await page.exposeFunction("heard", one => words.push(one))
    await page.evaluate(() => new MutationObserver(() => heard(document.querySelector("[role=status]").textContent))
      .observe(document.querySelector("[data-progress]"), { subtree: true, childList: true, characterData: true }))
    await page.evaluate(() => {
      const data = new DataTransfer()
      data.items.add(new File(["user,password\n" + "ann,b\n".repeat(400000)], "dropped.csv"))
      for (const kind of ["dragenter", "dragover", "drop"]) {
        document.querySelector("send-file").dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }))
      }
    })
    await page.waitForURL(/step=file/)
    expect((await text(page)).includes("dropped.csv"), "it is not the file that was dropped")
    expect(words.some(one => / of 2\.3 MiB of dropped\.csv sent/.test(one)), words.join(" | "))
    await page.context().close()
  },

  async "what cannot be taken is said at once, and the page stays"() {
    const page = await signedIn("operate")
    await page.goto(`${base}/queues/people/import`)
    await page.setInputFiles("#file", { name: "none.csv", mimeType: "text/csv", buffer: Buffer.from("") })
    await page.click("button.primary")
    await page.waitForSelector("#faults")
    expect((await text(page, "#faults")).includes("is empty"), await text(page, "#faults"))
    expect(await page.evaluate(() => document.activeElement.id === "faults"), "it has no focus")
    await look(page, "not taken")
    await page.evaluate(() => { document.querySelector("send-file").dataset.max = 10 })
    await page.setInputFiles("#file", { name: "big.csv", mimeType: "text/csv", buffer: Buffer.from("user\n".repeat(10)) })
    await page.click("button.primary")
    expect((await text(page, "#faults")).includes("at most 10 B"), await text(page, "#faults"))
    await page.setInputFiles("#file", { name: "twice.csv", mimeType: "text/csv", buffer: Buffer.from("user,user\na;,b\nc\n") })
    await page.evaluate(() => { document.querySelector("send-file").dataset.max = 1e9 })
    await page.click("button.primary")
    await page.waitForURL(/step=file/)
    await look(page, "a file with faults")
    await page.context().close()
  },

  async "works without JavaScript"() {
    const page = await signedIn("operate", { javaScriptEnabled: false })
    await page.goto(`${base}/queues/people/import`)
    await page.setInputFiles("#file", { name: "few.csv", mimeType: "text/csv", buffer: Buffer.from("Mailbox;password\nann;planted-5ecret\nbob;planted-5ecret\n") })
    await page.click("button.primary")
    await page.click("a:has-text('Next: columns')")
    expect((await page.inputValue("[id='to.0']")) === "user", "the title was not guessed")
    await page.selectOption("#key", "0")
    await page.click("button.primary")
    while (await page.locator("a:has-text('Look again')").count()) await page.click("a:has-text('Look again')")
    expect(/2\s+fit/.test(await text(page)), await text(page))
    expect(!(await page.content()).includes("planted-5ecret"), "a secret is shown")
    await page.click("button:has-text('Import 2')")
    while (await page.locator("a:has-text('Look again')").count()) await page.click("a:has-text('Look again')")
    await page.click("a:has-text('Go on to its batch')")
    expect((await page.title()).includes("disbatch"), await page.title())
    await page.context().close()
  },

  async "by the keyboard alone"() {
    const page = await signedIn("operate")
    await page.goto(`${base}/queues/people/import`)
    await page.setInputFiles("#file", { name: "keys.csv", mimeType: "text/csv", buffer: Buffer.from("user,password\nann,b\n") })
    const to = async wanted => {
      for (let n = 0; n < 60; n += 1) {
        await page.keyboard.press("Tab")
        if (await page.evaluate(words => document.activeElement.textContent.trim().startsWith(words), wanted)) return
      }
      throw new Error(`${wanted} cannot be reached`)
    }
    await to("Send")
    await page.keyboard.press("Enter")
    await page.waitForURL(/step=file/)
    await to("Next: columns")
    await page.keyboard.press("Enter")
    await page.waitForURL(/step=map/)
    await to("Check all rows")
    await page.keyboard.press("Enter")
    await page.waitForURL(/step=check/)
    await page.waitForSelector("button:has-text('Import 1')")
    await to("Import 1")
    await page.keyboard.press("Enter")
    await page.waitForURL(/\/imports\//)
    await page.waitForSelector("a:has-text('Go on to its batch')")
    await page.context().close()
  },

  async "other states"() {
    const page = await signedIn("operate")
    for (const [name, path] of Object.entries(told.screens)) {
      await page.goto(base + path)
      await look(page, name)
    }
    await page.goto(`${base}/queues/alone/import`)
    await page.setInputFiles("#file", { name: "any.csv", mimeType: "text/csv", buffer: Buffer.from("a,b\n1,2\n") })
    await page.click("button.primary")
    await page.click("a:has-text('Next: columns')")
    await look(page, "columns of an unknown plugin")
    await page.goto(`${base}/queues/people/import`)
    await page.setInputFiles("#file", { name: "held.csv", mimeType: "text/csv", buffer: Buffer.from("user,password\nhold me,b\n") })
    await page.click("button.primary")
    await page.click("a:has-text('Next: columns')")
    await page.click("button.primary")
    await page.waitForURL(/step=check/)
    await look(page, "checking")
    expect((await text(page)).includes("goes on if you close"), await text(page))
    await page.goto(`${base}/imports`)
    await look(page, "imports and files")
    const reader = await signedIn("read")
    await reader.goto(`${base}/queues/people/import`)
    await look(reader, "refused")
    await reader.context().close()
    await page.context().close()
  },
}

for (const [flow, run] of Object.entries(flows)) {
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
for (const [flow, problems] of Object.entries(screens)) console.log(JSON.stringify({ flow, problems }))
await browser.close()
