// Another machine of the fleet on the page, in a real browser: waits until it is shown in a state.
//
//   node e2e/machine.mjs BASE_URL OUTPUT_FOLDER NODE STATE
//
// CHROMIUM names the browser (/usr/bin/chromium). A screenshot named after the state lands in the output folder. Exit code 1 and one line
// about what is wrong when it is not shown so within two minutes.
import assert from "node:assert/strict";
import { open, walk } from "./browser.mjs";

const [baseUrl, folder, node, state] = process.argv.slice(2);
if (!baseUrl || !folder || !node || !state) {
  console.error("usage: node e2e/machine.mjs BASE_URL OUTPUT_FOLDER NODE STATE");
  process.exit(2);
}

/** A machine that is away is so within 5 s; this much only a hang reaches. */
const SHOWN_MS = 120_000;

const browser = await open(folder);
const { page, by, shot, accessible, complaints } = browser;

await walk(
  {
    async "the machine is shown"() {
      await page.goto(`${baseUrl}/#/fleet`);
      const section = by("node").filter({ has: page.locator(`#node-${node}`) });
      const head = section.getByTestId("node-head");
      const wanted = section.locator(`[data-testid=node-head][data-mark="${state}"]`);
      await wanted.waitFor({ timeout: SHOWN_MS }).catch(async () => assert.fail(`${node} is ${await head.innerText()}`));
      // How it is reached is told apart from how it is doing, and may come a moment later.
      await section.getByTestId(state === "unknown" ? "last-seen" : "round-trip").waitFor({ timeout: SHOWN_MS });
      const words = await head.innerText();
      const silent = await section.getByTestId("last-seen").count();
      const answers = await section.getByTestId("round-trip").count();
      assert.deepEqual([silent, answers], state === "unknown" ? [1, 0] : [0, 1], words);
      // What is known of a silent machine is not held to be so.
      await section.locator(`[data-testid=group][data-mark="${state}"]`).first().waitFor({ timeout: SHOWN_MS });
      console.log(`    ${words.replace(/\s+/g, " ")}`);
      await accessible("the fleet");
      await shot(state);
    },

    async "the browser had nothing to complain of"() {
      assert.deepEqual(complaints, []);
    },
  },
  browser,
);
