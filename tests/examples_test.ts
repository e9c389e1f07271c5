/**
 * The examples run as a reader runs them: by the command in their header, with no more permission than it gives.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../", import.meta.url);

/** Runs the command of an example's header in the root of the project; what it printed. */
async function runExample(name: string): Promise<string> {
  const source = await Deno.readTextFile(new URL(`examples/${name}.ts`, ROOT));
  const [, line] = /^ \* {5}deno (run .*)$/m.exec(source) ?? [];
  assert(line?.endsWith(` examples/${name}.ts`), `the header of ${name}.ts must have its command: ${line}`);
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: line.split(" ").toSpliced(1, 0, "--no-prompt"),
    cwd: fileURLToPath(ROOT),
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  assert(success, decoder.decode(stderr));
  return decoder.decode(stdout);
}

Deno.test("examples/attention.ts runs", async () => {
  assert.match(await runExample("attention"), /^1000 tokens and one more on (wasm|webgpu): \w/);
});

Deno.test("examples/chat.ts runs", async () => {
  const lines = await runExample("chat");
  assert.match(
    lines,
    /^My fellow citizens,[^]{40,}\n As to our schools,[^]{40,}\n And to our neighbors, I say[^]{40,}\n/,
  );
  assert.match(lines, /\n\d+ tokens in \d+ bytes\n$/);
});

Deno.test("examples/session.ts runs", async () => {
  assert.match(await runExample("session"), /^\d+ bytes for \d+ tokens; continued: We must[^]+\n$/);
});
