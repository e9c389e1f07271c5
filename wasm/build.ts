/**
 * Compiles `assembly/` twice, with relaxed and with baseline SIMD, and embeds both in `wasm/kernels.ts`, so that importing
 * the library reads no file. Writes the arguments of the kernels to `wasm/exports.ts`. Compiles the baselines of `bench/`
 * in the same way. Every file of a folder of kernels is compiled, and every function that it exports is a kernel; what
 * kernels share stands in `parts/`.
 *
 * `build.ts` at the root writes what is made here.
 *
 * @module
 */
import asc from "assemblyscript/asc";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { exportsModule, type Signature, signatures } from "./signatures.ts";

/** Where the project lies. asc gets names relative to it, so that its output depends on no machine. */
const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** The entry of a folder, which is made here, and is no file. */
const ENTRY = "entry.ts";
const VARIANTS = { relaxed: ["simd", "relaxed-simd"], baseline: ["simd"] };

/** The kernels of all files in a folder. Throws when two have one name. */
export function kernelsIn(folder: string): Signature[] {
  const files = [...Deno.readDirSync(join(ROOT, folder))].map(({ name }) => name)
    .filter((name) => name.endsWith(".ts")).sort();
  const kernels = files.flatMap((name) =>
    signatures(`${folder}/${name}`, Deno.readTextFileSync(join(ROOT, folder, name)))
  );
  for (const [index, { name, file }] of kernels.entries()) {
    const other = kernels.find((kernel) => kernel.name === name)!;
    if (other !== kernels[index]) throw new Error(`${other.file} and ${file} both export ${name}`);
  }
  return kernels;
}

/** What the module exports: all kernels, and which variant it is. */
function entryOf(kernels: readonly Signature[]): string {
  const lines = kernels.map(({ name, file }) =>
    `export { ${name} } from "./${file.split("/").at(-1)!.slice(0, -3)}";`
  );
  return [...lines, "export const RELAXED: i32 = ASC_FEATURE_RELAXED_SIMD ? 1 : 0;"].join("\n");
}

/** One build of the kernels of a folder. */
export async function compile(
  folder: string,
  kernels: readonly Signature[],
  features: readonly string[],
): Promise<Uint8Array<ArrayBuffer>> {
  const entry = `${folder}/${ENTRY}`;
  let binary: Uint8Array<ArrayBuffer> | undefined;
  const { error, stderr } = await asc.main([
    entry,
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
    readFile: (name: string) => {
      if (name === entry) return entryOf(kernels);
      try {
        return Deno.readTextFileSync(join(ROOT, name));
      } catch (error) {
        if (error instanceof Deno.errors.NotFound) return null; // asc probes for names that do not exist
        throw error;
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

/** The module that embeds the kernels of a folder. */
async function kernelsModule(folder: string, kernels: readonly Signature[]): Promise<string> {
  let text =
    `// Compiled from ${folder}/ by \`deno task build\`: do not edit. Bytes of two WebAssembly modules, in hexadecimal.\n`;
  for (const [variant, features] of Object.entries(VARIANTS)) {
    const binary = await compile(folder, kernels, features);
    console.log(`${folder}, ${variant}: ${binary.length} bytes`);
    text += `\n/** Kernels with ${variant} SIMD. */\n` +
      `export const ${variant.toUpperCase()}: string =\n  "${binary.toHex()}";\n`;
  }
  return text;
}

/** The files that are made of kernels in AssemblyScript: their text by their path. */
export async function kernelFiles(): Promise<Record<string, string>> {
  const kernels = kernelsIn("assembly"), baselines = "bench/baselines/assembly";
  return {
    "wasm/exports.ts": exportsModule(kernels),
    "wasm/kernels.ts": await kernelsModule("assembly", kernels),
    "bench/baselines/kernels.ts": await kernelsModule(baselines, kernelsIn(baselines)),
  };
}
