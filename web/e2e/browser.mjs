// A real browser, and what a page is held to in it.
//
// CHROMIUM names the browser (/usr/bin/chromium).
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

/** Opens a browser that leaves its screenshots in `folder`. */
export async function open(folder) {
  mkdirSync(folder, { recursive: true });
  const profile = mkdtempSync(join(tmpdir(), "tandem-page-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    viewport: { width: 1280, height: 820 },
    locale: "en-GB",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      // A container's shared memory may be too small for a page.
      "--disable-dev-shm-usage",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(30_000);

  /** What the browser itself complains of: scripts that throw, and anything the content security policy refuses. */
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(`the page threw ${error.message}`));
  page.on("console", (message) => {
    const refused = /content security policy/i.test(message.text());
    if (refused) complaints.push(`the browser refused something: ${message.text()}`);
  });

  const by = (id) => page.getByTestId(id);

  async function shot(name) {
    await page.screenshot({ path: join(folder, `${name}.png`) });
  }

  const checker = readFileSync(new URL("../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

  /** What keeps people from using what the page shows now, by the rules of WCAG that a program can check. */
  async function accessible(view) {
    await page.evaluate(checker);
    const found = await page.evaluate(async () => {
      const { passes, violations } = await globalThis.axe.run();
      const faults = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
      return { rules: passes.length, faults: faults.map(({ help, nodes }) => `${help}: ${nodes[0].html}`) };
    });
    assert.ok(found.rules > 0, `${view}: no rule could be checked`);
    assert.deepEqual(found.faults, [], `${view} is not accessible`);
  }

  async function close() {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }

  return { page, by, shot, accessible, complaints, close };
}

/** Takes the steps in turn, up to the first that fails; then the program ends. */
export async function walk(steps, { shot, complaints, close }) {
  let failed = false;
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log(`ok  ${name}`);
    } catch (error) {
      console.error(`FAILED  ${name}: ${error.message}`);
      for (const complaint of complaints) console.error(`    ${complaint}`);
      await shot("failed").catch(() => {});
      failed = true;
      break;
    }
  }
  await close();
  process.exit(failed ? 1 : 0);
}
