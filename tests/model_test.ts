import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import fc from "fast-check";
import { type Backend, createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { PREFILL_TOKENS } from "../model/session.ts";
import { decodeSafetensors } from "../model/safetensors.ts";
import { assertClose, assertSameBits, eachBackend, relativeError, seeded } from "./harness.ts";
import {
  byteLevelJson,
  checkpoint,
  type ConfigJson,
  type Files,
  type FileType,
  randomTensors,
  referenceLogits,
  rounded,
  safetensorsFile,
  SERVED,
  serving,
  SMALL,
  type Tensors,
  textFile,
} from "./reference_model.ts";

const GOLDEN = new URL("golden/tnl", import.meta.url);
const golden = decodeSafetensors(
  Deno.readFileSync(new URL("golden/tnl/expected.safetensors", import.meta.url)),
);
const bytesOf = (name: string) => golden.tensors.get(name)!.bytes.slice().buffer;
const goldenIds = new Int32Array(bytesOf("input_ids"));
const goldenRows = [goldenIds.subarray(0, 96), goldenIds.subarray(96)];
const goldenLogits = new Float32Array(bytesOf("logits"));
const goldenGreedy = [...new Int32Array(bytesOf("greedy"))];

function load(backend: Backend, files: Files): Promise<TransNormerLLM> {
  return TransNormerLLM.load(SERVED, { backend, fetch: serving(files) });
}

async function tokens(model: TransNormerLLM, ...options: Parameters<TransNormerLLM["generate"]>) {
  return (await Array.fromAsync(model.generate(...options))).map(({ token }) => token);
}

eachBackend("the authors' logits", async (backend) => {
  using model = await TransNormerLLM.load(GOLDEN, { backend });
  using logits = model.forward(goldenRows);
  assert.deepEqual(logits.shape, [2, 96, 256]);
  assertClose(await logits.data(), goldenLogits, 1e-4, "logits");
});

eachBackend("the authors' greedy continuation", async (backend) => {
  using model = await TransNormerLLM.load(GOLDEN, { backend });
  const prompt = goldenGreedy.slice(0, 8);
  assert.deepEqual(await tokens(model, prompt, { maxTokens: 24, temperature: 0 }), goldenGreedy.slice(8));
});

eachBackend("logprob is the log-softmax of the authors' logits", async (backend) => {
  using model = await TransNormerLLM.load(GOLDEN, { backend });
  const row = [...goldenLogits.subarray(95 * 256, 96 * 256)];
  const total = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
  for await (
    const { token, logprob, text, finish } of model.generate(goldenRows[0], { maxTokens: 1, seed: 3 })
  ) {
    assertClose([logprob], [row[token] - total], 1e-4);
    assert.equal(text, "");
    assert.equal(finish, "length");
  }
});

const activations = [
  "silu",
  "swish",
  "1+elu",
  "2+elu",
  "elu",
  "relu",
  "gelu",
  "leak",
  "sigmoid",
  "sine",
  "exp",
  "identity",
  "none",
];

/**
 * How far the exact model moves when its weights move by one rounding of f32. In tiny models attention may cancel to
 * almost nothing, and the norm after it magnifies what rounding left: no f32 model is then closer than this.
 */
function roundingError(
  config: ConfigJson,
  tensors: Tensors,
  rows: number[][],
  expected: Float64Array,
): number {
  const errors = [1, 2, 3].map((seed) => {
    const random = seeded(seed);
    const moved = [...tensors].map(([name, { shape, data }]) => {
      const values = Float64Array.from(data, (value) => value * (1 + (random() < 0.5 ? 1 : -1) * 2 ** -24));
      return [name, { shape, data: values }] as const;
    });
    return relativeError(referenceLogits(config, new Map(moved), rows), expected);
  });
  return Math.max(...errors);
}

async function checkConfig(
  backend: Backend,
  config: ConfigJson,
  rows: number[][],
  seed: number,
  dtype: FileType = "F32",
  tiny = false,
) {
  const tensors = rounded(randomTensors(config, seed), dtype);
  using model = await load(backend, checkpoint(config, tensors, dtype));
  using logits = model.forward(rows);
  const expected = referenceLogits(config, tensors, rows);
  const limit = tiny ? Math.max(1e-4, 30 * roundingError(config, tensors, rows, expected)) : 1e-4;
  assertClose(await logits.data(), expected, limit, `logits of ${JSON.stringify(config)}`);

  // Prefill, then steps: the same numbers from the recurrent form, one row at a time.
  for (const [b, row] of rows.entries()) {
    using session = model.session();
    const cut = 1 + (seed + b) % row.length;
    const found: number[] = [];
    for (let t = cut; t <= row.length; t++) {
      using last = t === cut ? session.prefill(row.slice(0, cut)) : session.step(row[t - 1]);
      assert.equal(session.position, t);
      found.push(...await last.data());
    }
    const [from, to] = [b * row.length + cut - 1, (b + 1) * row.length].map((t) => t * config.vocab_size);
    const what = `logits of steps after a prefill of ${cut}, of ${JSON.stringify(config)}`;
    assertClose(found, expected.subarray(from, to), limit, what);
  }
}

for (const linear_act_fun of activations) {
  eachBackend(`activation ${linear_act_fun}`, async (backend) => {
    await checkConfig(
      backend,
      { ...SMALL, linear_act_fun },
      [[1, 2, 3, 4, 5, 6, 7], [9, 9, 9, 22, 0, 1, 1]],
      5,
    );
  });
}

const variations: [what: string, change: Partial<ConfigJson>][] = [
  ["bias", { bias: true }],
  ["LayerNorm", { norm_type: "layernorm" }],
  ["LayerNorm and bias", { norm_type: "layernorm", bias: true }],
  ["RMSNorm", { norm_type: "rmsnorm" }],
  ["GLU with silu", { glu_act_fun: "silu" }],
  ["no output gate", { use_output_gate: false, bias: true }],
  ["no output gate, RMSNorm", { use_output_gate: false, norm_type: "rmsnorm" }],
  ["neither output gate nor norm", { use_output_gate: false, use_output_norm: false }],
  ["no decay temperature", { use_decay_temperature: false }],
  ["no LRPE", { linear_use_lrpe_list: [] }],
  ["LRPE in every layer", { linear_use_lrpe_list: [1, 1] }],
  ["LRPE in the last layer", { linear_use_lrpe_list: [0, 1] }],
  ["an embedding without scale", { no_scale_embedding: true }],
  ["one layer", { decoder_layers: 1, linear_use_lrpe_list: [0] }],
  ["one head", { decoder_attention_heads: 1 }],
  ["heads of one element", { decoder_attention_heads: 18 }],
  ["glu_dim from the embedding", { glu_dim: -1 }],
  ["hidden_dim below decoder_embed_dim", { hidden_dim: 6 }],
  ["tied embeddings", { tie_word_embeddings: true }],
  ["a vocabulary of one", { vocab_size: 1 }],
  ["sizes beyond one tile", { decoder_embed_dim: 130, hidden_dim: 201, glu_dim: 77, vocab_size: 301 }],
];

for (const [what, change] of variations) {
  eachBackend(`configuration with ${what}`, async (backend) => {
    const config = { ...SMALL, ...change };
    const rows = [11, 5].map((step) => Array.from({ length: 60 }, (_, t) => t * step % config.vocab_size));
    for (const dtype of ["F32", "F16", "BF16"] as const) await checkConfig(backend, config, rows, 7, dtype);
  });
}

eachBackend("random configurations against the float64 model", async (backend) => {
  const config: fc.Arbitrary<ConfigJson> = fc.record({
    vocab_size: fc.integer({ min: 1, max: 40 }),
    decoder_embed_dim: fc.integer({ min: 1, max: 40 }),
    decoder_layers: fc.integer({ min: 1, max: 4 }),
    decoder_attention_heads: fc.integer({ min: 1, max: 7 }),
    hidden_dim: fc.integer({ min: 1, max: 12 }), // per head here, times heads below
    glu_dim: fc.oneof(fc.constant(-1), fc.integer({ min: 1, max: 50 })),
    linear_act_fun: fc.option(fc.constantFrom(...activations), { nil: undefined }),
    linear_use_lrpe_list: fc.oneof(
      fc.constant(undefined),
      fc.constant<number[]>([]),
      fc.array(fc.constantFrom<number | boolean>(0, 1, true, false), { minLength: 4, maxLength: 5 }),
    ),
    norm_type: fc.constantFrom(undefined, "simplermsnorm", "rmsnorm", "layernorm"),
    glu_act_fun: fc.constantFrom(undefined, "silu", "gelu"),
    use_output_gate: fc.constantFrom(undefined, true, false),
    use_decay_temperature: fc.constantFrom(undefined, true, false),
    bias: fc.constantFrom(undefined, true, false),
    no_scale_embedding: fc.constantFrom(undefined, true, false),
    tie_word_embeddings: fc.constantFrom(undefined, true, false),
  }).map((config) => ({ ...config, hidden_dim: config.hidden_dim * config.decoder_attention_heads }));
  const property = fc.asyncProperty(
    config,
    fc.constantFrom<FileType>("F32", "F16", "BF16"),
    fc.constantFrom(1, 2),
    fc.integer({ min: 1, max: 70 }),
    fc.nat(10_000),
    async (config, dtype, batch, seqLen, seed) => {
      const rows = Array.from(
        { length: batch },
        (_, b) =>
          Array.from({ length: seqLen }, (_, t) => (seed * 31 + t * t * 7 + b * 5 + t) % config.vocab_size),
      );
      await checkConfig(backend, config, rows, seed, dtype, true);
    },
  );
  await fc.assert(property, { numRuns: 30 });
});

eachBackend("a long prompt in bounded passes is the prompt in one pass", async (backend) => {
  const config = { ...SMALL, linear_use_lrpe_list: [0, 1] };
  using model = await load(backend, checkpoint(config, randomTensors(config, 2)));
  const ids = Array.from({ length: 2 * PREFILL_TOKENS[backend.name] + 1 }, (_, t) => (t * t + 3 * t) % 23);
  using whole = model.forward([ids]);
  using session = model.session();
  using last = session.prefill(ids.slice(0, -1));
  assertClose(await last.data(), (await whole.data()).subarray(-46, -23), 1e-5);
  using onePass = model.session();
  onePass.prefill(ids.slice(0, -1), { logits: "all" }).dispose();
  // On a GPU segments, and with them the order of sums, follow from the length of a pass.
  if (backend.name === "wasm") {
    assert.deepEqual(
      await session.snapshot(),
      await onePass.snapshot(),
      "states after whole blocks: bits differ",
    );
  }
  using after = onePass.step(ids.at(-1)!);
  assertClose(await after.data(), (await whole.data()).subarray(-23), 1e-5);
  using next = session.step(ids.at(-1)!);
  assertClose(await next.data(), (await whole.data()).subarray(-23), 1e-5);
  assert.equal(session.position, ids.length);

  using uneven = model.session();
  for (const [start, end] of [[0, 1], [1, 50], [50, 51], [51, 1000]]) {
    uneven.prefill(ids.slice(start, end)).dispose();
  }
  using rest = uneven.prefill(ids.slice(1000), { logits: "all" });
  assert.deepEqual(rest.shape, [ids.length - 1000, 23]);
  assertClose(await rest.data(), (await whole.data()).subarray(1000 * 23), 1e-5);
});

eachBackend("tied embeddings: lm_head counts where the checkpoint has one", async (backend) => {
  const config = { ...SMALL, tie_word_embeddings: true };
  const tensors = randomTensors({ ...config, tie_word_embeddings: false }, 8);
  using model = await load(backend, checkpoint(config, tensors));
  using logits = model.forward([[4, 5]]);
  assertClose(await logits.data(), referenceLogits(config, tensors, [[4, 5]]), 1e-4);
});

eachBackend("shards, from a folder and from a URL", async (backend) => {
  const tensors = randomTensors(SMALL, 11);
  const names = [...tensors.keys()];
  const part = (keep: (i: number) => boolean): Tensors => new Map([...tensors].filter((_, i) => keep(i)));
  const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  const files: Files = {
    "config.json": textFile(SMALL),
    "model.safetensors.index.json": textFile({
      metadata: { total_size: 1 },
      weight_map: Object.fromEntries(names.map((name, i) => [name, shards[i % 2]])),
    }),
    [shards[0]]: safetensorsFile(part((i) => i % 2 === 0)),
    [shards[1]]: safetensorsFile(part((i) => i % 2 === 1)),
  };
  const expected = referenceLogits(SMALL, tensors, [[1, 2, 3]]);
  const check = async (model: TransNormerLLM) => {
    using logits = model.forward([[1, 2, 3]]);
    assertClose(await logits.data(), expected, 1e-4);
    return model.fingerprint;
  };
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, bytes] of Object.entries(files)) await Deno.writeFile(`${folder}/${name}`, bytes);
    using remote = await load(backend, files);
    using local = await TransNormerLLM.load(folder, { backend });
    using single = await load(backend, checkpoint(SMALL, tensors));
    assert.equal(await check(remote), await check(local));
    assert.equal(await check(single), local.fingerprint, "sharding does not change a model");
    assert.equal(local.parameterCount, [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  const { [shards[1]]: _, ...without } = files;
  await assert.rejects(load(backend, without), {
    name: "RangeError",
    message: /every shard of the index must exist: current value is "model-00002-of-00002\.safetensors"/,
  });
});

eachBackend("from a server, which tells lengths", async (backend) => {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const file = new URL(`golden${new URL(request.url).pathname}`, import.meta.url);
    return new Response(await Deno.readFile(file).catch(() => "none"), {
      status: await Deno.stat(file).then(() => 200, () => 404),
    });
  });
  try {
    const location = `http://127.0.0.1:${server.addr.port}/tnl/`;
    using model = await TransNormerLLM.load(location, { backend });
    using logits = model.forward(goldenRows);
    assertClose(await logits.data(), goldenLogits, 1e-4);
    await assert.rejects(TransNormerLLM.load(`${location}none`, { backend }), /must have config\.json/);
  } finally {
    await server.shutdown();
  }
});

eachBackend("progress in bytes and tensors", async (backend) => {
  const files = checkpoint(SMALL, randomTensors(SMALL, 1));
  const seen: { bytes: number; totalBytes?: number; tensors: number; totalTensors: number }[] = [];
  using model = await TransNormerLLM.load(new URL(SERVED + "/?key=1"), {
    backend,
    fetch: serving(files),
    onProgress: (progress) => seen.push(progress),
  });
  const total = 4 * model.parameterCount;
  assert.equal(seen.length, randomTensors(SMALL, 1).size);
  assert.deepEqual(seen.at(-1), {
    bytes: total,
    totalBytes: total,
    tensors: seen.length,
    totalTensors: seen.length,
  });
  assert(seen.every(({ bytes }, i) => i === 0 || bytes > seen[i - 1].bytes));
});

eachBackend("tensors outside the layout are ignored, parameters without a place are not", async (backend) => {
  const tensors = randomTensors(SMALL, 3);
  tensors.set("model.layers.0.token_mixer.slopes", { shape: [3], data: new Float32Array(3) });
  using model = await load(backend, checkpoint(SMALL, tensors));
  assert.equal(model.config.layers, 2);
  for (
    const name of [
      "model.layers.2.channel_mixer.l1.weight",
      "model.layers.0.channel_mixer.l1.bias",
      "model.layers.1.token_mixer.lrpe.theta",
      "model.layers.0.token_norm.weight",
      "model.final_norm.bias",
    ]
  ) {
    const more = new Map([...tensors, [name, { shape: [3], data: new Float32Array(3) }]]);
    await assert.rejects(load(backend, checkpoint(SMALL, more)), (error: Error) => {
      assert(error instanceof RangeError);
      assert.match(error.message, /must hold no parameter that config\.json has no use for/);
      assert(error.message.includes(name), error.message);
      return true;
    });
  }
});

eachBackend("each tensor is needed, in its shape", async (backend) => {
  const config = { ...SMALL, bias: true, norm_type: "layernorm", tie_word_embeddings: false };
  const tensors = randomTensors(config, 3);
  for (const name of tensors.keys()) {
    const without = new Map(tensors);
    without.delete(name);
    await assert.rejects(load(backend, checkpoint(config, without)), (error: Error) => {
      assert(error instanceof RangeError && error.message.includes(JSON.stringify(name)), error.message);
      return true;
    });
    const { shape, data } = tensors.get(name)!;
    const reshaped = new Map([...tensors, [name, { shape: [1, ...shape], data }]]);
    await assert.rejects(load(backend, checkpoint(config, reshaped)), (error: Error) => {
      assert(error instanceof RangeError && error.message.includes(`the shape of "${name}"`), error.message);
      return true;
    });
    assert.equal(backend.bytesInUse, 0, "a failed load leaves nothing behind");
  }
});

const badConfigs: [change: Record<string, unknown>, name: string, message: RegExp][] = [
  [{ model_type: "llama" }, "RangeError", /model_type must be "transnormer": current value is "llama"/],
  [{ decoder_layers: 0 }, "RangeError", /decoder_layers must be an integer from 1/],
  [{ decoder_layers: 1e9, linear_use_lrpe_list: [] }, "RangeError", /must hold "model\.layers\.2\./],
  [{ vocab_size: 1.5 }, "RangeError", /vocab_size must be an integer/],
  [{ vocab_size: "23" }, "TypeError", /vocab_size must be a number: current value is "23"/],
  [{ hidden_dim: undefined }, "TypeError", /hidden_dim must be a number: current value is undefined/],
  [{ decoder_attention_heads: 4 }, "RangeError", /decoder_attention_heads must divide hidden_dim/],
  [{ glu_dim: -2 }, "RangeError", /glu_dim must be an integer/],
  [{ linear_act_fun: "sillu" }, "RangeError", /linear_act_fun must be one of .*: current value is "sillu"/],
  [{ linear_act_fun: "__proto__" }, "RangeError", /linear_act_fun must be one of/],
  [{ linear_act_fun: 3 }, "TypeError", /linear_act_fun must be a string/],
  [
    { linear_use_lrpe_list: [1] },
    "RangeError",
    /linear_use_lrpe_list must be empty or have one value for each/,
  ],
  [{ linear_use_lrpe_list: [1, 2] }, "RangeError", /linear_use_lrpe_list must hold 0 and 1: .* 2 \(layer 1/],
  [{ linear_use_lrpe_list: 1 }, "TypeError", /linear_use_lrpe_list must be an array/],
  [{ norm_type: "rmsnorm" }, "RangeError", /must hold "model\.layers\.0\.token_norm\.weight"/],
  [{ glu_act_fun: "swiglu" }, "RangeError", /glu_act_fun must be one of/],
  [{ use_output_gate: 1 }, "TypeError", /use_output_gate must be true or false/],
  [{ use_output_norm: false }, "RangeError", /use_output_norm must be true with an output gate/],
  [{ norm_type: 1 }, "TypeError", /norm_type must be a string/],
  [{ bias: "yes" }, "TypeError", /bias must be true or false/],
  [{ bias: true }, "RangeError", /must hold "model\.layers\.0\.token_mixer\.qkvu_proj\.bias"/],
  [{ eos_token_id: "2" }, "RangeError", /eos_token_id must be an integer/],
];

eachBackend("config.json is checked", async (backend) => {
  const tensors = randomTensors(SMALL, 3);
  for (const [change, name, message] of badConfigs) {
    await assert.rejects(
      load(backend, checkpoint({ ...SMALL, ...change }, tensors)),
      (error: Error) => {
        assert.equal(error.name, name, error.message);
        assert.match(error.message, message);
        assert.match(error.message, /^Cannot run TransNormerLLM\.load as /);
        return true;
      },
    );
  }
  const files = checkpoint(SMALL, tensors);
  for (const text of ["", "{", "[]", "null", "\xff"]) {
    await assert.rejects(load(backend, { ...files, "config.json": textFile(text) }), /config\.json must/);
  }
  const invalidUtf8 = Uint8Array.of(0x7b, 0xff, 0x7d);
  await assert.rejects(load(backend, { ...files, "config.json": invalidUtf8 }), /must be JSON in UTF-8/);
});

eachBackend("missing files, wrong places", async (backend) => {
  const { "config.json": config, ...weights } = checkpoint(SMALL, randomTensors(SMALL, 3));
  await assert.rejects(load(backend, weights), { name: "RangeError", message: /must have config\.json/ });
  await assert.rejects(load(backend, { "config.json": config }), {
    name: "RangeError",
    message: /must have model\.safetensors or model\.safetensors\.index\.json/,
  });
  for (const shard of ["../secret.safetensors", "/etc/passwd", "https://x/y.safetensors", 7]) {
    const index = textFile({ weight_map: { "lm_head.weight": shard } });
    await assert.rejects(
      load(backend, { "config.json": config, "model.safetensors.index.json": index }),
      /weight_map must name \.safetensors files beside it/,
    );
  }
  await assert.rejects(TransNormerLLM.load("/no/such/folder", { backend }), /must have config\.json/);
  await assert.rejects(TransNormerLLM.load("", { backend }), RangeError);
  await assert.rejects(TransNormerLLM.load("data:text/plain,x", { backend }), TypeError);
  await assert.rejects(TransNormerLLM.load(7 as never, { backend }), TypeError);
  await assert.rejects(
    TransNormerLLM.load(SERVED, { backend: 7 as never }),
    /options\.backend must be a Backend/,
  );
  await assert.rejects(
    TransNormerLLM.load(SERVED + "?key=secret", {
      backend,
      fetch: () => Promise.resolve(new Response("no", { status: 403 })),
    }),
    (error: Error) => {
      assert.match(error.message, /config\.json must be readable: current value is "HTTP status 403"/);
      assert(error.message.endsWith(", in https://models.test/small/"));
      assert(!error.message.includes("secret"));
      return true;
    },
  );
});

eachBackend("a truncated or damaged checkpoint leaves nothing behind", async (backend) => {
  const files = checkpoint(SMALL, randomTensors(SMALL, 3));
  const weights = files["model.safetensors"];
  for (const length of [0, 7, 8, 100, weights.length - 1000, weights.length - 1]) {
    await assert.rejects(
      load(backend, { ...files, "model.safetensors": weights.slice(0, length) }),
      { name: "RangeError", message: /the file must not end before/ },
    );
    assert.equal(backend.bytesInUse, 0);
  }
  const longer = new Uint8Array(weights.length + 1);
  longer.set(weights);
  await assert.rejects(load(backend, { ...files, "model.safetensors": longer }), /the file must end after/);
  using model = await load(backend, files); // the backend is as good as before
  using logits = model.forward([[1]]);
  assert((await logits.data()).every(Number.isFinite));
});

eachBackend("loading can be stopped at any piece", async (backend) => {
  const files = checkpoint(SMALL, randomTensors(SMALL, 3));
  for (let stopAt = 1;; stopAt++) {
    const controller = new AbortController();
    const reason = new Error("enough");
    let pieces = 0;
    const get = serving(files, () => ++pieces === stopAt && controller.abort(reason));
    const loading = TransNormerLLM.load(SERVED, { backend, fetch: get, signal: controller.signal });
    const outcome = await loading.then((model) => model.dispose(), (error) => assert.equal(error, reason));
    assert.equal(outcome, undefined);
    assert.equal(backend.bytesInUse, 0, `stopped at piece ${stopAt}`);
    if (pieces < stopAt) break; // it came through
    if (stopAt > 3) stopAt += 7;
  }
  await assert.rejects(
    TransNormerLLM.load(GOLDEN, { backend, signal: AbortSignal.abort(new Error("before")) }),
    /before/,
  );
  const controller = new AbortController();
  const onProgress = () => controller.abort(new Error("between tensors"));
  await assert.rejects(
    TransNormerLLM.load(GOLDEN, { backend, signal: controller.signal, onProgress }),
    /between tensors/,
  );
  assert.equal(backend.bytesInUse, 0);
});

eachBackend("forward refuses what is no batch of ids", async (backend) => {
  using model = await load(backend, checkpoint(SMALL, randomTensors(SMALL, 3)));
  const before = backend.bytesInUse;
  const cases: [ids: unknown, name: string, message: RegExp][] = [
    [[], "RangeError", /ids must hold at least one row/],
    [[[]], "RangeError", /ids\[0\] must hold at least one token/],
    [[[1, 2], [3]], "RangeError", /rows of ids must have the same length, 2: current value is 1 \(row 1\)/],
    [[[1, 23]], "RangeError", /ids\[0\] must be integers from 0 to 22: current value is 23 \(index 1\)/],
    [[[-1]], "RangeError", /current value is -1/],
    [[[1.5]], "RangeError", /current value is 1\.5/],
    [[[NaN]], "RangeError", /current value is NaN/],
    [["12"], "TypeError", /ids\[0\] must be an array of token ids/],
    ["12", "TypeError", /ids must be an array of rows/],
    [[null], "TypeError", /ids\[0\] must be an array/],
    [undefined, "TypeError", /ids must be an array of rows/],
  ];
  for (const [ids, name, message] of cases) {
    assert.throws(() => model.forward(ids as never), (error: Error) => {
      assert.equal(error.name, name);
      assert.match(error.message, message);
      assert.match(error.message, /^Cannot run TransNormerLLM\.forward as /);
      return true;
    });
  }
  assert.equal(backend.bytesInUse, before);
});

eachBackend("forward gives the same bits every time, and rows do not touch each other", async (backend) => {
  using model = await TransNormerLLM.load(GOLDEN, { backend });
  using both = model.forward(goldenRows);
  using again = model.forward(goldenRows);
  assertSameBits(await again.data(), await both.data());
  using second = model.forward([goldenRows[1]]);
  assertClose(await second.data(), (await both.data()).subarray(96 * 256), 1e-5);
});

eachBackend("a disposed model", async (backend) => {
  const model = await load(backend, checkpoint(SMALL, randomTensors(SMALL, 3)));
  const session = model.session(), batch = model.batch(4), other = model.batch(2);
  session.prefill([1, 2]);
  session.step(3);
  const slot = batch.join(session);
  const bytes = await session.snapshot();
  other.dispose();
  model.dispose();
  model.dispose();
  assert.equal(backend.bytesInUse, 0, "sessions, their logits and batches end with the model");
  const over = {
    name: "BackendError",
    reason: "disposed",
    message: /as the (model|session|batch) was disposed$/,
  };
  assert.throws(() => session.step(1), over);
  assert.throws(() => session.fork(), over);
  assert.throws(() => batch.join(session), over);
  assert.throws(() => batch.step([slot], [1]), over);
  assert.throws(() => batch.leave(slot), over);
  assert.throws(() => model.forward([[1]]), over);
  assert.throws(() => model.session(), over);
  assert.throws(() => model.batch(1), over);
  assert.throws(() => model.restore(bytes), over);
  await assert.rejects(model.perplexity([1, 2]), over);
  await assert.rejects(model.loglikelihood([1], [2]), over);
  await assert.rejects(model.generate([1]).next(), over);
  await assert.rejects(session.generate([1]).next(), over);
  session.dispose();
  batch.dispose();
  assert.equal(backend.bytesInUse, 0);
});

eachBackend("errors of loading say where, and which file", async (backend) => {
  const files = checkpoint(SMALL, randomTensors(SMALL, 3));
  const broken: [Files, RegExp][] = [
    [{}, /must have config\.json/],
    [{ ...files, "config.json": textFile("{") }, /config\.json must be JSON/],
    [{ ...files, "config.json": textFile({ ...SMALL, vocab_size: 0 }) }, /vocab_size .*config\.json/],
    [{ "config.json": files["config.json"] }, /model\.safetensors or model\.safetensors\.index\.json/],
    [{ ...files, "model.safetensors": new Uint8Array(7) }, /readSafetensors .*model\.safetensors/],
    [{ ...files, "tokenizer.json": textFile({}) }, /tokenizer\.json/],
    [{ ...files, "generation_config.json": textFile([]) }, /generation_config\.json must hold an object/],
    [
      { ...files, "generation_config.json": textFile({ top_p: 2 }) },
      /top_p must be above 0 and at most 1: current value is 2 \(generation_config\.json\)/,
    ],
  ];
  for (const [files, message] of broken) {
    const folder = await Deno.makeTempDir({ prefix: "levin 100% of " });
    try {
      for (const [name, bytes] of Object.entries(files)) await Deno.writeFile(`${folder}/${name}`, bytes);
      const says = (where: string) => (error: Error) => {
        assert(error instanceof RangeError || error instanceof TypeError, error.name);
        assert.match(error.message, message);
        assert(error.message.endsWith(`, in ${where}`), error.message);
        return true;
      };
      await assert.rejects(TransNormerLLM.load(folder, { backend }), says(folder));
      const url = pathToFileURL(folder);
      await assert.rejects(TransNormerLLM.load(url, { backend }), says(`${url.href}/`));
      const remote = { backend, fetch: serving(files) };
      await assert.rejects(TransNormerLLM.load(`${SERVED}?key=secret`, remote), says(`${SERVED}/`));
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  }
  const file = await Deno.makeTempFile();
  await assert.rejects(TransNormerLLM.load(file, { backend }), /must have config\.json/);
  await Deno.remove(file);
  assert.equal(backend.bytesInUse, 0);
});

eachBackend("folders with spaces and percent signs, as paths and as file: URLs", async (backend) => {
  const folder = await Deno.makeTempDir({ prefix: "a b%20c#d é " });
  try {
    const files = checkpoint(SMALL, randomTensors(SMALL, 3));
    for (const [name, bytes] of Object.entries(files)) await Deno.writeFile(`${folder}/${name}`, bytes);
    const { href } = pathToFileURL(folder);
    for (const location of [folder, href, `${href}/`, new URL(href)]) {
      using model = await TransNormerLLM.load(location, { backend });
      assert.equal(model.config.vocabSize, 23);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** A server that answers a request for an absent file in its own way. */
function hostWith(files: Files, absent: (name: string) => Response): typeof fetch {
  const get = serving(files);
  return (input, init) => {
    const name = new URL(input instanceof Request ? input.url : input).pathname.replace("/small/", "");
    return Object.hasOwn(files, name) ? get(input, init) : Promise.resolve(absent(name));
  };
}

const PAGE = "<!DOCTYPE html>\n<html><body>The app</body></html>";
const hosts: [what: string, came: string | undefined, absent: () => Response][] = [
  ["404", undefined, () => new Response("none", { status: 404 })],
  ["410", "HTTP status 410", () => new Response("none", { status: 410 })],
  ["403 of a bucket", "HTTP status 403", () => new Response("<Error>AccessDenied</Error>", { status: 403 })],
  ["401 of a bucket", "HTTP status 401", () => new Response("", { status: 401 })],
  ["a page", "an HTML page", () => new Response(PAGE, { headers: { "content-type": "text/html" } })],
  [
    "a page without a type",
    "an HTML page",
    () => new Response(new TextEncoder().encode(`\ufeff \n${PAGE.toLowerCase()}`)),
  ],
  ["a page behind a comment", "an HTML page", () => new Response(`<!-- build 7 -->${PAGE}`)],
  [
    "a sentence as a page",
    "an HTML page",
    () => new Response("<p>Not here</p>", { headers: { "content-type": "text/html; charset=utf-8" } }),
  ],
];

for (const [what, came, absent] of hosts) {
  eachBackend(`a host that says ${what} for what is absent`, async (backend) => {
    const tensors = randomTensors(SMALL, 11);
    const whole = checkpoint(SMALL, tensors);
    const { "model.safetensors": shard, ...rest } = whole;
    const index = textFile({
      weight_map: Object.fromEntries([...tensors.keys()].map((name) => [name, "part.safetensors"])),
    });
    const sharded = { ...rest, "model.safetensors.index.json": index, "part.safetensors": shard };
    for (const files of [whole, sharded]) {
      using model = await TransNormerLLM.load(SERVED, { backend, fetch: hostWith(files, absent) });
      assert.equal(model.tokenizer, undefined);
      assert.deepEqual(model.sampling, {});
    }
    const { "part.safetensors": _, ...torn } = sharded;
    for (const files of [{}, rest, torn]) {
      await assert.rejects(
        TransNormerLLM.load(SERVED, { backend, fetch: hostWith(files, absent) }),
        (error: Error) => {
          assert(error instanceof RangeError);
          assert.match(error.message, /config\.json|model\.safetensors|part\.safetensors/);
          if (came !== undefined) assert(error.message.includes(came), error.message);
          return true;
        },
      );
    }
    assert.equal(backend.bytesInUse, 0);
  });
}

eachBackend("what is no absence stays an error, also for optional files", async (backend) => {
  const files = checkpoint(SMALL, randomTensors(SMALL, 11));
  for (const status of [400, 429, 500, 503]) {
    const get = hostWith(files, () => new Response("", { status }));
    await assert.rejects(TransNormerLLM.load(SERVED, { backend, fetch: get }), {
      message: new RegExp(`must be readable: current value is "HTTP status ${status}"`),
    });
  }
  // A server that calls everything a page: what it sends counts.
  const asPages: typeof fetch = async (input, init) => {
    const response = await serving({ ...files, "chat_template.jinja": textFile("{{ messages }}") })(
      input,
      init,
    );
    return new Response(response.body, { status: response.status, headers: { "content-type": "text/html" } });
  };
  using model = await TransNormerLLM.load(SERVED, { backend, fetch: asPages });
  assert.equal(model.config.layers, 2);
});

eachBackend("generation_config.json: more ends, and defaults of sampling", async (backend) => {
  const tensors = randomTensors(SMALL, 3), options = { maxTokens: 30, seed: 2 };
  const files = checkpoint({ ...SMALL, eos_token_id: 5 }, tensors);
  const withGeneration = (json: unknown) => ({ ...files, "generation_config.json": textFile(json) });
  using plain = await load(backend, checkpoint(SMALL, tensors));
  const free = await tokens(plain, [1, 2], options);
  const last = free[6], first = free.indexOf(last);
  using ends = await load(backend, withGeneration({ eos_token_id: [last, 22, 5] }));
  assert.deepEqual(ends.config.eosTokenIds, [5, ...[last, 22].filter((id) => id !== 5)]);
  const answer = await Array.fromAsync(ends.generate([1, 2], options));
  assert.deepEqual(answer.map(({ token }) => token), free.slice(0, first + 1));
  assert.equal(answer.at(-1)!.finish, "eos");

  const defaults = { temperature: 0.7, top_k: 4, top_p: 0.9, min_p: null, repetition_penalty: 1.3 };
  using sampled = await load(backend, withGeneration({ ...defaults, do_sample: true, max_length: 20 }));
  const spelled = { temperature: 0.7, topK: 4, topP: 0.9, repetitionPenalty: 1.3 };
  assert.deepEqual(sampled.sampling, spelled);
  using bare = await load(backend, files);
  const more = { maxTokens: 20, seed: 9 };
  assert.deepEqual(await tokens(sampled, [1, 2], more), await tokens(bare, [1, 2], { ...spelled, ...more }));
  assert.deepEqual(
    await tokens(sampled, [1, 2], { ...more, temperature: 0, repetitionPenalty: undefined }),
    await tokens(bare, [1, 2], { ...spelled, ...more, temperature: 0 }),
    "what the caller gives counts, undefined is not given",
  );
  using session = sampled.session();
  const turn = await Array.fromAsync(session.generate([1, 2], more));
  assert.deepEqual(turn.map(({ token }) => token), await tokens(sampled, [1, 2], more));
  using greedy = await load(backend, withGeneration({ do_sample: false, temperature: 0.9, top_k: 0 }));
  assert.deepEqual(greedy.sampling, { temperature: 0 });
  assert.equal(greedy.fingerprint, bare.fingerprint, "how to sample is not what the model is");
});

eachBackend("a chat is generated as its text would be", async (backend) => {
  const config = { ...SMALL, vocab_size: 263 };
  const chat_template =
    "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}{% if tools %}{{ tools[0].x }}{% endif %}" +
    "{% if add_generation_prompt %}a{% endif %}";
  using model = await load(backend, {
    ...checkpoint(config, randomTensors(config, 3)),
    "tokenizer.json": textFile(byteLevelJson()),
    "tokenizer_config.json": textFile({ chat_template, eos_token: "<|end|>" }),
  });
  const messages = [{ role: "user", content: "hello" }], options = { maxTokens: 6, temperature: 0 };
  const answer = await Array.fromAsync(model.chat(messages, { ...options, tools: [{ x: 1 }] }));
  const ids = model.tokenizer!.encode("hello<|end|>1a");
  assert.deepEqual(answer, await Array.fromAsync(model.generate(ids, options)));
  assert.equal(answer.length, 6);
  const other = await Array.fromAsync(model.chat(messages, { ...options, template: "hello" }));
  assert.deepEqual(other, await Array.fromAsync(model.generate("hello", options)));
  const refusals: [AsyncGenerator, { name: string; message: RegExp }][] = [
    [model.chat([]), { name: "RangeError", message: /at least one message/ }],
    [model.chat(messages, { template: "a", maxTokens: -1 }), {
      name: "RangeError",
      message: /TransNormerLLM\.chat as maxTokens/,
    }],
    [model.chat(messages, { template: "" }), {
      name: "RangeError",
      message: /messages must hold at least one token/,
    }],
  ];
  for (const [chat, error] of refusals) await assert.rejects(chat.next(), error);
  const aborted = model.chat(messages, { signal: AbortSignal.abort(new Error("enough")) });
  await assert.rejects(aborted.next(), /enough/);
  using plain = await load(backend, checkpoint(config, randomTensors(config, 3)));
  await assert.rejects(plain.chat(messages).next(), { name: "TypeError", message: /must have a tokenizer/ });
});

eachBackend("chat_template.jinja wins over tokenizer_config.json", async (backend) => {
  const config = { ...SMALL, vocab_size: 263 };
  const files: Files = {
    ...checkpoint(config, randomTensors(config, 3)),
    "tokenizer.json": textFile(byteLevelJson()),
  };
  const template = async (more: Files) => {
    using model = await load(backend, { ...files, ...more });
    return model.tokenizer!.chatTemplate();
  };
  const jinja = textFile("{% for m in messages %}<|é|>{{ m.content }}{% endfor %}");
  const inJson = textFile({ chat_template: "json", eos_token: "<|end|>" });
  const named = textFile({
    chat_template: [{ name: "default", template: "d" }, { name: "tool_use", template: "t" }],
  });
  assert.equal(await template({}), undefined);
  assert.equal(await template({ "tokenizer_config.json": inJson }), "json");
  assert.equal(await template({ "tokenizer_config.json": named }), "d");
  const configs: Files[] = [{}, { "tokenizer_config.json": inJson }, { "tokenizer_config.json": named }];
  for (const config of configs) {
    const found = await template({ ...config, "chat_template.jinja": jinja });
    assert.equal(found, new TextDecoder().decode(jinja));
  }
  using model = await load(backend, {
    ...files,
    "tokenizer_config.json": inJson,
    "chat_template.jinja": jinja,
  });
  assert.equal(model.tokenizer!.config.eos_token, "<|end|>");
});

eachBackend("embeddings are tied where config.json does not say and there is no lm_head", async (backend) => {
  const tied = randomTensors({ ...SMALL, tie_word_embeddings: true }, 8);
  const both = randomTensors(SMALL, 8);
  for (const given of [undefined, null, true]) {
    const config = { ...SMALL, tie_word_embeddings: given as undefined };
    for (const [tensors, isTied] of [[tied, true], [both, false]] as const) {
      using model = await load(backend, checkpoint(config, tensors));
      assert.equal(model.config.tieWordEmbeddings, isTied);
      assert.equal(
        model.parameterCount,
        [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0),
      );
      using logits = model.forward([[4, 5]]);
      assertClose(await logits.data(), referenceLogits(config, tensors, [[4, 5]]), 1e-4);
    }
  }
  await assert.rejects(
    load(backend, checkpoint({ ...SMALL, tie_word_embeddings: false }, tied)),
    /must hold "lm_head\.weight"/,
  );
});

eachBackend("the fingerprint is of every byte of every weight", async (backend) => {
  const config = { ...SMALL, vocab_size: 400 };
  const seen = new Set<string>();
  const fingerprint = async (tensors: Tensors, json: ConfigJson = config) => {
    using model = await load(backend, checkpoint(json, tensors));
    return model.fingerprint;
  };
  const base = await fingerprint(randomTensors(config, 5));
  assert.match(base, /^[0-9a-f]{32}$/);
  assert.equal(await fingerprint(randomTensors(config, 5)), base);
  seen.add(base);
  for (const name of randomTensors(config, 5).keys()) {
    const { length } = randomTensors(config, 5).get(name)!.data;
    for (const at of [0, 1, Math.floor(length / 3), length - 1]) {
      const changed = randomTensors(config, 5), { data } = changed.get(name)!;
      new Uint32Array(data.buffer)[at] ^= 1 << at % 23; // one bit of one element
      seen.add(await fingerprint(changed));
    }
  }
  const swapped = randomTensors(config, 5), { data } = swapped.get("lm_head.weight")!;
  [data[0], data[4]] = [data[4], data[0]];
  seen.add(await fingerprint(swapped));
  seen.add(await fingerprint(randomTensors(config, 5), { ...config, linear_act_fun: "relu" }));
  const count = [...randomTensors(config, 5).values()].length;
  assert.equal(seen.size, 1 + 4 * count + 2);
});

eachBackend("loglikelihood and perplexity", async (backend) => {
  using model = await TransNormerLLM.load(GOLDEN, { backend });
  const ids = [...goldenRows[0]];
  const logprobs = ids.slice(1).map((id, t) => {
    const row = goldenLogits.subarray(t * 256, (t + 1) * 256);
    return row[id] - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
  });
  const sum = (from: number) => logprobs.slice(from - 1).reduce((a, b) => a + b, 0);
  for (const from of [1, 2, 40, 95]) {
    const found = await model.loglikelihood(ids.slice(0, from), ids.slice(from));
    assertClose([found.logprob], [sum(from)], 1e-4);
    assert.equal(found.tokens, 96 - from);
    assert.equal(found.greedy, false);
  }
  const greedy = await model.loglikelihood(goldenGreedy.slice(0, 8), goldenGreedy.slice(8));
  assert.equal(greedy.greedy, true);
  assertClose([await model.perplexity(ids)], [Math.exp(-sum(1) / 95)], 1e-4);
  const long = Array.from({ length: 2000 }, (_, t) => (t * t) % 256);
  using logits = model.forward([long]);
  const data = await logits.data();
  let total = 0;
  for (let t = 0; t + 1 < long.length; t++) {
    const row = data.subarray(t * 256, (t + 1) * 256);
    total += row[long[t + 1]] - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
  }
  assertClose([await model.perplexity(long)], [Math.exp(-total / (long.length - 1))], 1e-4);
  await assert.rejects(model.perplexity([1]), /text must hold at least two tokens/);
  await assert.rejects(model.perplexity("text"), { name: "TypeError" });
  await assert.rejects(model.loglikelihood([], [1]), /context must hold at least one token/);
  await assert.rejects(model.loglikelihood([1], []), /continuation must hold at least one token/);
  await assert.rejects(model.loglikelihood("a", [1]), { name: "TypeError" });
});

Deno.test("without a backend a model makes one, and disposes it with itself", async () => {
  let kept: TransNormerLLM;
  {
    using model = await TransNormerLLM.load("tests/golden/tnl");
    kept = model;
    using logits = model.forward([[5, 17, 9]]);
    assert.deepEqual(logits.shape, [1, 3, 256]);
    assert(model.backend.bytesInUse > 0);
  }
  assert.throws(() => kept.backend.zeros([1]), /disposed/);
  kept.dispose();

  using backend = await createBackend({ prefer: "wasm" });
  (await TransNormerLLM.load("tests/golden/tnl", { backend })).dispose();
  backend.zeros([1]).dispose(); // it stays the caller's
});

Deno.test("without a backend, a failed load gives back the one that it made", async () => {
  const program = `
    import { TransNormerLLM } from "./model/mod.ts";
    import { Backend } from "./mod.ts";
    let disposed = 0;
    const { dispose } = Backend.prototype;
    Backend.prototype.dispose = function () { disposed++; dispose.call(this); };
    await TransNormerLLM.load("/no/such/folder").then(() => {}, () => {});
    console.log(disposed);
  `;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", program],
    cwd: new URL("../", import.meta.url),
  }).output();
  assert.equal(new TextDecoder().decode(stdout).trim(), "1", new TextDecoder().decode(stderr));
});
