// Flows through the page, and all of its screens.
import { base, expect, forgive, looked, resumed, run, signedIn, text, told, tokens, visitor } from "./visiting.mjs"

const { named, tasks } = told
const flows = {
  async "signs in by an address whose token is gone from it"() {
    const page = await signedIn()
    expect(!page.url().includes(tokens.admin), page.url())
    expect((await page.evaluate(() => document.cookie)) === "", "a script can read the session")
    await page.goBack().catch(() => null)
    expect(!page.url().includes(tokens.admin), page.url())
    await page.context().close()
  },

  async "pushes by the form of a plugin"() {
    const page = await signedIn("operate")
    await page.goto(`${base}/queues/forms/push`)
    await page.fill("[name='/user']", "u".repeat(30))
    await page.fill("[name='/password']", "planted-5ecret")
    await page.click("button.primary")
    expect(await page.evaluate(() => document.activeElement.id === "faults"), "the summary has no focus")
    expect((await page.inputValue("[name='/password']")) === "", "the secret was sent back")
    await page.fill("[name='/user']", "ann")
    await page.fill("[name='/password']", "planted-5ecret")
    await page.check("[name='/quiet'][value='true']")
    await page.click("button.primary")
    await page.click(".note.ok a")
    expect((await text(page, "h1")).includes("created"), await text(page, "h1"))
    expect((await text(page, ".kv")).includes("secret"), "the secret is not marked as one")
    await page.context().close()
  },

  async "cancels a task, with a reason"() {
    const page = await signedIn("operate")
    await page.goto(`${base}/tasks/${tasks.stuck}`)
    await page.click("summary:has-text('Cancel')")
    await page.waitForTimeout(2200) // what renews itself leaves an open menu alone
    await page.fill("details[open] [name=reason]", "it is stuck")
    await page.click("details[open] button")
    await page.waitForSelector("h1 .st.cancelled")
    expect((await text(page, ".story")).includes("it is stuck"), "the story does not say why")
    await page.context().close()
  },

  async "rows stay where they are while one is selected"() {
    const page = await signedIn()
    await page.goto(`${base}/tasks?queue=many`)
    const first = page.locator("tbody tr").first()
    const id = await first.getAttribute("id")
    await first.locator("input").check()
    expect(await page.locator(".bar").isVisible(), "there is no bar")
    await page.evaluate(body => fetch(`${document.body.dataset.base}api/v1/queues/many/tasks`, body), {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ parameters: { user: "new", password: "x" } }),
    })
    await page.waitForSelector("#fresh")
    expect((await page.locator("tbody tr").first().getAttribute("id")) === id, "the rows have moved")
    expect(await first.locator("input").isChecked(), "nothing is selected any more")
    await first.locator("input").uncheck()
    await page.mouse.move(5, 5)
    await page.evaluate(() => document.activeElement.blur())
    await page.waitForFunction(was => document.querySelector("tbody tr").id !== was, id)
    await page.context().close()
  },

  async "goes by keys, and by none in a field"() {
    const page = await signedIn()
    await page.goto(`${base}/tasks?queue=many`)
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    expect((await page.locator("tbody input:checked").count()) === 1, "x selects nothing")
    await page.keyboard.press("/")
    await page.keyboard.type("gq?")
    expect((await page.inputValue(".find input")) === "gq?", "a key was taken from a field")
    await page.evaluate(() => document.activeElement.blur())
    await page.keyboard.press("g")
    await page.keyboard.press("q")
    await page.waitForURL(/\/queues$/)
    await page.context().close()
  },

  async "works without JavaScript"() {
    const page = await visitor({ javaScriptEnabled: false })
    await page.goto(`${base}/queues/forms/push`)
    await page.fill("#token", tokens.operate)
    await page.click("button.primary")
    expect(page.url().endsWith("/queues/forms/push"), page.url())
    await page.fill("[name='/user']", "bob")
    await page.fill("[name='/password']", "planted-5ecret")
    await page.click("button.primary")
    await page.click(".note.ok a")
    await page.click("summary:has-text('Cancel')")
    await page.click("details[open] button")
    expect((await text(page, "h1")).includes("cancelled"), await text(page, "h1"))
    await page.goto(`${base}/tasks?queue=many`)
    await page.locator("tbody input").first().check()
    await page.click("button[value=cancel]")
    expect((await text(page, "h1")).includes("Cancel 1"), await text(page, "h1"))
    await page.context().close()
  },

  async "works over plain HTTP by a name, where a browser says less about a form"() {
    const page = await signedIn("operate", {}, named)
    await page.goto(`${named}/queues/paused`)
    await page.click("summary:has-text('Pause')")
    await page.click("details[open] button")
    await page.waitForSelector("button:has-text('Resume')")
    forgive(/Cross-Origin-Opener-Policy/) // which is for encrypted pages only
    await page.context().close()
  },

  async "a form of another site does nothing"() {
    const page = await signedIn()
    const evil = "http://evil.test/"
    await page.route(`${evil}**`, route => route.fulfill({
      contentType: "text/html",
      body: `<form method="post" action="${base}/tasks/${tasks.kept}/cancel"><button>Win a prize</button></form>`,
    }))
    await page.goto(evil)
    await page.click("button")
    await page.waitForLoadState()
    await page.goto(`${base}/tasks/${tasks.kept}`)
    expect((await text(page, "h1")).includes("created"), await text(page, "h1"))
    await page.context().close()
  },
}

const screens = Object.fromEntries(Object.entries(told.screens).map(([screen, path]) => [screen, async () => {
  const page = await resumed()
  await page.goto(base + path)
  return looked(page)
}]))

await run({ ...flows, ...screens })
