// The page, by a bundler as its documentation sets it up. Arguments: the bundler, the folder to write.
import { writeFile } from "node:fs/promises";

const [bundler, out] = process.argv.slice(2);
const entry = `${import.meta.dirname ?? new URL(".", import.meta.url).pathname}/page.mjs`;

const bundlers = {
  async esbuild() {
    const { build } = await import("esbuild");
    const options = { bundle: true, splitting: true, format: "esm", minify: true, logLevel: "warning" };
    await build({ entryPoints: [entry], outdir: out, entryNames: "page", ...options });
  },
  async rollup() {
    const { rollup } = await import("rollup");
    const { nodeResolve } = await import("@rollup/plugin-node-resolve");
    const bundle = await rollup({ input: entry, plugins: [nodeResolve({ browser: true })], onwarn: refuse });
    await bundle.write({ dir: out, entryFileNames: "page.js" });
  },
  async vite() {
    const { build } = await import("vite");
    await build({
      configFile: false,
      logLevel: "warn",
      build: { outDir: out, rolldownOptions: { input: entry, output: { entryFileNames: "page.js" } } },
    });
  },
  async webpack() {
    const { default: webpack } = await import("webpack");
    await new Promise((resolve, reject) => {
      const output = { path: out, filename: "page.js", publicPath: "auto" };
      webpack({ mode: "production", entry, output, performance: { hints: false } }, (error, stats) => {
        const { errors, warnings } = stats?.toJson() ?? { errors: [error], warnings: [] };
        const found = [...errors, ...warnings].map(({ message }) => message);
        if (found.length > 0) reject(new Error(found.join("\n")));
        else resolve();
      });
    });
  },
};

function refuse(warning) {
  throw new Error(warning.message);
}

await bundlers[bundler]();
await writeFile(
  `${out}/index.html`,
  '<!doctype html><link rel="icon" href="data:,"><script type="module" src="page.js"></script>',
);
