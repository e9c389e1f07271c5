/**
 * The oracle: every operation in float64, token by token, as its equation says. Slow on purpose, and shared by no
 * kernel. Arrays are row-major; the shapes are those of `core/ops/lightning.ts` and `core/ops.ts`.
 *
 * @module
 */
import type { Activation } from "../core/machine.ts";
import type { QuantizedWeight } from "../core/quantize.ts";

/** Sizes of an attention case; query and key heads divide `heads`. Layout `"bhnd"`. */
export interface AttentionSizes {
  batch: number;
  heads: number;
  queryHeads?: number;
  keyHeads?: number;
  seqLen: number;
  headDim: number;
  valueDim: number;
}

/** `S_t = λ S_{t−1} + k_t v_tᵀ`, `o_t = scale · q_tᵀ S_t`; layout `"bhnd"`, states `[sequences, heads, d, e]`. */
export function lightningAttention(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  sizes: AttentionSizes,
  options: {
    slopes?: ArrayLike<number>;
    scale?: number;
    initialState?: ArrayLike<number>;
    cuSeqlens?: ArrayLike<number>;
  } = {},
): { output: Float64Array; state: Float64Array } {
  const { batch, heads, seqLen, headDim: d, valueDim: e } = sizes;
  const { queryHeads = heads, keyHeads = heads } = sizes;
  const { slopes, scale = 1, initialState, cuSeqlens } = options;
  const sequences = cuSeqlens === undefined
    ? Array.from({ length: batch }, (_, b) => ({ b, start: 0, end: seqLen }))
    : Array.from({ length: cuSeqlens.length - 1 }, (_, s) => ({
      b: 0,
      start: cuSeqlens[s],
      end: cuSeqlens[s + 1],
    }));
  const output = new Float64Array(batch * heads * seqLen * e);
  const state = new Float64Array(sequences.length * heads * d * e);
  if (initialState !== undefined) state.set(initialState);
  sequences.forEach(({ b, start, end }, sequence) => {
    for (let h = 0; h < heads; h++) {
      const S = state.subarray((sequence * heads + h) * d * e, (sequence * heads + h + 1) * d * e);
      const decay = Math.exp(-(slopes?.[h] ?? 0));
      const hq = Math.floor(h * queryHeads / heads), hk = Math.floor(h * keyHeads / heads);
      for (let t = start; t < end; t++) {
        const qt = ((b * queryHeads + hq) * seqLen + t) * d;
        const kt = ((b * keyHeads + hk) * seqLen + t) * d;
        const vt = ((b * heads + h) * seqLen + t) * e;
        for (let i = 0; i < d; i++) {
          for (let j = 0; j < e; j++) {
            S[i * e + j] = decay * S[i * e + j] + k[kt + i] * v[vt + j];
            output[vt + j] += scale * q[qt + i] * S[i * e + j];
          }
        }
      }
    }
  });
  return { output, state };
}

/**
 * Gradients of {@linkcode lightningAttention}, by the recurrence walked back: with S_t the state after token t,
 * `dS_t = scale · q_t do_tᵀ + λ dS_{t+1}` (from dState after the last), `dq_t = scale · S_t do_t`,
 * `dk_t = dS_t v_t`, `dv_t = dS_tᵀ k_t`.
 */
export function lightningAttentionBackward(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  dOutput: ArrayLike<number>,
  sizes: AttentionSizes,
  options: {
    slopes?: ArrayLike<number>;
    scale?: number;
    initialState?: ArrayLike<number>;
    cuSeqlens?: ArrayLike<number>;
    dState?: ArrayLike<number>;
  } = {},
): Record<"dq" | "dk" | "dv" | "dInitialState", Float64Array> {
  const { batch, heads, seqLen, headDim: d, valueDim: e } = sizes;
  const { queryHeads = heads, keyHeads = heads } = sizes;
  const { slopes, scale = 1, initialState, cuSeqlens, dState } = options;
  const offsets = cuSeqlens ?? [0, seqLen];
  const sequences = cuSeqlens === undefined ? batch : cuSeqlens.length - 1;
  const dq = new Float64Array(q.length), dk = new Float64Array(k.length), dv = new Float64Array(v.length);
  const dInitialState = new Float64Array(sequences * heads * d * e);
  for (let s = 0; s < sequences; s++) {
    const b = cuSeqlens === undefined ? s : 0;
    const start = offsets[cuSeqlens === undefined ? 0 : s],
      end = offsets[cuSeqlens === undefined ? 1 : s + 1];
    for (let h = 0; h < heads; h++) {
      const at = (s * heads + h) * d * e, decay = Math.exp(-(slopes?.[h] ?? 0));
      const hq = Math.floor(h * queryHeads / heads), hk = Math.floor(h * keyHeads / heads);
      const rows = (t: number) => ({
        qt: ((b * queryHeads + hq) * seqLen + t) * d,
        kt: ((b * keyHeads + hk) * seqLen + t) * d,
        vt: ((b * heads + h) * seqLen + t) * e,
      });
      const S = Float64Array.from({ length: d * e }, (_, i) => initialState?.[at + i] ?? 0);
      for (let t = start; t < end; t++) {
        const { qt, kt, vt } = rows(t);
        for (let i = 0; i < d; i++) {
          for (let j = 0; j < e; j++) {
            S[i * e + j] = decay * S[i * e + j] + k[kt + i] * v[vt + j];
            dq[qt + i] += scale * S[i * e + j] * dOutput[vt + j];
          }
        }
      }
      const dS = Float64Array.from({ length: d * e }, (_, i) => dState?.[at + i] ?? 0);
      for (let t = end - 1; t >= start; t--) {
        const { qt, kt, vt } = rows(t);
        for (let i = 0; i < d; i++) {
          for (let j = 0; j < e; j++) {
            dS[i * e + j] += scale * q[qt + i] * dOutput[vt + j];
            dk[kt + i] += dS[i * e + j] * v[vt + j];
            dv[vt + j] += dS[i * e + j] * k[kt + i];
            dS[i * e + j] *= decay;
          }
        }
      }
      dInitialState.set(dS, at);
    }
  }
  return { dq, dk, dv, dInitialState };
}

/** `[batch, heads, seqLen, dim]` to `[batch, seqLen, heads, dim]`. */
export function toBnhd(x: ArrayLike<number>, [batch, heads, seqLen, dim]: readonly number[]): Float32Array {
  const y = new Float32Array(x.length);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let t = 0; t < seqLen; t++) {
        for (let i = 0; i < dim; i++) {
          y[((b * seqLen + t) * heads + h) * dim + i] = x[((b * heads + h) * seqLen + t) * dim + i];
        }
      }
    }
  }
  return y;
}

/** `table[id] · scale`. */
export function embedding(
  table: ArrayLike<number>,
  dim: number,
  ids: ArrayLike<number>,
  scale: number,
): Float64Array {
  return Float64Array.from(
    { length: ids.length * dim },
    (_, i) => table[ids[Math.floor(i / dim)] * dim + i % dim] * scale,
  );
}

/** `x weightᵀ + bias + residual`. */
export function linear(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  [rows, inDim, outDim]: readonly [number, number, number],
  bias?: ArrayLike<number>,
  residual?: ArrayLike<number>,
): Float64Array {
  const y = new Float64Array(rows * outDim);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outDim; o++) {
      let sum = (bias?.[o] ?? 0) + (residual?.[r * outDim + o] ?? 0);
      for (let i = 0; i < inDim; i++) sum += x[r * inDim + i] * weight[o * inDim + i];
      y[r * outDim + o] = sum;
    }
  }
  return y;
}

/** SRMSNorm, or LayerNorm if there is a weight; then the gate. */
export function norm(
  x: ArrayLike<number>,
  width: number,
  eps: number,
  affine?: { weight: ArrayLike<number>; bias?: ArrayLike<number> },
  gate?: ArrayLike<number>,
): Float64Array {
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += width) {
    let mean = 0, square = 0;
    if (affine?.bias !== undefined) {
      for (let i = 0; i < width; i++) mean += x[row + i] / width;
    }
    for (let i = 0; i < width; i++) square += (x[row + i] - mean) ** 2 / width;
    for (let i = 0; i < width; i++) {
      const normed = (x[row + i] - mean) / Math.sqrt(square + eps);
      y[row + i] = (affine === undefined ? normed : normed * affine.weight[i] + (affine.bias?.[i] ?? 0)) *
        (gate?.[row + i] ?? 1);
    }
  }
  return y;
}

/** erf by its series (|x| < 3) or continued fraction, to float64 accuracy. */
export function erf(x: number): number {
  if (x < 0) return -erf(-x);
  if (x < 3) {
    let term = x, sum = x;
    for (let n = 1; n < 100; n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return 2 / Math.sqrt(Math.PI) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (x + fraction);
  return 1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}

const elu = (x: number) => x > 0 ? x : Math.expm1(x);
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** The activations, except `"exp"`, which needs a row: see {@linkcode activate}. */
const SCALAR: Record<Exclude<Activation, "exp">, (x: number) => number> = {
  "identity": (x) => x,
  "silu": (x) => x * sigmoid(x),
  "1+elu": (x) => 1 + elu(x),
  "2+elu": (x) => 2 + elu(x),
  "elu": elu,
  "relu": (x) => Math.max(x, 0),
  "gelu": (x) => x * (1 + erf(x / Math.SQRT2)) / 2,
  "leak": (x) => x > 0 ? x : 0.01 * x,
  "sigmoid": sigmoid,
  "sine": Math.sin,
};

/** An activation over rows of `headDim` elements. */
export function activate(x: ArrayLike<number>, headDim: number, activation: Activation): Float64Array {
  const y = Float64Array.from(x);
  if (activation !== "exp") return y.map(SCALAR[activation]);
  for (let row = 0; row < y.length; row += headDim) {
    const values = y.subarray(row, row + headDim);
    const max = Math.max(...values);
    values.forEach((value, i) => values[i] = Math.exp(value - max));
  }
  return y;
}

/** `[..., 4 · hidden]` to q, k, v, u, with the activation on q and k. */
export function splitHeads(
  x: ArrayLike<number>,
  hidden: number,
  heads: number,
  activation: Activation,
  parts = 4,
): Record<"q" | "k" | "v" | "u", Float64Array> {
  const rows = x.length / (parts * hidden);
  const part = (index: number) =>
    Float64Array.from(
      { length: rows * hidden },
      (_, i) => x[Math.floor(i / hidden) * parts * hidden + index * hidden + i % hidden],
    );
  const headDim = hidden / heads;
  return {
    q: activate(part(0), headDim, activation),
    k: activate(part(1), headDim, activation),
    v: part(2),
    u: parts === 4 ? part(3) : new Float64Array(rows * hidden).fill(1),
  };
}

/** `[x·cos(θp), x·sin(θp)]`, p = positions[b] + t. */
export function lrpe(
  x: ArrayLike<number>,
  theta: ArrayLike<number>,
  [batch, seqLen, heads, headDim]: readonly number[],
  positions: ArrayLike<number>,
): Float64Array {
  const y = new Float64Array(2 * x.length);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < seqLen; t++) {
      for (let h = 0; h < heads; h++) {
        const row = (b * seqLen + t) * heads + h;
        for (let i = 0; i < headDim; i++) {
          const angle = theta[h * headDim + i] * (positions[b] + t);
          y[row * 2 * headDim + i] = x[row * headDim + i] * Math.cos(angle);
          y[row * 2 * headDim + headDim + i] = x[row * headDim + i] * Math.sin(angle);
        }
      }
    }
  }
  return y;
}

/** The elements of a quantised weight: `integer · scale`, read from the format as `core/quantize.ts` describes it. */
export function quantizedWeight(
  { shape: [outDim, inDim], bits, group, values, scales }: QuantizedWeight,
): Float64Array {
  const data = new Float64Array(outDim * inDim);
  const rowBytes = Math.ceil(inDim * bits / 8), groups = Math.ceil(inDim / group);
  const scale = new DataView(new ArrayBuffer(4));
  for (let o = 0; o < outDim; o++) {
    for (let i = 0; i < inDim; i++) {
      const byte = values[o * rowBytes + Math.floor(i * bits / 8)];
      const integer = bits === 8
        ? byte > 127 ? byte - 256 : byte
        : (i % 2 === 0 ? byte % 16 : Math.floor(byte / 16)) - 8;
      scale.setUint16(0, scales[o * groups + Math.floor(i / group)]);
      data[o * inDim + i] = integer * scale.getFloat32(0);
    }
  }
  return data;
}

/** What rows of x become with a quantised weight on WASM: integers up to `largest`, with an f32 scale per group. */
export function roundedRows(
  x: Float32Array,
  inDim: number,
  { bits, group }: { bits: 8 | 4; group: number },
): Float64Array {
  const largest = bits === 8 ? 32767 : 127;
  const rounded = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += inDim) {
    for (let start = row; start < row + inDim; start += group) {
      const elements = x.subarray(start, Math.min(start + group, row + inDim));
      const scale = Math.fround(
        elements.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / largest,
      );
      elements.forEach((value, i) => {
        const integer = scale === 0 ? 0 : roundHalfToEven(Math.fround(value * Math.fround(1 / scale)));
        rounded[start + i] = integer * scale;
      });
    }
  }
  return rounded;
}

function roundHalfToEven(value: number): number {
  const down = Math.floor(value);
  return value - down !== 0.5 ? Math.round(value) : down % 2 === 0 ? down : down + 1;
}
