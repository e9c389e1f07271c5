/**
 * Compiles `assembly/` twice, with relaxed and with baseline SIMD, and embeds both in `wasm/kernels.ts`, so that
 * importing the library reads no file; the baselines of `bench/` likewise. `deno task build` writes; `deno task build --check` fails when the committed
 * module is not what the sources give.
 *
 * @module
 */
import asc from "assemblyscript/asc";

const ASSEMBLY = new URL("../assembly/", import.meta.url);
const BASELINES = new URL("../bench/baselines/assembly/", import.meta.url);
const TILE = new URL("../core/tile.ts", import.meta.url);
const VARIANTS = { relaxed: ["simd", "relaxed-simd"], baseline: ["simd"] };

/** What is compiled: the entry, all that it is compiled from, and the module that embeds it. */
const MODULES = [
  {
    name: "wasm/kernels.ts",
    entry: new URL("index.ts", ASSEMBLY),
    sources: () => [...sourcesIn(ASSEMBLY), TILE],
    target: new URL("./kernels.ts", import.meta.url),
  },
  {
    name: "bench/baselines/kernels.ts",
    entry: new URL("index.ts", BASELINES),
    sources: () => [
      ...sourcesIn(BASELINES),
      new URL("simd.ts", ASSEMBLY),
      new URL("tile.ts", ASSEMBLY),
      TILE,
    ],
    target: new URL("../bench/baselines/kernels.ts", import.meta.url),
  },
];

/** One build of the kernels. */
export async function compile(entry: URL, features: readonly string[]): Promise<Uint8Array<ArrayBuffer>> {
  let binary: Uint8Array<ArrayBuffer> | undefined;
  const { error, stderr } = await asc.main([
    entry.pathname,
    "--outFile=kernels.wasm",
    "--runtime=stub",
    "--importMemory",
    "--initialMemory=1",
    "--maximumMemory=65536",
    "--use=abort=",
    "--noAssert",
    "-O3",
    "--converge",
    ...features.map((feature) => `--enable=${feature}`),
  ], {
    readFile: (name: string, base: string) => {
      try {
        return Deno.readTextFileSync(name.startsWith("/") ? name : `${base}/${name}`);
      } catch {
        return null; // asc probes for names that do not exist
      }
    },
    writeFile: (name: string, contents: Uint8Array | string) => {
      if (name.endsWith(".wasm")) binary = contents as Uint8Array<ArrayBuffer>;
    },
    listFiles: () => [],
  });
  if (error !== null || binary === undefined) throw new Error(`asc failed:\n${stderr}`, { cause: error });
  return binary;
}

function sourcesIn(folder: URL): URL[] {
  return [...Deno.readDirSync(folder)].map((entry) => entry.name).filter((name) => name.endsWith(".ts"))
    .sort().map((name) => new URL(name, folder));
}

async function hash(sources: URL[]): Promise<string> {
  const text = sources.map((url) => Deno.readTextFileSync(url)).join("\n");
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return new Uint8Array(digest).toHex();
}

async function embed({ name, entry, sources }: typeof MODULES[number]): Promise<string> {
  const folder = entry.pathname.slice(new URL("..", import.meta.url).pathname.length, -"index.ts".length);
  let text =
    `// Compiled from ${folder} by \`deno task build\`: do not edit. Base64 of two WebAssembly modules.\n\n` +
    `/** SHA-256 of the sources that these were compiled from. */\n` +
    `export const SOURCE_HASH: string = "${await hash(sources())}";\n`;
  for (const [variant, features] of Object.entries(VARIANTS)) {
    const binary = await compile(entry, features);
    console.log(`${name}, ${variant}: ${binary.length} bytes`);
    text +=
      `\n/** Kernels with ${variant} SIMD. */\nexport const ${variant.toUpperCase()}: string =\n  "${binary.toBase64()}";\n`;
  }
  return text;
}

if (import.meta.main) {
  for (const module of MODULES) {
    const text = await embed(module);
    if (!Deno.args.includes("--check")) {
      Deno.writeTextFileSync(module.target, text);
    } else if (Deno.readTextFileSync(module.target) === text) {
      console.log(`${module.name} is what its sources compile to`);
    } else {
      console.error(
        `${module.name} is not what its sources compile to: run \`deno task build\` and commit the result`,
      );
      Deno.exit(1);
    }
  }
}
