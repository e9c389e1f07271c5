/**
 * Writes `dist/npm/`, the package for npm: ES2022 in plain JavaScript, declarations, source maps, and the kernels as
 * files for hosts that forbid compiling from bytes. esbuild makes the code, TypeScript's compiler the declarations, and
 * `deno.json` says which entries there are. Nothing is published from here: `npm publish dist/npm` does that.
 *
 * @module
 */
import { build, type BuildOptions, type Metafile, type Plugin, stop } from "esbuild";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cli, command } from "../cli/mod.ts";
import { wasmKernels } from "../wasm/module.ts";
import { declarations } from "./declarations.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** Where the package is written. */
export const OUT: string = `${ROOT}dist/npm`;

/** The worker script, which pages serve by themselves. */
const WORKER = "wasm/worker.ts";

/** The thread in which the server tokenizes. */
const TEXT_WORKER = "serve/textWorker.ts";
/** What loads the kernels; on workerd a module of the package takes its place. */
const LOADER = "wasm/load.ts";

/** What the package needs of Node: `process.getBuiltinModule` is the youngest of it. */
const NODE = ">=20.16";

/** The files of a program. Packages stay outside: the one who installs this package has them as dependencies. */
const COMMON: BuildOptions = {
  absWorkingDir: ROOT,
  outbase: ROOT,
  outdir: `${OUT}/esm`,
  bundle: true,
  format: "esm",
  platform: "neutral",
  target: "es2022", // lowers `using`
  sourcemap: true,
  metafile: true,
  logLevel: "warning",
  loader: { ".wgsl": "text" },
  // Engines without explicit resource management have no such symbol: objects would get a method "undefined".
  define: { "Symbol.dispose": "DISPOSE", "Symbol.asyncDispose": "ASYNC_DISPOSE" },
  inject: [`${ROOT}package/dispose.js`],
};

const packages: Plugin = {
  name: "packages",
  setup({ onResolve, onLoad }) {
    // The hub's client: as published it imports modules of Node's, unless a bundler follows its field "browser".
    onResolve({ filter: /^@huggingface\/hub$/ }, ({ path }) => ({ path, namespace: "client" }));
    onLoad(
      { filter: /^@huggingface\/hub$/, namespace: "client" },
      async () => ({ contents: await hubClient() }),
    );
    // Deno must not find packages named that few programs need; bundlers must.
    onResolve({ filter: /\/packages\.ts$/ }, ({ path, resolveDir }) => ({
      path: join(resolveDir, path.replace(/\.ts$/, ".npm.ts")),
    }));
    onResolve({ filter: /^[^./]/ }, ({ kind }) => kind === "entry-point" ? undefined : { external: true });
  },
};

const CLIENT = `/*!
 * @huggingface/hub
 *
 * MIT License. Copyright (c) 2023 Hugging Face
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
 * documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
 * rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
 * persons to whom the Software is furnished to do so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
 * Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
 * WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
 * COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
 * OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 */
`;

/** The hub's client for all hosts: what is called of it, as one module that imports nothing. */
async function hubClient(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "levin-hub-"));
  try {
    const entry = `${folder}/client.ts`;
    await writeFile(entry, 'export { downloadFile, listFiles, modelInfo } from "@huggingface/hub";');
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["bundle", "--quiet", "--minify", "--platform", "browser", "--config", `${ROOT}deno.json`, entry],
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    return CLIENT + new TextDecoder().decode(stdout);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Bundles entries with what they share in chunks, so that each module exists once. */
async function bundle(entries: readonly string[], splitting: boolean): Promise<Metafile> {
  const { metafile } = await build({
    ...COMMON,
    entryPoints: [...entries],
    splitting,
    chunkNames: "chunks/[name]-[hash]",
    plugins: [packages],
  });
  return metafile!;
}

/** The names of the packages that files import, with the versions of `imports.json`. */
function dependencies(metafile: Metafile, imports: Record<string, string>): Record<string, string> {
  const names = new Set<string>();
  for (const { imports: found } of Object.values(metafile.outputs)) {
    for (const { path, external } of found) {
      if (!external || path.startsWith("node:")) continue;
      names.add(/^(?:@[^/]+\/)?[^/]+/.exec(path)![0]);
    }
  }
  return Object.fromEntries(
    [...names].sort().map((name) => {
      const version = /^npm:.+@(\d.*)$/.exec(imports[name] ?? "")?.[1];
      if (version === undefined) throw new Error(`imports.json must have the version of ${name}`);
      return [name, `^${version}`];
    }),
  );
}

/** The kernels as files, each with its declaration, and the loader of the host that imports them. */
async function writeKernels(): Promise<void> {
  await mkdir(`${OUT}/kernels`, { recursive: true });
  for (const variant of ["relaxed", "baseline"] as const) {
    await writeFile(`${OUT}/kernels/${variant}.wasm`, wasmKernels(variant));
    await cp(`${ROOT}package/kernels/wasm.d.ts`, `${OUT}/kernels/${variant}.wasm.d.ts`);
  }
  await cp(`${ROOT}package/kernels/workerd.js`, `${OUT}/kernels/workerd.js`);
}

/** Writes the package. */
export async function writePackage(): Promise<void> {
  const { name, version, license, exports: all } = JSON.parse(await readFile(`${ROOT}deno.json`, "utf8"));
  const exports: Record<string, string> = { ...all };
  delete exports["./distributed"]; // through Deno's foreign function interface
  const { imports } = JSON.parse(await readFile(`${ROOT}imports.json`, "utf8"));
  await rm(OUT, { recursive: true, force: true });
  const entries = Object.values(exports).map((path) => path.slice(2));
  const metafile = await bundle(entries, true);
  await bundle([WORKER], false); // served as one file: see `workerUrl`
  await bundle([TEXT_WORKER], false); // the server starts it from the folder that its own file lies in
  await declarations(ROOT, [...entries, WORKER], `${OUT}/types`);
  await writeKernels();
  for (const file of ["README.md", "LICENSE", "CHANGELOG.md"]) await cp(`${ROOT}${file}`, `${OUT}/${file}`);

  const entry = (path: string) => ({
    types: `./types/${path.replace(/\.ts$/, ".d.ts")}`,
    ...path === LOADER ? { workerd: "./kernels/workerd.js" } : undefined,
    default: `./esm/${path.replace(/\.ts$/, ".js")}`,
  });
  const description = {
    name,
    version,
    description:
      "Lightning Attention: causal linear attention at constant speed and memory, on WebGPU and WASM SIMD",
    keywords: ["attention", "linear-attention", "transformer", "llm", "webgpu", "wasm", "simd"],
    license,
    type: "module",
    sideEffects: false,
    engines: { node: NODE },
    exports: {
      ...Object.fromEntries(
        Object.entries(exports).map(([name, path]) => [name, entry(path.slice(2))]),
      ),
      "./worker": entry(WORKER),
      ...Object.fromEntries(["relaxed", "baseline"].map((variant) => [`./kernels/${variant}.wasm`, {
        types: `./kernels/${variant}.wasm.d.ts`,
        default: `./kernels/${variant}.wasm`,
      }])),
      "./package.json": "./package.json",
    },
    files: ["esm", "types", "kernels", "CHANGELOG.md"],
    dependencies: dependencies(metafile, imports),
  };
  await writeFile(`${OUT}/package.json`, JSON.stringify(description, null, 2) + "\n");
}

if (import.meta.main) {
  await cli(
    command("package", "Writes the package for npm to dist/npm/.").action(async () => {
      await writePackage();
      await stop(); // esbuild's process
    }),
  );
}
