/**
 * Compiles `assembly/` twice, with relaxed and with baseline SIMD, and embeds both in `wasm/kernels.ts`, so that
 * importing the library reads no file. `deno task build` writes; `deno task build --check` fails when the committed
 * module is not what the sources give.
 *
 * @module
 */
import asc from "assemblyscript/asc";

const SOURCES = new URL("../assembly/", import.meta.url);
const TARGET = new URL("./kernels.ts", import.meta.url);
const VARIANTS = { relaxed: ["simd", "relaxed-simd"], baseline: ["simd"] };

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

async function sourceHash(): Promise<string> {
  const names = [...Deno.readDirSync(SOURCES)].map((entry) => entry.name).filter((name) =>
    name.endsWith(".ts")
  ).sort();
  const text = [...names.map((name) => new URL(name, SOURCES)), new URL("../core/tile.ts", import.meta.url)]
    .map((url) => Deno.readTextFileSync(url)).join("\n");
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return new Uint8Array(digest).toHex();
}

if (import.meta.main) {
  let text =
    `// Compiled from assembly/ by \`deno task build\`: do not edit. Base64 of two WebAssembly modules.\n\n` +
    `/** SHA-256 of the sources that these were compiled from. */\n` +
    `export const SOURCE_HASH: string = "${await sourceHash()}";\n`;
  for (const [name, features] of Object.entries(VARIANTS)) {
    const binary = await compile(new URL("index.ts", SOURCES), features);
    console.log(`${name}: ${binary.length} bytes`);
    text +=
      `\n/** Kernels with ${name} SIMD. */\nexport const ${name.toUpperCase()}: string =\n  "${binary.toBase64()}";\n`;
  }
  if (Deno.args.includes("--check")) {
    if (Deno.readTextFileSync(TARGET) !== text) {
      console.error(
        "wasm/kernels.ts is not what assembly/ compiles to: run `deno task build` and commit the result",
      );
      Deno.exit(1);
    }
    console.log("wasm/kernels.ts is what assembly/ compiles to");
  } else {
    Deno.writeTextFileSync(TARGET, text);
  }
}
