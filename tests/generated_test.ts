/** What is generated and checked in is what its sources give; and what is not generated runs as it is. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** Runs a task of `deno.json`, which must succeed. */
async function task(name: string, ...args: string[]): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "--quiet", name, ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1", INIT_CWD: ROOT },
  }).output();
  assert(success, [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join(""));
}

Deno.test("kernels, their exports and shaders are what their sources give", () => task("build", "--check"));

Deno.test("the page is what its sources give", () => task("page", "--check"));

Deno.test("the library's types can be stripped, and it needs no built-ins but those of all hosts", () =>
  task("check:hosts"));
