// What all flows through the page in a real Chromium share: visitors, what is found wrong, and what the test is asked for.
import { createRequire } from "node:module"
import { createInterface } from "node:readline"

const { chromium } = createRequire(import.meta.url)("playwright-core")
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
export const told = JSON.parse((await lines.next()).value)
export const { base, tokens } = told
export const browser = await chromium.launch({
  executablePath: told.chromium,
  args: ["--no-sandbox", "--enable-precise-memory-info", "--host-resolver-rules=MAP jobs.test 127.0.0.1,MAP evil.test 127.0.0.1"],
})
export let said = [] // in the console

export async function visitor(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(20000)
  // That something was refused is said on the page; the browser's own line about it is no fault.
  page.on("console", message => /status of 4\d\d/.test(message.text()) || said.push(`${message.type()}: ${message.text()}`))
  page.on("pageerror", error => said.push(`error: ${error.message}`))
  return page
}

export async function signedIn(role = "admin", options = {}, at = base) {
  const page = await visitor(options)
  await page.goto(`${at}/login#t=${tokens[role]}`)
  await page.waitForURL(url => url.pathname !== "/login")
  return page
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

// Each flow in its turn; a line of JSON with what was wrong in it.
export async function run(flows) {
  for (const [flow, does] of Object.entries(flows)) {
    said = []
    const problems = []
    try {
      await does()
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
