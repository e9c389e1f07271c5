/**
 * How a model's matrices are stored on a backend: `load(..., { weights })`.
 */
import assert from "node:assert/strict";
import { Quantizer } from "../core/quantize.ts";
import { createBackend, dequantize, quantize } from "../mod.ts";
import { type LoadOptions, TransNormerLLM } from "../model/mod.ts";
import { convertModel } from "../train/convert.ts";
import { inFolder } from "./folder.ts";
import { eachBackend } from "./harness.ts";
import { randomArray } from "./numbers.ts";
import { checkpoint, randomTensors, rounded, SERVED, serving, SMALL } from "./reference_model.ts";

/** F32, heads and head of its own; BF16, tied. */
const GOLDEN = "tests/golden/tnl";
const PUBLISHED = "tests/golden/published/tnl_gpt2_safetensors";
const IDS = [[3, 200, 17, 9, 64, 11, 5]];

async function logitsOf(model: TransNormerLLM): Promise<Float32Array> {
  using logits = model.forward(IDS);
  return await logits.data();
}

/** What is written token by token, which other kernels compute than those of `forward`. */
async function written(model: TransNormerLLM): Promise<number[]> {
  const tokens = [];
  for await (const { token } of model.generate(IDS[0], { temperature: 0, maxTokens: 24 })) tokens.push(token);
  return tokens;
}

eachBackend("weights: 16 bits give the answers of f32 bit for bit, in half the memory", async (backend) => {
  const before = backend.bytesInUse;
  const bytesOf = (model: TransNormerLLM) => {
    const bytes = backend.bytesInUse - before;
    return [bytes / model.parameterCount, model.weights.embedTokens.dtype] as const;
  };
  const load = (weights: LoadOptions["weights"]) => TransNormerLLM.load(PUBLISHED, { backend, weights });
  let expected, text, fingerprint;
  {
    using model = await load("f32");
    const [bytes, dtype] = bytesOf(model);
    assert.equal(dtype, "f32");
    assert(bytes >= 4);
    expected = await logitsOf(model);
    text = await written(model);
    fingerprint = model.fingerprint;
  }
  for (const weights of ["auto", "bf16"] as const) {
    using model = await load(weights);
    const [bytes, dtype] = bytesOf(model);
    assert.equal(dtype, "bf16");
    assert.equal(model.weights.layers[0].l3.weight.dtype, "bf16");
    assert(bytes < 2.3, `${bytes} bytes for each parameter`);
    assert.deepEqual(await logitsOf(model), expected);
    assert.deepEqual(await written(model), text);
    assert.equal(model.fingerprint, fingerprint, "the same model");
  }
});

eachBackend(
  "weights: rounded or quantised while they load, the model that convert writes",
  async (backend) => {
    await inFolder(async (folder) => {
      using plain = await TransNormerLLM.load(GOLDEN, { backend });
      const cases = [["bf16", 32], ["f16", 32], ["int8", 32], ["int4", 32], ["int4", 64]] as const;
      const fingerprints = new Set([plain.fingerprint]);
      for (const [weights, group] of cases) {
        if (weights === "f16" && !backend.machine.dtypes.includes("f16")) continue; // refused: the next test
        const out = `${folder}/${weights}-${group}`;
        await convertModel(GOLDEN, out, { weights, group });
        using converted = await TransNormerLLM.load(out, { backend });
        using model = await TransNormerLLM.load(GOLDEN, { backend, weights, group });
        for (const name of ["embedTokens", "lmHead"] as const) {
          assert.equal(model.weights[name].dtype, converted.weights[name].dtype, `${weights}: ${name}`);
          assert.deepEqual(model.weights[name].quantization, converted.weights[name].quantization);
        }
        assert.deepEqual(await logitsOf(model), await logitsOf(converted), weights);
        fingerprints.add(model.fingerprint);
        using session = model.session();
        session.step(5).dispose();
        const snapshot = await session.snapshot();
        assert.throws(() => plain.restore(snapshot), /the snapshot must be of this model/);
      }
      assert.equal(fingerprints.size, 1 + (backend.machine.dtypes.includes("f16") ? 5 : 4));
    });
  },
);

/** Embedding of 1.3 MB in BF16, 2.6 MB in F32: more than a piece, and no whole number of them. */
const LARGE = { ...SMALL, vocab_size: 20_011, decoder_embed_dim: 32, tie_word_embeddings: false };

eachBackend(
  "weights: matrices that come in several pieces have every element in its place",
  async (backend) => {
    const tensors = rounded(randomTensors(LARGE, 5), "BF16");
    const { shape, data } = tensors.get("model.embed_tokens.weight")!;
    const integers = dequantize(quantize(data, shape, { bits: 8 }));
    const expected = { f32: data, bf16: data, int8: integers, int4: integers }; // it is not tied
    for (const dtype of ["F32", "BF16"] as const) {
      const fetch = serving(checkpoint({ model_type: "transnormer", ...LARGE }, tensors, dtype));
      for (const weights of ["f32", "bf16", "int8", "int4"] as const) {
        using model = await TransNormerLLM.load(SERVED, { backend, fetch, weights });
        const actual = await model.weights.embedTokens.data(), what = `${dtype} as ${weights}`;
        // The first that differs: to print 640,000 elements takes minutes.
        assert.equal(actual.findIndex((value, i) => value !== expected[weights][i]), -1, what);
        assert.equal(actual.length, expected[weights].length, what);
      }
    }
  },
);

Deno.test("weights: what cannot be is refused, with what can", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  const refused = (options: LoadOptions, message: RegExp, folder = GOLDEN) =>
    assert.rejects(TransNormerLLM.load(folder, { backend, ...options }), message);
  const before = backend.bytesInUse;
  await refused(
    { weights: "f64" as never },
    /options\.weights must be "auto", "f32", .*"int4".*: current value is "f64"/,
  );
  await refused(
    { weights: "f16" },
    /options\.weights must be .* on this wasm backend: current value is "f16"/,
  );
  await refused(
    { weights: "int4", group: 48 as never },
    /options\.group must be 32 or 64: current value is 48/,
  );
  await inFolder(async (folder) => {
    await convertModel(GOLDEN, `${folder}/int8`, { weights: "int8" });
    const message =
      /options\.weights must be "auto": current value is "bf16" \(config\.json says .* 8 bits\)/;
    await refused({ weights: "bf16" }, message, `${folder}/int8`);
  });
  assert.equal(backend.bytesInUse, before);
});

Deno.test("Quantizer: pieces that end anywhere give the weight of the whole", () => {
  const shape = [7, 45], data = randomArray(shape, 3);
  for (const format of [{ bits: 8, group: 32 }, { bits: 4, group: 64 }] as const) {
    const whole = quantize(data, shape, format);
    for (const length of [1, 7, 44, 45, 46, 100, data.length]) {
      const quantizer = new Quantizer(shape, format);
      for (let at = 0; at < data.length; at += length) quantizer.add(data.subarray(at, at + length));
      assert.deepEqual(quantizer.finish(), whole, `pieces of ${length}`);
    }
  }
});
