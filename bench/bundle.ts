/**
 * Sizes of bundles, minified, as they are and with gzip: what a program downloads at its start, and in all with what it
 * imports later; and which kernels are in them. Prints a table.
 *
 *     deno task bench:bundle
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { cli, command } from "../cli/mod.ts";

const ROOT = new URL("../", import.meta.url);
const { exports }: { exports: Record<string, string> } = JSON.parse(
  await Deno.readTextFile(new URL("deno.json", ROOT)),
);

/** The module that a name of `exports` stands for. */
function entry(name: string): string {
  assert(Object.hasOwn(exports, name), `deno.json must export ${name}`);
  return JSON.stringify(new URL(exports[name], ROOT).href);
}

/** A program that computes attention, on what one entry of the library offers. */
const attentionOf = (name: string) =>
  `export { createBackend, lightningAttention, lightningAttentionStep } from ${entry(name)};`;

/** Programs by name, and the text of their entries. */
const PROGRAMS = [
  {
    name: "edge function, `examples/edge/main.ts`",
    text: `import ${JSON.stringify(new URL("examples/edge/main.ts", ROOT).href)};`,
  },
  { name: "attention on WebGPU alone, `@levin/attention/webgpu`", text: attentionOf("./webgpu") },
  { name: "attention on WASM alone, `@levin/attention/wasm`", text: attentionOf("./wasm") },
  { name: "attention on either, `@levin/attention`", text: attentionOf(".") },
  { name: "all of `@levin/attention`, `mod.ts`", text: `export * from ${entry(".")};` },
];

/** How each kind of kernel is told in a bundle: WGSL by its entry points, WebAssembly by its first bytes in hexadecimal. */
const KERNELS = { WGSL: "@compute", WASM: "0061736d" };

interface Size {
  readonly raw: number;
  readonly gzip: number;
  readonly kernels: readonly string[];
}

/** Bundles a program: its files by name. */
async function bundle(text: string): Promise<Map<string, string>> {
  const folder = await Deno.makeTempDir();
  try {
    const program = `${folder}/program.ts`, out = `${folder}/out`;
    await Deno.writeTextFile(program, text);
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["bundle", "--quiet", "--minify", "--platform", "browser", "--code-splitting", "--outdir", out],
        ...["--config", fileURLToPath(new URL("deno.json", ROOT)), program],
      ],
      cwd: fileURLToPath(ROOT),
      stderr: "piped",
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    const files = new Map<string, string>();
    for (const { name } of Deno.readDirSync(out)) {
      files.set(name, await Deno.readTextFile(`${out}/${name}`));
    }
    return files;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** The files that load when the program starts: its own, and all that they import with a statement. */
function loadedAtStart(files: ReadonlyMap<string, string>): string[] {
  const loaded = new Set(["program.js"]);
  for (const name of loaded) {
    const text = files.get(name);
    assert(text !== undefined, `the bundle must have ${name}`);
    for (const [, other] of text.matchAll(/(?:\bfrom|\bimport)\s*"\.\/([^"]+)"/g)) loaded.add(other);
  }
  return [...loaded];
}

/** The size of some files, each compressed by itself, as a server sends them. */
function sizeOf(texts: readonly string[]): Size {
  const encoder = new TextEncoder();
  const all = texts.map((text) => encoder.encode(text));
  return {
    raw: all.reduce((sum, { length }) => sum + length, 0),
    gzip: all.reduce((sum, bytes) => sum + gzipSync(bytes, { level: 9 }).length, 0),
    kernels: Object.entries(KERNELS).filter(([, mark]) => texts.some((text) => text.includes(mark)))
      .map(([kind]) => kind),
  };
}

const kilobytes = (bytes: number) => (bytes / 1000).toFixed(1);

await cli(command("bench:bundle", "Sizes of bundles, and the kernels in them.").action(table));

async function table(): Promise<void> {
  console.log("| program | at start: KB | gzip: KB | kernels | in all: KB | gzip: KB | kernels |");
  console.log("|---|--:|--:|---|--:|--:|---|");
  for (const { name, text } of PROGRAMS) {
    const files = await bundle(text);
    const sizes = [loadedAtStart(files).map((file) => files.get(file)!), [...files.values()]].map(sizeOf);
    const cells = sizes.map(({ raw, gzip, kernels }) =>
      `${kilobytes(raw)} | ${kilobytes(gzip)} | ${kernels.join(", ") || "none"}`
    );
    console.log(`| ${name} | ${cells.join(" | ")} |`);
  }
}
