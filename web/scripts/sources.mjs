// What the checked-in build was made from. `write` notes it in dist/.sources, `check` compares. The rule is in README.md.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../", import.meta.url);
const FILES = ["buf.gen.yaml", "index.html", "package-lock.json", "package.json", "vite.config.ts"];
const PACKAGES = ["common", "coordinator", "model", "session", "telemetry"];
const FOLDERS = ["web/public", "web/src", ...PACKAGES.map((name) => `crates/contract/proto/tandem/${name}`)];

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

function filesUnder(folder) {
  return readdirSync(new URL(`${folder}/`, ROOT), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => `${entry.parentPath ?? entry.path}/${entry.name}`)
    .map((path) => path.slice(fileURLToPath(ROOT).length).replaceAll("\\", "/").replaceAll("//", "/"));
}

/** Paths from the root of the repository, in order of their bytes. */
export function sourceFiles() {
  const files = [...FILES.map((name) => `web/${name}`), ...FOLDERS.flatMap(filesUnder)];
  return files.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/** The hash over `[path, bytes]` pairs, in the order given. */
export function hashOf(files) {
  return sha256(files.map(([path, bytes]) => `${sha256(bytes)}  ${path}\n`).join(""));
}

export function sourcesHash() {
  return hashOf(sourceFiles().map((path) => [path, readFileSync(new URL(path, ROOT))]));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const noted = new URL("web/dist/.sources", ROOT);
  const now = `${sourcesHash()}\n`;
  if (process.argv[2] === "write") {
    writeFileSync(noted, now);
  } else if (readFileSync(noted, "utf8") !== now) {
    console.error("web/dist was built from other sources; run `npm ci && npm run build` in web/ and commit web/dist");
    process.exit(1);
  }
}
