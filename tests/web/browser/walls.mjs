// What must hold whatever people and programs write, whichever site asks, and however somebody looks at it.
import { createServer } from "node:http"
import { base, expect, faults, forgive, looked, resumed, run, signedIn, text, told, tokens, visitor } from "./visiting.mjs"

const { addresses, sites, screens, proxies, tasks } = told

// A second origin that is a server of its own: of the same site, as ports do not count, so it gets the cookie as well.
const other = createServer((_, answer) => answer.end("<!doctype html><title>other</title><link rel=icon href=data:,>"))
await new Promise(done => other.listen(told.elsewhere, "127.0.0.1", done))
const ORIGINS = [`http://127.0.0.1:${told.elsewhere}/`, "http://evil.test/"]

async function onOtherSite(page, origin) {
  if (origin.includes("evil.test")) {
    await page.route(`${origin}**`, route => route.fulfill({ contentType: "text/html", body: "<!doctype html><title>evil</title>" }))
  }
  await page.goto(origin)
}

// In the page: what should not be there.
const strange = () => [
  ...[...document.querySelectorAll("evil-mark, img, iframe, object, script:not([src]), style, [onerror], [onclick]")]
    .map(one => one.outerHTML.slice(0, 120)),
  ...[...document.querySelectorAll("a[href], form[action]")].map(one => one.href ?? one.action).filter(one => /^\s*(javascript|data):/i.test(one)),
  ...(window.hacked ? ["a script of somebody else has run"] : []),
  ...(window.violations ?? []),
]

async function watched(role = "admin", options = {}) {
  const page = await signedIn(role, options)
  await page.addInitScript(() => document.addEventListener("securitypolicyviolation", event => {
    (window.violations ??= []).push(`${event.violatedDirective}: ${event.blockedURI}`)
  }))
  return page
}

const atSite = async (name, role = "admin", options = {}) => resumed(role, options, sites[name].base, sites[name].tokens)

// A task that prints goes on to do so on its page.
async function moreLines(page) {
  const numbers = () => [...document.querySelector(".log").innerText.matchAll(/line (\d+)/g)].map(one => Number(one[1]))
  let before
  while (!(before = Math.max(0, ...await page.evaluate(numbers)))) await page.waitForTimeout(100)
  await page.waitForFunction(n => document.querySelector(".log").innerText.includes(`line ${n} `), before + 4)
}

const flows = {
  async "markup stays text on every page"() {
    const page = await watched()
    const problems = []
    for (const address of addresses) {
      await page.goto(base + address)
      problems.push(...(await page.evaluate(strange)).map(one => `${address}: ${one}`))
    }
    expect(addresses.length > 40, `only ${addresses.length} pages`)
    await page.context().close()
    return problems
  },

  async "markup stays text as it comes, and in what is said of it"() {
    const page = await watched("read")
    await page.goto(`${base}/tasks/${tasks.live}`)
    await moreLines(page)
    await page.waitForFunction(() => document.querySelector("#live, main").textContent.includes("<evil-mark>"))
    const found = await page.evaluate(strange)
    await page.goto(base)
    await page.waitForFunction(() => document.querySelector("main").textContent.includes("<evil-mark>"))
    found.push(...await page.evaluate(strange))
    await page.context().close()
    return found
  },

  async "a form of another origin changes nothing"() {
    const page = await signedIn()
    for (const origin of ORIGINS) {
      for (const path of [`tasks/${tasks.kept}/cancel`, `api/v1/tasks/${tasks.kept}/cancel`]) {
        await onOtherSite(page, origin)
        await page.evaluate(action => {
          document.body.innerHTML = "<form method=post><button>Win a prize</button></form>"
          document.forms[0].action = action
        }, `${base}/${path}`)
        await page.click("button")
        await page.waitForURL(url => url.href.startsWith(base))
        // A page of another site does not even get the cookie: somebody who is signed in is led to the overview.
        const words = await text(page, "body")
        expect(/page of this server|Nobody is signed in|Overview/.test(words) && !words.includes("cancelled by"), words)
      }
    }
    await page.goto(`${base}/tasks/${tasks.kept}`)
    expect((await text(page, "h1")).includes("created"), await text(page, "h1"))
    await page.context().close()
  },

  async "a script of another origin reads and changes nothing"() {
    const page = await signedIn()
    for (const origin of ORIGINS) {
      await onOtherSite(page, origin)
      const got = await page.evaluate(async ([api, task, token]) => {
        const asked = async (path, options) => {
          try {
            const answer = await fetch(api + path, { credentials: "include", ...options })
            return answer.type === "opaque" ? "" : (await answer.text()).slice(0, 100)
          } catch { return "" }
        }
        return [
          await asked("/queues"), await asked(`/tasks/${task}/cancel`, { method: "POST", mode: "no-cors", body: "{}" }),
          await asked(`/tasks/${task}/cancel`, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" }),
          await asked("/queues", { headers: { Authorization: `Bearer ${token}` }, credentials: "omit" }),
        ].join("")
      }, [`${base}/api/v1`, tasks.kept, tokens.admin])
      expect(got === "", got)
    }
    await page.goto(`${base}/tasks/${tasks.kept}`)
    expect((await text(page, "h1")).includes("created"), await text(page, "h1"))
    forgive(/CORS|ERR_|Cross-Origin/) // that it was refused, in the browser's words
    await page.context().close()
  },

  async "a page that was named reads with a token"() {
    const page = await visitor()
    await onOtherSite(page, ORIGINS[0])
    const got = await page.evaluate(async ([api, token]) => {
      const answer = await fetch(`${api}/tasks?limit=1`, { headers: { Authorization: `Bearer ${token}` } })
      return [answer.status, answer.headers.get("ETag"), (await answer.json()).items.length]
    }, [`${sites.shared.base}/api/v1`, sites.shared.tokens.read])
    expect(got[0] === 200 && got[1] && got[2] === 1, String(got))
    await page.context().close()
  },

  async "a name of another site leads to nothing"() {
    const page = await visitor()
    for (const path of ["", "login", "api/v1/queues", "queues"]) {
      const answer = await page.goto(`${base.replace("127.0.0.1", "evil.test")}/${path}`)
      expect(answer.status() === 421, `${path}: ${answer.status()}`)
      expect((await text(page, "body")).includes("--public-url"), await text(page, "body"))
    }
    forgive(/Cross-Origin-Opener-Policy|MIME type/) // files of the page lead to nothing as well
    await page.context().close()
  },

  async "a session that has ended leads to signing in, and back"() {
    const page = await signedIn("operate")
    await page.goto(`${base}/queues?live=off`)
    await page.context().clearCookies()
    await page.click("nav a:has-text('Tasks')")
    await page.waitForURL(/\/login\?next=%2Ftasks/)
    expect((await faults(page)).length === 0, "signing in")
    await page.fill("#token", "dsb_wrong_token")
    await page.click("button.primary")
    const words = await text(page, "[role=alert]")
    expect(words.includes("not known here"), words)
    const wrong = await faults(page)
    await page.fill("#token", tokens.operate)
    await page.click("button.primary")
    await page.waitForURL(/\/tasks$/)
    await page.context().close()
    return wrong
  },

  async "menus and dialogs can be read by everybody"() {
    const problems = []
    for (const [options, width] of [[{}, 1280], [{}, 390]]) {
      const page = await atSite("real", "admin", options)
      await page.setViewportSize({ width, height: 800 })
      for (const path of told.menus) {
        await page.goto(sites.real.base + path)
        if (width === 390) {
          await page.click(".burger")
          problems.push(...(await faults(page)).map(one => `${path}, menu: ${one}`))
          await page.keyboard.press("Escape")
        }
        const count = await page.locator("details.menu > summary").count()
        for (let n = 0; n < count; n += 1) {
          const summary = page.locator("details.menu > summary").nth(n)
          if (!await summary.isVisible()) continue
          await summary.click()
          const where = `${path} at ${width}, ${await summary.innerText()}`
          problems.push(...(await faults(page)).map(one => `${where}: ${one}`))
          const box = await page.locator("details.menu").nth(n).locator("> :not(summary)").first().boundingBox()
          if (!box || box.x < 0 || box.x + box.width > width) problems.push(`${where}: ${JSON.stringify(box)}`)
          await page.emulateMedia({ colorScheme: "dark" })
          problems.push(...(await faults(page, ["color-contrast"])).map(one => `${where}, dark: ${one}`))
          await page.emulateMedia({ colorScheme: "light" })
          await page.keyboard.press("Escape")
          if (await page.locator("details.menu").nth(n).evaluate(one => one.open)) await summary.click()
        }
      }
      await page.context().close()
    }
    return problems
  },

  async "a change that was too late and a form that does not fit can be read by everybody"() {
    const page = await atSite("real")
    const problems = []
    const change = `${sites.real.base}/queues/mail/change`
    await page.goto(change)
    const second = await page.context().newPage()
    await second.goto(change)
    await second.fill("[name=maxthreads]", "7")
    await second.click("main button.primary")
    await second.waitForURL(url => !url.pathname.endsWith("/change"))
    await page.fill("[name=maxthreads]", "5")
    const [answer] = await Promise.all([page.waitForNavigation(), page.click("main button.primary")])
    expect(answer.status() === 412, `412: ${answer.status()}`)
    problems.push(...(await looked(page)).map(one => `412: ${one}`))
    await page.goto(`${sites.real.base}/queues/mail/push`)
    await page.fill("[name='/user']", "x".repeat(30))
    const [refused] = await Promise.all([page.waitForNavigation(), page.click("main button.primary")])
    expect(refused.status() === 422, `422: ${refused.status()}`)
    problems.push(...(await looked(page)).map(one => `422: ${one}`))
    await page.context().close()
    return problems
  },

  async "nothing is cut off at twice the size"() {
    const problems = []
    for (const viewport of [{ width: 640, height: 400 }, { width: 320, height: 256 }]) { // of 1280 and 640 px, at 200 %
      const page = await atSite("real", "admin", { viewport, deviceScaleFactor: 2 })
      for (const path of told.menus) {
        await page.goto(sites.real.base + path)
        const found = await page.evaluate(() => {
          const wide = document.documentElement.scrollWidth - innerWidth
          const lost = [...document.querySelectorAll("button, .btn, input:not([type=hidden]), select, textarea, h1, summary")].filter(one => {
            const box = one.getBoundingClientRect()
            const inPane = one.closest(".log, .tabs, .menu > :not(summary), nav:not(:popover-open), .vh, thead")
            return box.width && !inPane && (box.left < -1 || box.right > innerWidth + 1)
          })
          return [...(wide > 0 ? [`${wide} px too wide`] : []), ...lost.map(one => `out of sight: ${one.outerHTML.slice(0, 100)}`)]
        })
        problems.push(...found.map(one => `${path} at ${viewport.width}: ${one}`))
      }
      await page.context().close()
    }
    return problems
  },

  async "a status can be read without colors"() {
    const problems = []
    const seen = new Set()
    for (const options of [{ forcedColors: "active" }, { forcedColors: "active", colorScheme: "dark" }]) {
      const page = await atSite("real", "admin", options)
      for (const path of told.menus) {
        await page.goto(sites.real.base + path)
        const found = await page.evaluate(() => [...document.querySelectorAll(".st")].map(one => ({
          name: one.className, icon: getComputedStyle(one, "::before").content.replace(/["/ ]/g, ""), word: one.textContent.trim(),
          isSeen: getComputedStyle(one).color !== getComputedStyle(document.body).backgroundColor,
        })))
        for (const one of found) {
          seen.add(one.name)
          if (!one.word || !one.icon || one.icon === "none" || !one.isSeen) problems.push(`${path}: ${JSON.stringify(one)}`)
        }
        const bare = await page.evaluate(() => [...document.querySelectorAll("progress, meter")].filter(one => {
          const style = getComputedStyle(one)
          return style.display !== "none" && !parseFloat(style.borderTopWidth)
        }).map(one => one.outerHTML.slice(0, 100)))
        problems.push(...bare.map(one => `${path}: no edge: ${one}`))
      }
      await page.context().close()
    }
    for (const name of ["created", "concluded", "failed", "cancelled"]) if (!seen.has(`st ${name}`)) problems.push(`no ${name} was seen`)
    return problems
  },

  async "what is printed is what was found"() {
    const page = await atSite("real")
    await page.emulateMedia({ media: "print", colorScheme: "dark" })
    for (const path of told.menus) {
      await page.goto(sites.real.base + path)
      const found = await page.evaluate(() => ({
        shown: [...document.querySelectorAll(".top, .bar, .acts, .live")].filter(one => one.offsetParent !== null).length,
        words: document.querySelector("main").innerText.trim().length,
      }))
      expect(found.shown === 0 && found.words > 10, `${path}: ${JSON.stringify(found)}`)
      expect((await page.pdf({ width: "210mm", height: "297mm" })).length > 2000, `${path}: an empty print`)
    }
    await page.context().close()
  },
}

// The page of each proxy: signing in, files, what a task prints as it comes, a form, and where that leads.
for (const [kind, at] of Object.entries(proxies)) {
  flows[`behind ${kind}`] = async () => {
    const page = await signedIn("operate", {}, at, sites.below.tokens)
    await page.goto(`${at}/tasks/${tasks.printing}`)
    await moreLines(page)
    await page.goto(`${at}/queues/mail/push`)
    await page.fill("[name='/user']", "ann")
    await page.click("main button.primary")
    await page.waitForURL(url => url.href.startsWith(at) && url.search)
    await page.click(".note.ok a")
    await page.waitForURL(url => url.href.startsWith(`${at}/tasks/`))
    await page.click("summary:has-text('Cancel')")
    await page.click("details[open] button")
    await page.waitForSelector("h1 .st.cancelled")
    const cookies = await page.context().cookies()
    expect(cookies.every(one => one.path === "/disbatch/"), JSON.stringify(cookies))
    await page.context().close()
  }
}

for (const [screen, [site, path, role]] of Object.entries(screens)) {
  flows[screen] = async () => {
    const page = await atSite(site, role)
    await page.goto(sites[site].base + path)
    return looked(page)
  }
}

await run(flows)
