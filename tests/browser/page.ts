/**
 * The page of `browser_test.ts`: runs the library in a browser and hands plain numbers back. It judges nothing.
 *
 * @module
 */
import {
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

const numbers = async (tensor: Tensor) => {
  using held = tensor;
  return [...await held.data()];
};

const page: Page = {
  async describe(options) {
    using backend = await createBackend(options);
    return { name: backend.name, ...backend.info };
  },

  async attention(prefer, { q, k, v }, { initialState, ...options }) {
    using backend = await createBackend({ prefer });
    const upload = ({ data, shape }: PlainTensor) => backend.tensor(Float32Array.from(data), shape);
    const { output, state } = lightningAttention(upload(q), upload(k), upload(v), {
      ...options,
      initialState: initialState && upload(initialState),
    });
    return { output: await numbers(output), state: await numbers(state) };
  },

  async steps(prefer, tokens, slopes) {
    using backend = await createBackend({ prefer });
    const upload = ({ data, shape }: PlainTensor) => backend.tensor(Float32Array.from(data), shape);
    const [{ q, v }] = tokens;
    const state = backend.zeros([...q.shape, v.shape[2]]);
    const outputs = tokens.map((token) =>
      lightningAttentionStep(upload(token.q), upload(token.k), upload(token.v), state, { slopes })
    );
    return { output: await Promise.all(outputs.map(numbers)), state: await numbers(state) };
  },

  async splitHeads(prefer, { data, shape }, heads, activation) {
    using backend = await createBackend({ prefer });
    const { q, k, v, u } = splitHeads(backend.tensor(Float32Array.from(data), shape), heads, activation);
    return { q: await numbers(q), k: await numbers(k), v: await numbers(v), u: await numbers(u) };
  },

  async decode(prefer, url, prompt, ids) {
    using backend = await createBackend({ prefer });
    using model = await TransNormerLLM.load(new URL(url, location.href), { backend });
    using session = model.session();
    const logits = [await numbers(session.prefill(prompt))];
    for (const id of ids) logits.push(await numbers(session.step(id)));
    return logits;
  },
};

(globalThis as unknown as { levin: Page }).levin = page;
