/** Attention forward beside its ceiling and what it replaces, and one step. */
import { createBackend } from "../mod.ts";
import { Baselines } from "./baselines/mod.ts";
import {
  ATTENTION_SIZES,
  describe,
  leftProductCase,
  lightningCase,
  recurrenceCase,
  register,
  softmaxCase,
  stepCase,
} from "./cases.ts";

const backend = await createBackend({ prefer: "wasm" });
const baselines = new Baselines();

for (const sizes of ATTENTION_SIZES) {
  const peers = [leftProductCase(baselines, sizes), softmaxCase(baselines, sizes)];
  // The recurrence takes the same time per token at every length, so the shortest says it all.
  if (sizes.seqLen === 2048) peers.push(await recurrenceCase(backend, sizes));
  register(`attention ${describe(sizes)}`, baselines, await lightningCase(backend, sizes), ...peers);
}
register("step", baselines, await stepCase(backend, 64, 16, 128));
