// Builds the page into a folder of its own and compares it, byte for byte, with what is checked in under dist/.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

/** Files by their path, less the note about sources, which has a test of its own. */
function files(folder) {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = entries.map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(folder.length + 1));
  return new Map(paths.filter((path) => path !== ".sources").map((path) => [path, readFileSync(join(folder, path))]));
}

const root = fileURLToPath(new URL("../", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "tandem-dist-"));
try {
  await build({ root, logLevel: "error", build: { outDir: folder, emptyOutDir: true } });
  const [made, kept] = [files(folder), files(join(root, "dist"))];
  const differ = [...new Set([...made.keys(), ...kept.keys()])].filter(
    (path) => !made.has(path) || !kept.has(path) || !made.get(path).equals(kept.get(path)),
  );
  if (differ.length > 0) {
    console.error(`web/dist is not what the sources make: ${differ.join(", ")}`);
    console.error("run `npm ci && npm run build` in web/ and commit web/dist");
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
