/**
 * Cold start: what importing the library and making a WASM backend adds to a Deno process that does nothing.
 *
 * @module
 */
import { median, seconds } from "./timing.ts";

const LIBRARY = new URL("../../mod.ts", import.meta.url).href;

/**
 * Milliseconds over an empty process: the median of differences between processes that start in turns. Deno's own cache
 * of compiled modules is warm, as after any first start.
 */
export async function coldStart(repeats = 15): Promise<number> {
  const folder = await Deno.makeTempDir();
  try {
    const empty = `${folder}/empty.ts`, library = `${folder}/library.ts`;
    await Deno.writeTextFile(empty, "");
    await Deno.writeTextFile(
      library,
      `import { createBackend } from ${
        JSON.stringify(LIBRARY)
      };\n(await createBackend({ prefer: "wasm" })).dispose();`,
    );
    for (const file of [empty, library]) await start(file);
    const differences = [];
    for (let i = 0; i < repeats; i++) {
      const before = await seconds(() => start(empty));
      const taken = await seconds(() => start(library));
      const after = await seconds(() => start(empty));
      differences.push(1000 * (taken - (before + after) / 2));
    }
    return median(differences);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function start(file: string): Promise<void> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", "--quiet", file],
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`Cannot measure the cold start: ${new TextDecoder().decode(stderr)}`);
}
