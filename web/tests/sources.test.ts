import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
// @ts-expect-error: a script without types
import { hashOf, sourceFiles } from "../scripts/sources.mjs";

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

describe("the hash of the sources", () => {
  it("is the hash of what sha256sum prints", () => {
    const files = [
      ["a", Buffer.from("x")],
      ["b", Buffer.from("")],
    ];
    expect(hashOf(files)).toBe(sha256(`${sha256("x")}  a\n${sha256("")}  b\n`));
  });

  it("covers what the build reads, in order of bytes, and nothing it makes", () => {
    const files: string[] = sourceFiles();
    expect(files).toEqual([...new Set(files)].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))));
    for (const path of [
      "crates/contract/proto/tandem/coordinator/v1/coordinator.proto",
      "web/index.html",
      "web/package-lock.json",
      "web/public/assets/icon.svg",
      "web/src/main.ts",
    ]) {
      expect(files).toContain(path);
    }
    expect(files.filter((path) => /dist|node_modules|web\/gen|\\/.test(path))).toEqual([]);
  });
});
