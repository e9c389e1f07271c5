import assert from "node:assert/strict";
import { elementCount } from "../core/shape.ts";
import type { Backend } from "../mod.ts";
import { parseConfig } from "../model/config.ts";
import { decodeSafetensors, toFloat32 } from "../model/safetensors.ts";
import { lossAndGradients, lossOf, type PassOptions, type Segment } from "../train/backward.ts";
import { configByName } from "../train/configs.ts";
import { stepMemory } from "../train/memory.ts";
import { Parameters } from "../train/optimizer.ts";
import { assertClose, assertSameBits, eachBackend, randomArray, relativeError, seeded } from "./harness.ts";

const GOLDEN = new URL("./golden/tnl/", import.meta.url);

async function golden(name: string): Promise<(tensor: string) => Float32Array> {
  const { tensors } = decodeSafetensors(await Deno.readFile(new URL(name, GOLDEN)), name);
  return (tensor) => {
    const entry = tensors.get(tensor);
    assert(entry !== undefined, `${name} holds ${tensor}`);
    return entry.dtype === "I32"
      ? Float32Array.from(new Int32Array(entry.bytes.slice().buffer))
      : toFloat32(entry.dtype, entry.bytes, tensor);
  };
}

/** Runs forward and backward; returns the mean loss, gradients by name, and final states. */
async function run(
  backend: Backend,
  parameters: Parameters,
  segment: Segment,
  options: PassOptions = {},
): Promise<{ loss: number; gradients: Map<string, Float32Array>; states: Float32Array[] }> {
  using gradients = parameters.gradients();
  using total = backend.zeros([1]);
  const count = segment.labels.filter((label) => label >= 0).length;
  const states = await lossAndGradients(parameters, gradients.tree, segment, 1 / count, total, options);
  const found = new Map<string, Float32Array>();
  for (const [i, { name }] of parameters.list.entries()) found.set(name, await gradients.list[i].data());
  const stateData: Float32Array[] = [];
  for (const state of states) {
    stateData.push(await state.data());
    state.dispose();
  }
  return { loss: (await total.data())[0] / count, gradients: found, states: stateData };
}

/** Each token's label is the next token of its row; the last one has none. */
function shifted(ids: Uint32Array, batch: number): Segment {
  const seqLen = ids.length / batch;
  const labels = Int32Array.from(ids, (_, i) => i % seqLen === seqLen - 1 ? -100 : ids[i + 1]);
  return { ids, labels, batch, seqLen, positions: new Array(batch).fill(0) };
}

eachBackend("the model's loss and gradients are those of the authors' code", async (backend) => {
  const config = parseConfig(JSON.parse(await Deno.readTextFile(new URL("config.json", GOLDEN))));
  const weights = await golden("model.safetensors"), expected = await golden("expected.safetensors");
  using parameters = new Parameters(backend, config, (name) => ({ value: weights(name) }));
  const segment = shifted(Uint32Array.from(expected("input_ids")), 2);
  const found = await run(backend, parameters, segment);
  // On matrix units each of some ten products on the way adds its 3e-4.
  const [lossLimit, limit] = backend.info.units === "f32" ? [1e-6, 1e-5] : [1e-4, 3e-3];
  assertClose([found.loss], expected("loss"), lossLimit, "loss");
  for (const { name } of parameters.list) {
    const error = relativeError(found.gradients.get(name)!, expected(`grad.${name}`));
    assert(error <= limit, `gradient of ${name} is off by ${error}`);
  }
  // Recomputed activations are the same numbers.
  const again = await run(backend, parameters, segment, { recompute: true });
  assert.equal(again.loss, found.loss);
  for (const { name } of parameters.list) {
    assertSameBits(again.gradients.get(name)!, found.gradients.get(name)!, name);
  }
  using total = backend.zeros([1]);
  for (const state of await lossOf(parameters, segment, total, {})) state.dispose();
  assert.equal((await total.data())[0] / 190, found.loss);
});

/** A small model with every option that the golden one lacks: LayerNorm, biases, tied embedding. */
function otherModel(backend: Backend, change: Record<string, unknown> = {}): Parameters {
  const config = parseConfig({
    vocab_size: 11,
    decoder_embed_dim: 12,
    decoder_layers: 2,
    decoder_attention_heads: 2,
    hidden_dim: 8,
    glu_dim: 10,
    norm_type: "layernorm",
    linear_act_fun: "1+elu",
    linear_use_lrpe_list: [0, 1],
    bias: true,
    tie_word_embeddings: true,
    no_scale_embedding: true,
    ...change,
  });
  let seed = 0;
  return new Parameters(backend, config, (name, shape) => ({
    value: randomArray(shape, ++seed).map((x) => name.endsWith("norm.weight") ? 1 + x / 4 : x / 2),
  }));
}

eachBackend("a step holds what it is told to hold, and little of it with recompute", async (backend) => {
  const told: number[] = [];
  for (const [layers, vocab] of [[6, 259], [2, 259], [2, 3000]] as const) {
    for (const recompute of [false, true]) {
      const config = parseConfig({
        ...configByName("tiny"),
        vocab_size: vocab,
        decoder_layers: layers,
        linear_use_lrpe_list: Array.from({ length: layers }, (_, l) => l === 0 ? 1 : 0),
      });
      using parameters = new Parameters(backend, config, (_, shape) => ({
        value: new Float32Array(elementCount(shape)).fill(0.01),
      }));
      const batch = 2, seqLen = 64;
      const segment = shifted(new Uint32Array(batch * seqLen), batch);
      const { operations } = backend.machine, original = { ...operations };
      let most = 0;
      const watched = Object.entries(original).map(([name, run]) => [name, (call: never) => {
        most = Math.max(most, backend.bytesInUse);
        (run as (call: never) => void)(call);
      }]);
      try {
        Object.assign(operations, Object.fromEntries(watched));
        await run(backend, parameters, segment, { recompute });
      } finally {
        Object.assign(operations, original);
      }
      const memory = stepMemory(config, parameters.count, { batch, seqLen }, recompute);
      const all = memory.parameters + memory.activations, what = `${layers} layers, ${vocab}, ${recompute}`;
      assert(most <= all + 2 ** 15, `${what}: ${most} bytes of ${all}`); // totals, and tables of decay
      assert(most >= memory.parameters + 0.97 * memory.activations, `${what}: ${most} bytes of ${all}`);
      told.push(memory.activations);
    }
  }
  assert(told[1] < told[0] / 2, `six layers take ${told[1]} bytes instead of ${told[0]}`);
});

/** What the golden model and the one above lack. */
const VARIANTS = {
  "LayerNorm, biases and tied embeddings": {},
  "RMSNorm, GLU with silu, no decay temperature": {
    norm_type: "rmsnorm",
    glu_act_fun: "silu",
    use_decay_temperature: false,
  },
  "no output gate": { use_output_gate: false },
  "neither output gate nor norm, RMSNorm": {
    norm_type: "rmsnorm",
    use_output_gate: false,
    use_output_norm: false,
  },
};

for (const [what, change] of Object.entries(VARIANTS)) {
  eachBackend(`${what}: against finite differences`, async (backend) => {
    using parameters = otherModel(backend, change);
    const random = seeded(1);
    const segment = shifted(Uint32Array.from({ length: 2 * 9 }, () => Math.floor(11 * random())), 2);
    const { gradients } = await run(backend, parameters, segment);
    for (const [i, { name, value }] of parameters.list.entries()) {
      // Along a random direction per parameter: one difference checks all of its elements.
      const start = await value.data(), direction = randomArray(value.shape, 50 + i);
      const lossAt = async (h: number) => {
        backend.write(value, start.map((x, j) => x + h * direction[j]));
        return (await run(backend, parameters, segment)).loss;
      };
      const h = 0.003; // larger steps meet the bends of 1+elu, smaller ones drown in rounding
      const [a, b, c, d] = [await lossAt(-2 * h), await lossAt(-h), await lossAt(h), await lossAt(2 * h)];
      backend.write(value, start);
      const expected = (a - 8 * b + 8 * c - d) / (12 * h);
      const found = gradients.get(name)!.reduce((sum, g, j) => sum + g * direction[j], 0);
      assert(
        Math.abs(found - expected) <= 2e-3 * Math.abs(expected) + 2e-4,
        `${name}: ${found}, ${expected}`,
      );
    }
  });
}

eachBackend(
  "packed sequences are the sequences one by one; states carry over",
  async (backend) => {
    using parameters = otherModel(backend);
    const random = seeded(2);
    const ids = Uint32Array.from({ length: 20 }, () => Math.floor(11 * random()));
    const labels = Int32Array.from({ length: 20 }, () => Math.floor(11 * random()));
    const part = (start: number, end: number): Segment => ({
      ids: ids.slice(start, end),
      labels: labels.slice(start, end),
      batch: 1,
      seqLen: end - start,
      positions: [start],
    });
    const first = await run(backend, parameters, part(0, 7)),
      second = await run(backend, parameters, part(7, 20));
    const packed = await run(backend, parameters, { ...part(0, 20), cuSeqlens: [0, 7, 20] });
    assertClose([20 * packed.loss], [7 * first.loss + 13 * second.loss], 1e-6, "loss");
    for (const [name, gradient] of packed.gradients) {
      // θ knows absolute positions: its gradient is a difference of large sums.
      const limit = name.endsWith("theta") ? 1e-4 : 1e-5;
      const [a, b] = [first.gradients.get(name)!, second.gradients.get(name)!];
      assertClose(gradient, a.map((x, i) => (7 * x + 13 * b[i]) / 20), limit, name);
    }
    // Gradients of segments add up.
    using gradients = parameters.gradients();
    using total = backend.zeros([1]);
    for (const segment of [part(0, 7), part(7, 20)]) {
      for (const state of await lossAndGradients(parameters, gradients.tree, segment, 1 / 20, total)) {
        state.dispose();
      }
    }
    assertClose(await total.data(), [20 * packed.loss], 1e-6, "accumulated loss");
    for (const [i, { name }] of parameters.list.entries()) {
      const limit = name.endsWith("theta") ? 1e-4 : 1e-5;
      assertClose(await gradients.list[i].data(), packed.gradients.get(name)!, limit, `accumulated ${name}`);
    }
    // One sequence in two segments: the same losses as in one.
    const whole = await run(backend, parameters, part(0, 20));
    const states = first.states.map((data, l) => backend.tensor(data, [1, 2, l === 1 ? 8 : 4, 4]));
    const rest = await run(backend, parameters, { ...part(7, 20), states });
    for (const state of states) state.dispose();
    assertClose([7 * first.loss + 13 * rest.loss], [20 * whole.loss], 1e-6, "loss with carried state");
    rest.states.forEach((state, l) => assertClose(state, whole.states[l], 1e-5, `state of layer ${l}`));
  },
);
