import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { choose, fill } from "../src/lib/i18n/index.svelte.js";
import { en } from "../src/lib/i18n/en.js";
import { tl } from "../src/lib/i18n/tl.js";
import { PROBLEM_CODES } from "../src/lib/problem.js";

const places = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]!).sort();

describe("tables", () => {
  it("have the same keys, none empty, with the same places to fill", () => {
    expect(Object.keys(tl).sort()).toEqual(Object.keys(en).sort());
    for (const key of Object.keys(en) as (keyof typeof en)[]) {
      expect(en[key].trim(), key).not.toBe("");
      expect(tl[key].trim(), key).not.toBe("");
      expect(places(tl[key]), key).toEqual(places(en[key]));
    }
  });

  it("have a hint for every problem", () => {
    for (const code of PROBLEM_CODES) expect(en).toHaveProperty([`problem.${code}`]);
  });

  it("hold nothing that the page never says", () => {
    const source = readdirSync("src", { recursive: true, encoding: "utf8" })
      .filter((name) => /\.(svelte|ts)$/.test(name) && !name.includes("i18n"))
      .map((name) => readFileSync(`src/${name}`, "utf8"))
      .join("\n");
    // Put together from a prefix and a word, as in t(`mark.${mark}`).
    const built = /^(mark|stage|problem|fleet\.filter)\.|^sessions\.(today|yesterday|week|older)$|^fleet\.(live|polling|stale)$/;
    expect(Object.keys(en).filter((key) => !source.includes(`"${key}"`) && !built.test(key))).toEqual([]);
  });
});

describe("choose", () => {
  it.each([
    ["tl", ["en-GB"], "tl"],
    [null, ["fil-PH", "en"], "tl"],
    [null, ["tl"], "tl"],
    [null, ["de-DE", "en-US"], "en"],
    [null, ["de-DE"], "en"],
    ["xx", ["fil"], "tl"],
  ])("stored %j, browser %j: %s", (stored, browser, expected) => {
    expect(choose(stored, browser)).toBe(expected);
  });
});

describe("fill", () => {
  it("fills what it has and leaves the rest, and never fills what it filled in", () => {
    expect(fill("{a} and {b}", { a: "{b}" })).toBe("{b} and {b}");
    expect(fill("{n}", { n: 0 })).toBe("0");
  });
});
