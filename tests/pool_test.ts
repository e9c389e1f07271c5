/**
 * What a long prompt asks of a GPU, and in which order reads do, counted on one that computes nothing.
 *
 * @module
 */
import assert from "node:assert/strict";
import { partTokens } from "../distributed/prefill.ts";
import { parseConfig } from "../model/config.ts";
import { PREFILL_TOKENS } from "../model/session.ts";
import { forward, lastLogits, stateShapes } from "../model/transnormer.ts";
import { configByName } from "../train/configs.ts";
import { Parameters } from "../train/optimizer.ts";
import { countingBackend } from "./counting_gpu.ts";

Deno.test("passes of a small model over many tokens find the buffers of the pass before", async () => {
  const { backend, counts } = await countingBackend();
  const config = parseConfig(configByName("medium"));
  const elements = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);
  using network = new Parameters(
    backend,
    config,
    (_, shape) => ({ value: new Float32Array(elements(shape)) }),
  );
  const states = stateShapes(config, 1).map((shape) => backend.zeros(shape));
  // A model alone, ranks, and twice that.
  const part = partTokens(config, "webgpu");
  assert.equal(part, 32_768);
  for (const tokens of [PREFILL_TOKENS.webgpu, part, 2 * part]) {
    const input = { ids: new Uint32Array(tokens), batch: 1, seqLen: tokens, positions: [0], states };
    for (let again = 0; again < 5; again++) {
      counts.reset();
      const output = forward(network, input);
      for (const tensor of output.states) tensor.dispose();
      using hidden = output.hidden, logits = lastLogits(network, hidden);
      await logits.data();
      assert(counts.dispatches > 8 * config.layers, "it is a pass");
      assert.equal(counts.maps, 1, "it waits once");
      if (again < 2) continue; // what comes again is known then
      assert.deepEqual([counts.buffers, counts.pipelines], [0, 0], `${tokens} tokens, pass ${again}`);
    }
  }
  for (const state of states) state.dispose();
  backend.dispose();
});

Deno.test("reads of one turn are mapped together, and what follows is begun before they are copied", async () => {
  // Deno waits for all that is submitted in the first `mapAsync`: what follows must not be, and then must not wait.
  const { backend, counts } = await countingBackend();
  using first = backend.zeros([4]), second = backend.zeros([4]);
  await first.data(); // a staging buffer is mapped when it is made
  counts.reset();
  const reads = Promise.all([first.data(), second.data()]);
  using later = backend.zeros([4]);
  assert.equal(later.size, 4);
  await reads;
  assert.deepEqual(counts.order, ["submit", "submit", "map", "map", "submit", "read", "read"]);
  backend.dispose();
});
