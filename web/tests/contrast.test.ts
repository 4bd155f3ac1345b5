// Text and marks against their grounds, by WCAG 2.2: 1.4.3 (4.5:1) and 1.4.11 (3:1 for borders of controls).
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

function luminance(hex: string): number {
  const [r, g, b] = [1, 3, 5].map((i) => {
    const c = parseInt(hex.slice(i, i + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a: string, b: string): number {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

const css = readFileSync("src/app.css", "utf8");
const colours = (block: string): Record<string, string> =>
  Object.fromEntries([...block.matchAll(/--([\w-]+): (#[0-9a-fA-F]{6});/g)].map((m) => [m[1], m[2]]));
const [, light = "", dark = ""] = css.split(":root {");
const THEMES = { light: colours(light.split("}")[0]!), dark: colours(dark.split("}")[0]!) };

const GROUNDS = ["ground", "side", "raised", "sunken", "tint"];
const PAIRS: [text: string, ground: string, least: number][] = [
  ...GROUNDS.flatMap((ground): [string, string, number][] => [
    ["ink", ground, 4.5],
    ["quiet", ground, 4.5],
    ["accent", ground, 4.5],
  ]),
  ...["good", "warn", "bad", "busy", "still"].flatMap((tone): [string, string, number][] => [
    [tone, `${tone}-ground`, 4.5],
    [tone, "raised", 4.5],
    [tone, "ground", 4.5],
  ]),
  ["on-accent", "accent", 4.5],
  ["on-accent", "accent-strong", 4.5],
  ["ground", "ink", 4.5],
  ["edge", "raised", 3],
  ["edge", "ground", 3],
  ["edge", "side", 3],
];

describe.each(Object.entries(THEMES))("%s", (_, theme) => {
  it.each(PAIRS)("%s on %s is at least %d:1", (text, ground, least) => {
    expect(contrast(theme[text]!, theme[ground]!)).toBeGreaterThanOrEqual(least);
  });
});
