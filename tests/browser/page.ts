/**
 * The page of `browser_test.ts`: runs the library in a browser and hands plain numbers back. It judges nothing.
 *
 * @module
 */
import {
  type Backend,
  type BackendOptions,
  createBackend,
  lightningAttention,
  lightningAttentionBackward,
  lightningAttentionStep,
  type LightningBackwardOptions,
  type LightningOptions,
  type Tensor,
} from "../../mod.ts";
import {
  adamw,
  crossEntropy,
  embeddingBackward,
  linearBackward,
  lrpeBackward,
  normBackward,
  splitHeadsBackward,
  sumSquares,
} from "../../core/gradients.ts";
import { type Activation, splitHeads } from "../../core/ops.ts";
import { TransNormerLLM } from "../../model/mod.ts";

/** Numbers and their shape, as they pass between the test and the page. */
export interface PlainTensor {
  data: number[];
  shape: number[];
}

/** What {@linkcode Page.gradients} gives back. */
export type GradientName =
  | "linearInput"
  | "linearWeight"
  | "linearBias"
  | "normInput"
  | "normGate"
  | "normWeight"
  | "normBias"
  | "embedding"
  | "lrpeInput"
  | "lrpeTheta"
  | "loss"
  | "logits"
  | "adamw";

/** What the page offers the test, as `globalThis.levin`. */
export interface Page {
  /** Name, reason and device of the backend made with these options. */
  describe(options: BackendOptions): Promise<{ name: string; reason: string; device: string }>;
  /** Bytes that the tensors of earlier calls still hold. */
  bytesInUse(backend: "webgpu" | "wasm"): Promise<number>;
  /** `lightningAttention`. */
  attention(
    backend: "webgpu" | "wasm",
    operands: Record<"q" | "k" | "v", PlainTensor>,
    options: Omit<LightningOptions, "initialState"> & { initialState?: PlainTensor },
  ): Promise<{ output: number[]; state: number[] }>;
  /** `lightningAttentionBackward`. */
  attentionBackward(
    backend: "webgpu" | "wasm",
    operands: Record<"q" | "k" | "v" | "dOutput" | "initialState" | "dState", PlainTensor>,
    options: Omit<LightningBackwardOptions, "initialState" | "dState">,
  ): Promise<Record<"dq" | "dk" | "dv" | "dInitialState", number[]>>;
  /** Calls of `lightningAttentionStep`, `[steps]` of `[batch, heads, dim]` vectors, from a zero state. */
  steps(
    backend: "webgpu" | "wasm",
    tokens: Record<"q" | "k" | "v", PlainTensor>[],
    slopes: number[],
  ): Promise<{ output: number[][]; state: number[] }>;
  /** `splitHeads`. */
  splitHeads(
    backend: "webgpu" | "wasm",
    x: PlainTensor,
    heads: number,
    activation: Activation,
  ): Promise<Record<"q" | "k" | "v" | "u", number[]>>;
  /**
   * Gradients of linear, LayerNorm with gate, embedding, LRPE and cross entropy, and a step of AdamW of the weight along
   * its gradient. Parameters' gradients start from zero. x is `[1, rows, heads, headDim]`.
   */
  gradients(
    backend: "webgpu" | "wasm",
    operands: Record<
      "x" | "weight" | "dy" | "scale" | "bias" | "gate" | "dx" | "theta" | "dEncoded",
      PlainTensor
    >,
    ids: number[],
  ): Promise<Record<GradientName, number[]>>;
  /** `splitHeadsBackward`: dx. */
  splitHeadsBackward(
    backend: "webgpu" | "wasm",
    x: PlainTensor,
    gradients: Record<"dq" | "dk" | "dv" | "du", PlainTensor>,
    activation: Activation,
  ): Promise<number[]>;
  /** Logits after a prompt and after each of the ids that follow it, one decoded token at a time. */
  decode(backend: "webgpu" | "wasm", url: string, prompt: number[], ids: number[]): Promise<number[][]>;
}

/** One backend of each name, so that its kernels are compiled once. */
const backends: Partial<Record<"webgpu" | "wasm", Promise<Backend>>> = {};
const backendOf = (prefer: "webgpu" | "wasm") => backends[prefer] ??= createBackend({ prefer });

const upload = (backend: Backend, { data, shape }: PlainTensor) =>
  backend.tensor(Float32Array.from(data), shape);

async function numbers(tensor: Tensor): Promise<number[]> {
  using held = tensor;
  return [...await held.data()];
}

const page: Page = {
  async describe(options) {
    using backend = await createBackend(options);
    return { name: backend.name, ...backend.info };
  },

  async bytesInUse(prefer) {
    return (await backendOf(prefer)).bytesInUse;
  },

  async attention(prefer, operands, { initialState, ...options }) {
    const backend = await backendOf(prefer);
    using q = upload(backend, operands.q);
    using k = upload(backend, operands.k);
    using v = upload(backend, operands.v);
    using before = initialState && upload(backend, initialState);
    const { output, state } = lightningAttention(q, k, v, { ...options, initialState: before });
    return { output: await numbers(output), state: await numbers(state) };
  },

  async attentionBackward(prefer, operands, options) {
    const backend = await backendOf(prefer);
    using q = upload(backend, operands.q);
    using k = upload(backend, operands.k);
    using v = upload(backend, operands.v);
    using dOutput = upload(backend, operands.dOutput);
    using initialState = upload(backend, operands.initialState);
    using dState = upload(backend, operands.dState);
    const { dq, dk, dv, dInitialState } = lightningAttentionBackward(q, k, v, dOutput, {
      ...options,
      initialState,
      dState,
    });
    return {
      dq: await numbers(dq),
      dk: await numbers(dk),
      dv: await numbers(dv),
      dInitialState: await numbers(dInitialState),
    };
  },

  async steps(prefer, tokens, slopes) {
    const backend = await backendOf(prefer);
    const [first] = tokens;
    const state = backend.zeros([...first.q.shape, first.v.shape[2]]);
    const outputs = tokens.map((token) => {
      using q = upload(backend, token.q);
      using k = upload(backend, token.k);
      using v = upload(backend, token.v);
      return lightningAttentionStep(q, k, v, state, { slopes });
    });
    return { output: await Promise.all(outputs.map(numbers)), state: await numbers(state) };
  },

  async splitHeads(prefer, plain, heads, activation) {
    using x = upload(await backendOf(prefer), plain);
    const { q, k, v, u } = splitHeads(x, heads, activation);
    return { q: await numbers(q), k: await numbers(k), v: await numbers(v), u: await numbers(u) };
  },

  async gradients(prefer, operands, ids) {
    const backend = await backendOf(prefer);
    const names = Object.keys(operands) as (keyof typeof operands)[];
    const on = Object.fromEntries(names.map((name) => [name, upload(backend, operands[name])])) as {
      [Name in keyof typeof operands]: Tensor;
    };
    const [outDim, width] = on.weight.shape;
    const encoded = upload(backend, operands.x);
    const x = on.x.reshape([ids.length, width]);
    const linearWeight = backend.zeros([outDim, width]), linearBias = backend.zeros([outDim]);
    const linearInput = linearBackward(x, on.weight, on.dy, { dWeight: linearWeight, dBias: linearBias });
    const normWeight = backend.zeros([width]), normBias = backend.zeros([width]);
    const norm = normBackward(x, on.dx, {
      weight: on.scale,
      bias: on.bias,
      gate: on.gate,
      dWeight: normWeight,
      dBias: normBias,
    });
    const embedding = backend.zeros([Math.max(...ids) + 1, width]);
    embeddingBackward(ids, on.dx, embedding, { scale: 3 });
    const lrpeTheta = backend.zeros(on.theta.shape);
    const lrpeInput = lrpeBackward(encoded, on.theta, [1000], on.dEncoded, lrpeTheta);
    const { loss, dLogits } = crossEntropy(x, ids.map((id) => id - 1), { scale: 0.5 });
    const first = backend.zeros([outDim, width]), second = backend.zeros([outDim, width]);
    const squares = backend.zeros([1]);
    sumSquares(linearWeight, squares);
    const step = { count: 1, learningRate: 0.01, weightDecay: 0.1, maxNorm: 1 };
    adamw(on.weight, linearWeight, { first, second }, squares, step);
    for (const name of ["dy", "scale", "bias", "gate", "dx", "theta", "dEncoded"] as const) {
      on[name].dispose();
    }
    for (const tensor of [x, encoded, first, second, squares]) tensor.dispose();
    return {
      linearInput: await numbers(linearInput),
      linearWeight: await numbers(linearWeight),
      linearBias: await numbers(linearBias),
      normInput: await numbers(norm.dx),
      normGate: await numbers(norm.dGate!),
      normWeight: await numbers(normWeight),
      normBias: await numbers(normBias),
      embedding: await numbers(embedding),
      lrpeInput: await numbers(lrpeInput),
      lrpeTheta: await numbers(lrpeTheta),
      loss: await numbers(loss),
      logits: await numbers(dLogits),
      adamw: await numbers(on.weight),
    };
  },

  async splitHeadsBackward(prefer, plain, { dq, dk, dv, du }, activation) {
    const backend = await backendOf(prefer);
    using x = upload(backend, plain);
    using q = upload(backend, dq);
    using k = upload(backend, dk);
    using v = upload(backend, dv);
    using u = upload(backend, du);
    return await numbers(splitHeadsBackward(x, dq.shape[2], activation, { dq: q, dk: k, dv: v, du: u }));
  },

  async decode(prefer, url, prompt, ids) {
    using model = await TransNormerLLM.load(new URL(url, location.href), {
      backend: await backendOf(prefer),
    });
    using session = model.session();
    const logits = [await numbers(session.prefill(prompt))];
    for (const id of ids) logits.push(await numbers(session.step(id)));
    return logits;
  },
};

(globalThis as unknown as { levin: Page }).levin = page;
