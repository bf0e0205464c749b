// What all flows through the page in a real Chromium share: visitors, what is found wrong, and what the test is asked for.
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { createInterface } from "node:readline"

const require = createRequire(import.meta.url)
const { chromium } = require("playwright-core")
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8")
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
export const told = JSON.parse((await lines.next()).value)
export const { base, tokens } = told
export const browser = await chromium.launch({
  executablePath: told.chromium,
  args: ["--no-sandbox", "--enable-precise-memory-info", "--host-resolver-rules=MAP *.test 127.0.0.1"],
})
export let said = [] // in the console

export async function visitor(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(20000)
  // That something was refused is said on the page; the browser's own line about it is no fault.
  page.on("console", message => /status of (4\d\d|503)/.test(message.text()) || said.push(`${message.type()}: ${message.text()}`))
  page.on("pageerror", error => said.push(`error: ${error.message}`))
  page.on("dialog", dialog => { said.push(`dialog: ${dialog.message()}`); dialog.dismiss() })
  return page
}

export async function signedIn(role = "admin", options = {}, at = base, its = tokens) {
  const page = await visitor(options)
  await page.goto(`${at}/login#t=${its[role]}`)
  await page.waitForURL(url => !url.pathname.endsWith("/login"))
  return page
}

// The same with a session that is there already, for those who look at many screens.
const sessions = new Map()
export async function resumed(role = "admin", options = {}, at = base, its = tokens) {
  const key = `${role} ${at}`
  if (!sessions.has(key)) sessions.set(key, await (await signedIn(role, {}, at, its)).context().storageState())
  return visitor({ storageState: sessions.get(key), ...options })
}

export function expect(is, words) {
  if (!is) throw new Error(words)
}

// Forgets what was said that is no fault, such as a connection that a flow has broken itself.
export function forgive(pattern) { said = said.filter(one => !pattern.test(one)) }

export const text = (page, selector) => page.locator(selector).first().innerText()

// Something that only the test can do, such as printing; what it answers.
export async function ask(what, more = {}) {
  console.log(JSON.stringify({ ask: what, ...more }))
  return JSON.parse((await lines.next()).value)
}

// What axe-core finds wrong; `rules`: only these.
export async function faults(page, rules) {
  await page.evaluate(axe)
  const { violations, passes } = await page.evaluate(given => globalThis.axe.run(given ? { runOnly: given } : {}), rules)
  if (!passes.length) return ["axe has looked at nothing"]
  return violations.map(one => `${one.id}: ${one.nodes.map(node => node.html.slice(0, 160)).join(" | ")}`)
}

// What is wrong with a page for somebody: at three widths, and at the width of a phone, where least fits, everything in
// one scheme, and the contrast of its colors in the other.
export async function looked(page) {
  const problems = []
  await page.emulateMedia({ colorScheme: "light" })
  for (const width of [1280, 640, 390]) {
    await page.setViewportSize({ width, height: 800 })
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
    if (wide > 0) problems.push(`${width} px: ${wide} px too wide`)
  }
  problems.push(...await faults(page))
  await page.emulateMedia({ colorScheme: "dark" })
  problems.push(...await faults(page, ["color-contrast"]))
  return problems
}

// Each flow in its turn; a flow may return what it found wrong; a line of JSON with what was wrong in it.
export async function run(flows) {
  for (const [flow, does] of Object.entries(flows)) {
    if (process.env.ONLY && !new RegExp(process.env.ONLY).test(flow)) continue
    said = []
    const problems = []
    try {
      problems.push(...(await does()) ?? [])
    } catch (error) {
      problems.push(String(error.stack).slice(0, 2000))
    }
    console.log(JSON.stringify({ flow, problems: [...problems, ...said] }))
    if (process.env.TIMES) console.error(flow, Math.round(performance.now()))
    await Promise.all(browser.contexts().map(one => one.close()))
  }
  await browser.close()
  process.exit()
}
