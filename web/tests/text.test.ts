import { describe, expect, it } from "vitest";
import { ageOf, lasting, milliseconds, moment, shortened } from "../src/lib/format.js";
import { blocks, grow } from "../src/lib/markdown.js";
import { hashOf, parseRoute } from "../src/lib/route.js";
import { children, plain, safeHref, topHeading } from "../src/lib/tokens.js";

describe("markdown", () => {
  it("keeps the objects of finished blocks while a text grows", () => {
    const before = blocks("# A\n\none");
    const after = grow(before, "# A\n\none two\n\nthree");
    expect(after[0]).toBe(before[0]);
    expect(after[1]).not.toBe(before[1]);
    expect(after.map(({ type }) => type)).toEqual(["heading", "paragraph", "paragraph"]);
  });

  it("survives what no person writes", () => {
    for (const text of [">".repeat(50_000), "[".repeat(20_000), "- ".repeat(5_000), "\u0000", "```"]) {
      expect(blocks(text).length).toBeGreaterThan(0);
    }
  });

  it("leaves HTML as text", () => {
    const [block] = blocks("a <img src=x onerror=alert(1)> b");
    expect(children(block!).map(({ type }) => type)).toEqual(["text", "html", "text"]);
    expect(blocks("<script>alert(1)</script>")[0]).toMatchObject({ type: "html" });
  });

  it.each([
    ["https://example.org/a b", "https://example.org/a%20b"],
    ["HTTP://example.org", "http://example.org/"],
    ["mailto:a@example.org", "mailto:a@example.org"],
    ["javascript:alert(1)", undefined],
    [" java\nscript:alert(1)", undefined],
    ["data:text/html,x", undefined],
    ["//example.org", undefined],
    ["/relative", undefined],
    ["vbscript:x", undefined],
  ])("follows %j as %j", (href, expected) => expect(safeHref(href)).toBe(expected));

  it("reads character references", () => {
    expect(plain("a &amp; b &lt;i&gt; &#233; &nope; &#0; &#55296; &amp;lt;")).toBe("a & b <i> é &nope; &#0; &#55296; &lt;");
  });

  it("finds the highest heading", () => {
    expect(topHeading(blocks("## a\n\n### b"))).toBe(2);
    expect(topHeading(blocks("a"))).toBe(1);
  });
});

describe("route", () => {
  it.each([
    ["", { view: "chat", session: "" }],
    ["#/", { view: "chat", session: "" }],
    ["#/chat/a%2Fb", { view: "chat", session: "a/b" }],
    ["#/chat/%E0%A4%A", { view: "chat", session: "" }],
    ["#/fleet", { view: "fleet" }],
    ["#/nowhere", { view: "chat", session: "" }],
  ] as const)("%j", (hash, expected) => expect(parseRoute(hash)).toEqual(expected));

  it("round-trips", () => {
    for (const session of ["", "a", "a/b#c%"]) {
      expect(parseRoute(hashOf({ view: "chat", session }))).toEqual({ view: "chat", session });
    }
  });
});

describe("format", () => {
  it.each([
    [0.7, "0.7 ms"],
    [81, "81 ms"],
    [1240, "1.24 s"],
    [61_234, "61.2 s"],
  ])("%d ms", (ms, expected) => expect(milliseconds(ms, "en")).toBe(expected));

  it.each([
    [-5, "0 s"],
    [999, "0 s"],
    [59_999, "59 s"],
    [60_000, "1 min"],
    [7_200_000, "2 h"],
    [2 * 86_400_000, "2 days"],
  ])("lasting %d ms", (ms, expected) => expect(lasting(ms, "en")).toBe(expected));

  it("sorts days by the calendar, not by hours", () => {
    const noon = new Date(2026, 4, 12, 12).getTime();
    const at = (day: number, hour: number): number => new Date(2026, 4, day, hour).getTime();
    expect([at(12, 0), at(11, 23), at(6, 1), at(5, 23)].map((ms) => ageOf(ms, noon))).toEqual([
      "today",
      "yesterday",
      "week",
      "older",
    ]);
    expect(moment(at(12, 9), noon, "en-GB")).toMatch(/^0?9:00$/);
    expect(moment(at(5, 9), noon, "en-GB")).toBe("5 May");
  });

  it("never cuts a character in two", () => {
    expect(shortened("  a\n b ", 9)).toBe("a b");
    expect(shortened("👩🏽abc", 3)).toHaveLength(5);
    expect(shortened("abcdef", 4)).toBe("abc…");
  });
});
