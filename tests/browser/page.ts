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
  lightningAttentionStep,
  type LightningOptions,
  type Tensor,
} from "../../mod.ts";
import { type Activation, splitHeads } from "../../core/ops.ts";
import { TransNormerLLM } from "../../model/mod.ts";

/** Numbers and their shape, as they pass between the test and the page. */
export interface PlainTensor {
  data: number[];
  shape: number[];
}

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
