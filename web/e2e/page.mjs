// The page against a running fleet, in a real browser: a chat round trip, stop in mid-answer, a reload, the fleet, deleting;
// and on each view what an accessibility checker finds.
//
//   node e2e/page.mjs BASE_URL OUTPUT_FOLDER
//
// CHROMIUM names the browser (/usr/bin/chromium), TANDEM_TOKEN the owner's token where one is set. Screenshots land in
// the output folder. Exit code 1 and one line about what is wrong on the first failure.
import assert from "node:assert/strict";
import { open, walk } from "./browser.mjs";

const [baseUrl = process.env.BASE_URL, folder = process.env.OUTPUT_FOLDER] = process.argv.slice(2);
if (!baseUrl || !folder) {
  console.error("usage: node e2e/page.mjs BASE_URL OUTPUT_FOLDER");
  process.exit(2);
}

/** A small model on a busy processor may take this long for an answer. */
const ANSWER_MS = 180_000;
const QUESTION = "What can you do? Answer in one sentence.";
/** Long enough that there is a middle to stop in, also with a model that stops early. */
const LONG = [
  "Count from one to two hundred in words, one number on each line.",
  "Write a long story about a lighthouse keeper, at least twenty paragraphs.",
  "List one hundred animals with a sentence about each.",
];

const browser = await open(folder);
const { page, by, shot, accessible, complaints } = browser;
const phase = (entry) => entry.getAttribute("data-phase");

async function ask(text) {
  const before = await by("exchange").count();
  await by("message").fill(text);
  await by("message").press("Enter");
  const entry = by("exchange").nth(before);
  await entry.waitFor();
  return entry;
}

/** Waits until the exchange is in one of `phases`; what is on the page is the message when it is not. */
async function until(entry, phases, what) {
  const handle = await entry.elementHandle();
  await page
    .waitForFunction(([element, wanted]) => wanted.includes(element.dataset.phase), [handle, phases], { timeout: ANSWER_MS })
    .catch(async () => assert.fail(`${what}: still “${await phase(entry)}” after ${ANSWER_MS / 1000} s`));
  return phase(entry);
}

async function problemOf(entry) {
  const problem = entry.getByTestId("problem");
  return (await problem.count()) > 0 ? (await problem.first().innerText()).replace(/\s+/g, " ") : "no problem is shown";
}

const steps = {
  async "the page opens"() {
    await page.goto(baseUrl);
    const signin = by("signin");
    await by("message").or(signin).first().waitFor();
    if (await signin.isVisible()) {
      assert.ok(process.env.TANDEM_TOKEN, "the page asks for a token, and TANDEM_TOKEN is not set");
      await page.locator("#token").fill(process.env.TANDEM_TOKEN);
      await page.keyboard.press("Enter");
      await by("message").waitFor();
    }
    await accessible("the welcome");
    await shot("1-welcome");
  },

  async "a question is answered, with the path it walked"() {
    const entry = await ask(QUESTION);
    const ended = await until(entry, ["done", "failed", "stopped"], "the answer");
    assert.equal(ended, "done", `the turn ended “${ended}”: ${await problemOf(entry)}`);
    const answer = (await entry.getByTestId("answer").innerText()).trim();
    assert.notEqual(answer, "", "the answer is empty");
    const lacks = entry.getByTestId("not-built");
    assert.equal(await lacks.locator("dl").isVisible(), false, "what is not built is shown before anybody asked");
    await shot("2-answer");
    await lacks.locator("summary").click();
    await lacks.locator("dl").waitFor();
    await entry.getByTestId("path").locator("summary").click();
    const stages = entry.getByTestId("path-stage");
    await stages.first().waitFor();
    assert.ok((await stages.count()) >= 2, `the path has ${await stages.count()} stages`);
    assert.match(await entry.getByTestId("meta").innerText(), /\S/, "nothing is said of where the answer comes from");
    await accessible("an answer with all its details");
    await shot("3-path");
  },

  async "a reload keeps the session"() {
    const url = page.url();
    assert.match(url, /#\/chat\/.+/, `the address ${url} does not name the session`);
    const answer = (await by("answer").first().innerText()).trim();
    await page.reload();
    await by("answer").first().waitFor();
    assert.equal(page.url(), url);
    assert.equal((await by("question").first().innerText()).trim(), QUESTION);
    assert.equal((await by("answer").first().innerText()).trim(), answer, "the answer changed with the reload");
    await by("session").first().waitFor();
    await shot("4-reloaded");
  },

  async "an answer is stopped in the middle"() {
    for (const question of LONG) {
      const entry = await ask(question);
      const reached = await until(entry, ["writing", "done", "failed", "stopped"], "the first piece");
      assert.ok(reached === "writing" || reached === "done", `the turn ended “${reached}”: ${await problemOf(entry)}`);
      // A turn that is over has no stop button; then the next, longer question is asked.
      const clicked = await by("stop")
        .click({ timeout: 2000 })
        .then(() => true, () => false);
      if (!clicked || (await until(entry, ["stopped", "done", "failed"], "stopping")) !== "stopped") continue;
      await entry.getByTestId("stopped").waitFor();
      assert.equal(await entry.getByTestId("problem").count(), 0, await problemOf(entry));
      const kept = await entry.getByTestId("answer").innerText();
      await shot("5-stopped");
      // Nothing more arrives: the next turn runs to its end, and the stopped text is as it was.
      const next = await ask("Say hello.");
      assert.equal(await until(next, ["done", "failed", "stopped"], "the turn after the stopped one"), "done", await problemOf(next));
      assert.equal(await entry.getByTestId("answer").innerText(), kept, "the answer went on after it was stopped");
      return;
    }
    assert.fail("three long questions were each answered before they could be stopped");
  },

  async "the fleet is shown with its groups ready"() {
    await by("nav-fleet").click();
    await by("group").first().waitFor();
    const marks = () => by("group").evaluateAll((groups) => groups.map(({ dataset }) => [dataset.group, dataset.mark]));
    const serves = ([, mark]) => mark === "ready" || mark === "degraded";
    await page
      .waitForFunction(() =>
        [...document.querySelectorAll("[data-testid=group]")].every((g) => ["ready", "degraded"].includes(g.dataset.mark)),
      )
      .catch(() => {});
    const groups = await marks();
    const bad = groups.filter((group) => !serves(group)).map(([group, mark]) => `${group} is ${mark}`);
    assert.deepEqual(bad, [], `not every group serves: ${bad.join(", ")}`);
    assert.ok(groups.some(([, mark]) => mark === "ready"), "no group is ready");
    assert.ok((await by("agent").count()) >= groups.length, "agents are missing");
    await by("roles").waitFor();
    const way = await by("freshness").getAttribute("data-way");
    assert.notEqual(way, "stale", "the fleet's picture is stale");
    console.log(`    ${groups.map(([group, mark]) => `${group} ${mark}`).join(", ")}; ${way}`);
    await accessible("the fleet");
    await shot("6-fleet");
  },

  async "it fits a phone, in the dark"() {
    await page.emulateMedia({ colorScheme: "dark" });
    await page.setViewportSize({ width: 390, height: 844 });
    for (const [hash, name] of [["#/fleet", "7-phone-fleet"], ["#/", "8-phone-chat"]]) {
      await page.evaluate((to) => (location.hash = to), hash);
      await by(hash === "#/" ? "message" : "group").first().waitFor();
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${hash} is ${wide} px wider than the screen`);
      await accessible(`${hash} on a phone in the dark`);
      await shot(name);
    }
    await page.setViewportSize({ width: 1280, height: 820 });
    await page.emulateMedia({ colorScheme: null });
  },

  async "a session is deleted once it is confirmed"() {
    const first = by("session").first();
    const id = await first.getAttribute("data-session");
    await first.hover();
    await first.getByTestId("delete-session").click();
    await by("confirm-no").click();
    await by("confirm").waitFor({ state: "detached" });
    assert.equal(await first.getAttribute("data-session"), id, "the session went without a yes");
    await first.hover();
    await first.getByTestId("delete-session").click();
    await by("confirm-yes").click();
    await page.locator(`[data-session="${id}"]`).waitFor({ state: "detached" });
  },

  async "the browser had nothing to complain of"() {
    assert.deepEqual(complaints, []);
  },
};

await walk(steps, browser);
