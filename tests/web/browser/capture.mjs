// Pictures of screens, as WebP, for docs/web_captures.py.
import { writeFileSync } from "node:fs"
import { base, browser, signedIn, told } from "./visiting.mjs"

const page = await signedIn()
const session = await page.context().newCDPSession(page)
for (const scheme of told.schemes) {
  for (const width of told.widths) {
    await page.emulateMedia({ colorScheme: scheme })
    await page.setViewportSize({ width, height: width < 600 ? 780 : 800 })
    for (const [screen, path] of Object.entries(told.screens)) {
      await page.goto(base + path, { waitUntil: "load" })
      await page.waitForTimeout(1500) // its first renewal
      const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 60 })
      writeFileSync(`${told.directory}/${screen}-${scheme}-${width}.webp`, Buffer.from(data, "base64"))
    }
  }
}
await browser.close()
process.exit()
