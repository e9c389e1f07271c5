/**
 * What is measured: each case holds its operands, checks its result against the float64 reference, and says how many
 * operations and bytes one run is.
 *
 * @module
 */
import {
  alibiSlopes,
  type Backend,
  lightningAttention,
  lightningAttentionBackward,
  lightningAttentionStep,
} from "../../mod.ts";
import { linear, norm } from "../../core/ops.ts";
import { assertClose, Scope } from "../../tests/numbers.ts";
import * as reference from "../../tests/reference.ts";
import type { AttentionSizes, Baselines } from "../baselines/mod.ts";
import {
  checkLightning,
  checkLightningBackward,
  checkSoftmax,
  noise,
  operands,
  reversed,
} from "./operands.ts";

/** One thing to measure. */
export interface Case extends Disposable {
  /** What runs, for tables. */
  readonly name: string;
  /** Multiplications and additions of one run, as the method needs them; 0 where memory is what bounds it. */
  readonly operations: number;
  /** Bytes that one run cannot help but read and write, where memory is what bounds it; else 0. */
  readonly bytes: number;
  /** Tokens of one run. */
  readonly tokens: number;
  /** Computes once; what a GPU computes is only enqueued. */
  run(): void | Promise<void>;
  /** Waits for all that was enqueued; absent where `run` itself waits. */
  finish?(): Promise<unknown>;
}

/** Tells what runs on the GPU from the rest. */
export function on(backend: Backend): string {
  return backend.name === "webgpu" ? " (WebGPU)" : "";
}

/** How long all that was enqueued takes shows in how long a small result takes to arrive after it. */
export function finishing(backend: Backend, scope: Scope): Pick<Case, "finish"> {
  if (backend.name === "wasm") return {};
  const last = scope.keep(backend.zeros([1]));
  return { finish: () => last.data() };
}

/** The sizes of the attention cases: 8 heads of 64 and of 128, 2048 to 8192 tokens. */
export const ATTENTION_SIZES: readonly AttentionSizes[] = [64, 128].flatMap((dim) =>
  [2048, 4096, 8192].map((seqLen) => ({ heads: 8, seqLen, headDim: dim, valueDim: dim }))
);

/** Sizes in few characters: `8 × 64, 4096 tokens`. */
export function describe({ heads, seqLen, headDim }: AttentionSizes): string {
  return `${heads} × ${headDim}, ${seqLen} tokens`;
}

/**
 * Operations of lightning attention, in blocks of 64 whatever the kernel's blocks are: a multiplication and an addition
 * for each element of the state in `interBlock` and `updateState`, and half of a 64 × 64 block of scores.
 */
function lightningOperations({ heads, seqLen, headDim: d, valueDim: e }: AttentionSizes): number {
  return seqLen * heads * (4 * d * e + 64 * (d + e));
}

/**
 * Operations of the backward pass, counted in the same way: five products with a state or into one, and half blocks of
 * scores, which are made twice, `Q Kᵀ` and `dO Vᵀ`, and used three times.
 */
function lightningBackwardOperations({ heads, seqLen, headDim: d, valueDim: e }: AttentionSizes): number {
  return seqLen * heads * (10 * d * e + 64 * (3 * d + 2 * e));
}

/** Operations of both quadratic methods: two products of n²/2 by the head's sizes. The softmax is not counted. */
function quadraticOperations({ heads, seqLen, headDim: d, valueDim: e }: AttentionSizes): number {
  return heads * seqLen * (seqLen + 1) * (d + e);
}

/** `lightningAttention` over whole sequences. */
export async function lightningCase(backend: Backend, sizes: AttentionSizes): Promise<Case> {
  const { heads, seqLen, headDim, valueDim } = sizes;
  const data = operands(sizes), slopes = alibiSlopes(heads);
  const scope = new Scope();
  const q = scope.keep(backend.tensor(data.q, [1, heads, seqLen, headDim]));
  const k = scope.keep(backend.tensor(data.k, [1, heads, seqLen, headDim]));
  const v = scope.keep(backend.tensor(data.v, [1, heads, seqLen, valueDim]));
  {
    using made = new Scope();
    const { output } = made.keep(lightningAttention(q, k, v, { slopes }));
    checkLightning(await output.data(), data, sizes, slopes);
  }
  return {
    name: `lightning attention, ${describe(sizes)}${on(backend)}`,
    operations: lightningOperations(sizes),
    bytes: 0,
    tokens: seqLen,
    run() {
      const { output, state } = lightningAttention(q, k, v, { slopes });
      output.dispose();
      state.dispose();
    },
    ...finishing(backend, scope),
    [Symbol.dispose]: () => scope[Symbol.dispose](),
  };
}

/** `lightningAttentionBackward` over whole sequences. */
export async function lightningBackwardCase(backend: Backend, sizes: AttentionSizes): Promise<Case> {
  const { heads, seqLen, headDim, valueDim } = sizes;
  const data = operands(sizes), slopes = alibiSlopes(heads);
  const dOutputData = noise([heads, seqLen, valueDim], 4);
  const scope = new Scope();
  const q = scope.keep(backend.tensor(data.q, [1, heads, seqLen, headDim]));
  const k = scope.keep(backend.tensor(data.k, [1, heads, seqLen, headDim]));
  const v = scope.keep(backend.tensor(data.v, [1, heads, seqLen, valueDim]));
  const dOutput = scope.keep(backend.tensor(dOutputData, [1, heads, seqLen, valueDim]));
  {
    using made = new Scope();
    const gradients = made.keep(lightningAttentionBackward(q, k, v, dOutput, { slopes }));
    const [dq, dk, dv] = [await gradients.dq.data(), await gradients.dk.data(), await gradients.dv.data()];
    checkLightningBackward({ dq, dk, dv }, data, dOutputData, sizes, slopes);
  }
  return {
    name: `lightning attention backward, ${describe(sizes)}${on(backend)}`,
    operations: lightningBackwardOperations(sizes),
    bytes: 0,
    tokens: seqLen,
    run() {
      for (const gradient of Object.values(lightningAttentionBackward(q, k, v, dOutput, { slopes }))) {
        gradient.dispose();
      }
    },
    ...finishing(backend, scope),
    [Symbol.dispose]: () => scope[Symbol.dispose](),
  };
}

/** `lightningAttentionStep`, token after token: the recurrence as it stands. */
export async function recurrenceCase(backend: Backend, sizes: AttentionSizes): Promise<Case> {
  const { heads, seqLen, headDim, valueDim } = sizes;
  const slopes = alibiSlopes(heads);
  const data = operands(sizes);
  const scope = new Scope();
  /** Token t of all heads, `[1, heads, dim]`. */
  const tokens = (x: Float32Array, dim: number) =>
    Array.from({ length: seqLen }, (_, t) => {
      const row = new Float32Array(heads * dim);
      for (let h = 0; h < heads; h++) {
        row.set(x.subarray((h * seqLen + t) * dim, (h * seqLen + t + 1) * dim), h * dim);
      }
      return scope.keep(backend.tensor(row, [1, heads, dim]));
    });
  const q = tokens(data.q, headDim), k = tokens(data.k, headDim), v = tokens(data.v, valueDim);
  const state = scope.keep(backend.zeros([1, heads, headDim, valueDim]));
  const result = new Float32Array(heads * seqLen * valueDim);
  for (let t = 0; t < seqLen; t++) {
    using output = lightningAttentionStep(q[t], k[t], v[t], state, { slopes });
    const rows = await output.data();
    for (let h = 0; h < heads; h++) {
      result.set(rows.subarray(h * valueDim, (h + 1) * valueDim), (h * seqLen + t) * valueDim);
    }
  }
  checkLightning(result, data, sizes, slopes);
  return {
    name: `token by token, ${describe(sizes)}${on(backend)}`,
    operations: 4 * seqLen * heads * headDim * valueDim,
    bytes: 0,
    tokens: seqLen,
    run() {
      for (let t = 0; t < seqLen; t++) lightningAttentionStep(q[t], k[t], v[t], state, { slopes }).dispose();
    },
    ...finishing(backend, scope),
    [Symbol.dispose]: () => scope[Symbol.dispose](),
  };
}

/** Linear attention by the left product. */
export function leftProductCase(baselines: Baselines, sizes: AttentionSizes): Case {
  const data = operands(sizes), slopes = alibiSlopes(sizes.heads);
  const call = baselines.leftProduct(data.q, data.k, data.v, sizes, slopes);
  call.run();
  checkLightning(call.output(), data, sizes, slopes);
  return {
    name: `left product, ${describe(sizes)}`,
    operations: quadraticOperations(sizes),
    bytes: 0,
    tokens: sizes.seqLen,
    run: () => call.run(),
    [Symbol.dispose]: () => call[Symbol.dispose](),
  };
}

/**
 * Gradients of linear attention by the left product. Each is the left product itself on other operands (see
 * {@linkcode checkLightningBackward}), and is computed as such: six products where a dedicated kernel needs five.
 */
export function leftProductBackwardCase(baselines: Baselines, sizes: AttentionSizes): Case {
  const { heads, seqLen, headDim: d, valueDim: e } = sizes;
  const data = operands(sizes), slopes = alibiSlopes(heads);
  const dOutput = noise([heads, seqLen, e], 4);
  const back = (x: Float32Array, dim: number) => reversed(x, heads, dim);
  const swapped = { ...sizes, headDim: e, valueDim: d };
  const calls = [
    baselines.leftProduct(dOutput, data.v, data.k, swapped, slopes),
    baselines.leftProduct(back(data.v, e), back(dOutput, e), back(data.q, d), swapped, slopes),
    baselines.leftProduct(back(data.k, d), back(data.q, d), back(dOutput, e), sizes, slopes),
  ];
  for (const call of calls) call.run();
  const [dq, dk, dv] = calls.map((call) => call.output());
  checkLightningBackward({ dq, dk: back(dk, d), dv: back(dv, e) }, data, dOutput, sizes, slopes);
  return {
    name: `left product backward, ${describe(sizes)}`,
    operations: 3 * quadraticOperations(sizes),
    bytes: 0,
    tokens: seqLen,
    run() {
      for (const call of calls) call.run();
    },
    [Symbol.dispose]() {
      for (const call of calls) call[Symbol.dispose]();
    },
  };
}

/** Conventional causal attention. */
export function softmaxCase(baselines: Baselines, sizes: AttentionSizes): Case {
  const data = operands(sizes), scale = 1 / Math.sqrt(sizes.headDim);
  const call = baselines.softmaxAttention(data.q, data.k, data.v, sizes, scale);
  call.run();
  checkSoftmax(call.output(), data, sizes, scale);
  return {
    name: `softmax attention, ${describe(sizes)}`,
    operations: quadraticOperations(sizes),
    bytes: 0,
    tokens: sizes.seqLen,
    run: () => call.run(),
    [Symbol.dispose]: () => call[Symbol.dispose](),
  };
}

/** `linear`; with one row it is bound by reading the weight. */
export async function linearCase(
  backend: Backend,
  rows: number,
  inDim: number,
  outDim: number,
): Promise<Case> {
  const scope = new Scope();
  const xData = noise([rows, inDim], 1), weightData = noise([outDim, inDim], 2);
  const x = scope.keep(backend.tensor(xData, [rows, inDim]));
  const weight = scope.keep(backend.tensor(weightData, [outDim, inDim]));
  {
    using y = linear(x, weight);
    const actual = await y.data();
    for (const row of new Set([0, rows >> 1, rows - 1])) {
      const xRow = xData.subarray(row * inDim, (row + 1) * inDim);
      assertClose(
        actual.subarray(row * outDim, (row + 1) * outDim),
        reference.linear(xRow, weightData, [1, inDim, outDim]),
        2e-6,
        `row ${row} of ${rows}`,
      );
    }
  }
  return {
    name: `linear ${rows} × ${inDim} → ${outDim}${on(backend)}`,
    operations: rows === 1 ? 0 : 2 * rows * inDim * outDim,
    bytes: rows === 1 ? 4 * inDim * outDim : 0,
    tokens: rows,
    run: () => linear(x, weight).dispose(),
    ...finishing(backend, scope),
    [Symbol.dispose]: () => scope[Symbol.dispose](),
  };
}

/** SRMSNorm, or LayerNorm with weight and bias: bound by reading x and writing the result. */
export async function normCase(
  backend: Backend,
  rows: number,
  width: number,
  { affine = false }: { affine?: boolean } = {},
): Promise<Case> {
  const scope = new Scope();
  const data = noise([rows, width], 1);
  const x = scope.keep(backend.tensor(data, [rows, width]));
  const factors = affine ? { weight: noise([width], 2), bias: noise([width], 3) } : undefined;
  const weights = factors && {
    weight: scope.keep(backend.tensor(factors.weight, [width])),
    bias: scope.keep(backend.tensor(factors.bias, [width])),
  };
  {
    using y = norm(x, weights);
    assertClose(await y.data(), reference.norm(data, width, affine ? 1e-5 : 1e-6, factors), 2e-6);
  }
  return {
    name: `${affine ? "LayerNorm" : "SRMSNorm"} ${rows} × ${width}${on(backend)}`,
    operations: 0,
    bytes: 8 * rows * width,
    tokens: rows,
    run: () => norm(x, weights).dispose(),
    ...finishing(backend, scope),
    [Symbol.dispose]: () => scope[Symbol.dispose](),
  };
}

/** One token of attention for `batch` sequences: bound by reading (and writing) the states. */
export async function stepCase(
  backend: Backend,
  batch: number,
  heads: number,
  dim: number,
): Promise<Case> {
  const scope = new Scope(), slopes = alibiSlopes(heads);
  const xData = noise([batch, heads, dim], 1), stateData = noise([batch, heads, dim, dim], 2);
  const x = scope.keep(backend.tensor(xData, [batch, heads, dim]));
  const state = scope.keep(backend.tensor(stateData, [batch, heads, dim, dim]));
  {
    using output = lightningAttentionStep(x, x, x, state, { slopes });
    const expected = reference.lightningAttention(
      xData,
      xData,
      xData,
      { batch, heads, seqLen: 1, headDim: dim, valueDim: dim },
      { slopes, initialState: stateData },
    );
    assertClose(await output.data(), expected.output, 2e-6);
    assertClose(await state.data(), expected.state, 2e-6);
  }
  return {
    name: `step of ${batch} sequences, ${heads} × ${dim}${on(backend)}`,
    operations: 0,
    bytes: 8 * batch * heads * dim * dim,
    tokens: batch,
    run: () => lightningAttentionStep(x, x, x, state, { slopes }).dispose(),
    ...finishing(backend, scope),
    [Symbol.dispose]: () => scope[Symbol.dispose](),
  };
}

/** As many operations, or bytes read, as another case needs: the least time it could take on this machine. */
export function ceilingCase(baselines: Baselines, { operations, bytes, tokens }: Case): Case {
  const call = operations > 0 ? baselines.ceiling() : baselines.readBandwidth(bytes);
  return {
    name: operations > 0 ? "ceiling: as many operations in L1" : "ceiling: as many bytes read",
    operations,
    bytes,
    tokens,
    run: () => void call.run(operations),
    [Symbol.dispose]: () => call[Symbol.dispose](),
  };
}

/** Registers cases with `deno bench` as one group, the first its baseline; they live as long as the process. */
export function register(group: string, cases: readonly Case[]): void {
  for (const one of cases) {
    Deno.bench(one.name, { group, baseline: one === cases[0] }, async () => {
      await one.run();
      await one.finish?.();
    });
  }
}
