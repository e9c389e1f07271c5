// For Node, Bun and Deno: the files are read.
import { readFile } from "node:fs/promises";

const read = async (variant) =>
  await WebAssembly.compile(await readFile(new URL(`./${variant}.wasm`, import.meta.url)));

export async function loadKernels(variant) {
  if (variant !== undefined) return await read(variant);
  try {
    return await read("relaxed");
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) throw error;
    return await read("baseline"); // an engine without relaxed SIMD
  }
}
