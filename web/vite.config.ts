import { fileURLToPath } from "node:url";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

const rpcs = ["coordinator", "session", "telemetry", "model"].map((name) => `/tandem.${name}.v1`);
const fleet = process.env.TANDEM_URL ?? "http://127.0.0.1:8200";

export default defineConfig({
  plugins: [svelte()],
  resolve: { alias: { $gen: fileURLToPath(new URL("./gen/tandem", import.meta.url)) } },
  build: {
    target: "es2022",
    // Fixed names: the build is checked in, and a diff should show what changed.
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    // data: addresses are refused by the page's content security policy.
    assetsInlineLimit: 0,
    rolldownOptions: {
      output: {
        entryFileNames: "assets/app.js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/app[extname]",
      },
    },
  },
  server: { proxy: Object.fromEntries([...rpcs, "/api"].map((path) => [path, fleet])) },
  test: { include: ["tests/**/*.test.ts"] },
});
