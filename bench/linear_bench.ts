/** `linear` beside its ceiling: the register tile for many rows, memory for one. */
import { createBackend } from "../mod.ts";
import { Baselines } from "./baselines/mod.ts";
import { linearCase, register } from "./cases.ts";

const backend = await createBackend({ prefer: "wasm" });
const baselines = new Baselines();

for (const size of [512, 1024]) {
  register(`linear ${size}³`, baselines, await linearCase(backend, size, size, size));
}
register("linear, one row", baselines, await linearCase(backend, 1, 4096, 4096));
