/**
 * What mixes tokens in models that TransNormerLLM is compared with, in the trainer's terms, on WebGPU: conventional
 * softmax attention, and linear attention by the left product. Both visit every pair of tokens, tile by tile.
 *
 * Head dimensions up to 128, multiples of 4; f32; sequences that begin with nothing before them.
 *
 * @module
 */
import { checkShape } from "../../core/shape.ts";
import { BackendError, rangeError, typeError } from "../../core/errors.ts";
import type { LightningOptions } from "../../core/ops/lightning.ts";
import type { Backend, Tensor } from "../../core/tensor.ts";
import { type Device, type Store, storeOf } from "../../gpu/device.ts";
import type { WebgpuMachine } from "../../gpu/machine.ts";
import type { Mixer } from "../../train/backward.ts";
import * as shaders from "./shaders.ts";

/** Rows of a tile. */
export const EDGE = shaders.softmax.constants.EDGE;

/**
 * Causal softmax attention with rotary positions on query and key ("RoFormer", section 3.2.2) and scores over the root
 * of the head dimension, in the tiles of "FlashAttention-2". Its `state` is not one: it holds the logarithms of the
 * rows' sums, which the backward reads. Slopes do not exist here and are not read.
 */
export const softmaxMixer: Mixer = {
  name: "softmax",

  forward(q, k, v, options) {
    const call = checkCall("the softmax baseline", q, k, v, options);
    const { backend, device, batch, seqLen, heads } = call;
    using rotatedQ = rotate(call, q, 1), rotatedK = rotate(call, k, 1);
    const output = backend.empty(v.shape), logSums = backend.empty([batch, seqLen, heads]);
    device.dispatch(
      device.kernel(shaders.softmax.forward, {
        access: { output: "write", logSumsOut: "write" },
        ...softmaxOptions(call),
      }),
      {
        q: whole(rotatedQ),
        k: whole(rotatedK),
        v: whole(v),
        dOutput: device.nothing,
        output: whole(output),
        logSumsOut: whole(logSums),
      },
      softmaxValues(call, tilesOf(call)),
      tilesOf(call),
    );
    return { output, state: logSums };
  },

  backward(q, k, v, dOutput, options, { output, state: logSums }) {
    const call = checkCall("the softmax baseline", q, k, v, options);
    const { backend, device, batch, seqLen, heads } = call;
    using rotatedQ = rotate(call, q, 1), rotatedK = rotate(call, k, 1);
    using deltas = backend.empty([batch, seqLen, heads]);
    const { rowDots, keyGradients, queryGradients } = shaders.softmax, wide = softmaxOptions(call);
    device.dispatch(
      device.kernel(rowDots, { access: { dots: "write" }, ...wide }),
      { dRows: whole(dOutput), rows: whole(output), dots: whole(deltas) },
      softmaxValues(call, deltas.size),
      Math.ceil(deltas.size / rowDots.threads),
    );
    using dRotatedQ = backend.empty(q.shape), dRotatedK = backend.empty(k.shape);
    const dv = backend.empty(v.shape);
    const operands = {
      q: whole(rotatedQ),
      k: whole(rotatedK),
      v: whole(v),
      dOutput: whole(dOutput),
      logSums: whole(logSums),
      deltas: whole(deltas),
    };
    const values = softmaxValues(call, tilesOf(call));
    device.dispatch(
      device.kernel(keyGradients, { access: { dk: "write", dv: "write" }, ...wide }),
      { ...operands, dk: whole(dRotatedK), dv: whole(dv) },
      values,
      tilesOf(call),
    );
    device.dispatch(
      device.kernel(queryGradients, { access: { dq: "write" }, ...wide }),
      { ...operands, dq: whole(dRotatedQ) },
      values,
      tilesOf(call),
    );
    // A rotation's gradient is the rotation back.
    const dq = rotate(call, dRotatedQ, -1), dk = rotate(call, dRotatedK, -1);
    return { dq, dk, dv, dInitialState: backend.empty([0]) };
  },
};

/**
 * What lightning attention computes, as the papers' first method does: `(Q Kᵀ ⊙ M) V`, in time quadratic in the length
 * ("Lightning Attention-1", algorithms 1 and 2). It has no state.
 */
export const leftProductMixer: Mixer = {
  name: "left-product",

  forward(q, k, v, options) {
    const call = checkCall("the left product", q, k, v, options);
    return { output: leftProduct(call, q, k, v), state: call.backend.empty([0]) };
  },

  backward(q, k, v, dOutput, options) {
    const call = checkCall("the left product", q, k, v, options);
    return {
      dq: leftProduct(call, dOutput, v, k),
      dk: leftProduct(call, v, dOutput, q, true),
      dv: leftProduct(call, k, q, dOutput, true),
      dInitialState: call.backend.empty([0]),
    };
  },
};

/** Baselines by name. */
export const MIXERS: Readonly<Record<string, Mixer>> = {
  [softmaxMixer.name]: softmaxMixer,
  [leftProductMixer.name]: leftProductMixer,
};

/**
 * A model's `config.json` with what belongs to linear attention taken out: no activation of query and key, and no LRPE,
 * whose place rotary positions take. Gate and norm of the token mixer, SGLU, sizes and first weights stay; θ of the
 * layers with LRPE are all the parameters that it lacks.
 */
export function softmaxConfig<T extends object>(config: T): T {
  return { ...config, linear_act_fun: "identity", linear_use_lrpe_list: [] };
}

/**
 * A LLaMA of the same depth and width and nearly the same number of parameters: RMSNorm, rotary positions, no gate and no
 * norm after attention, SwiGLU. What the gate had goes to SwiGLU, whose width stays a multiple of 4.
 */
export function llamaConfig(config: Record<string, unknown>): Record<string, unknown> {
  return {
    ...softmaxConfig(config),
    norm_type: "rmsnorm",
    use_output_gate: false,
    use_output_norm: false,
    glu_act_fun: "silu",
    glu_dim: 4 * Math.round((Number(config.glu_dim) + Number(config.hidden_dim) / 3) / 4),
    no_scale_embedding: true,
  };
}

/** A checked call; layout `[batch, seqLen, heads, dim]`. */
interface Call {
  readonly backend: Backend;
  readonly device: Device;
  readonly batch: number;
  readonly seqLen: number;
  readonly heads: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly slopes: ArrayLike<number>;
  readonly scale: number | undefined;
}

function checkCall(operation: string, q: Tensor, k: Tensor, v: Tensor, options: LightningOptions): Call {
  if (q.backend.name !== "webgpu") {
    throw new BackendError(
      "unavailable",
      `Cannot run ${operation} as it needs WebGPU: current backend is ${q.backend.name} (${q.backend.info.reason})`,
    );
  }
  const [batch, seqLen, heads, headDim] = q.shape, valueDim = v.shape[3];
  const wording = "[batch, seqLen, heads, dim]";
  checkShape(operation, "q", q.shape, [undefined, undefined, undefined, undefined], wording);
  checkShape(operation, "k", k.shape, q.shape, wording);
  checkShape(operation, "v", v.shape, [batch, seqLen, heads, undefined], wording);
  for (const [name, dim] of Object.entries({ headDim, valueDim })) {
    if (!(dim >= 4 && dim <= 128 && dim % 4 === 0)) {
      rangeError(operation, `${name} must be a multiple of 4 up to 128`, dim);
    }
  }
  for (const [name, tensor] of Object.entries({ q, k, v })) {
    if (tensor.dtype !== "f32") typeError(operation, `${name} must be stored as f32`, tensor.dtype);
  }
  const { layout, cuSeqlens, initialState, slopes = new Float64Array(heads), scale } = options;
  if (layout !== "bnhd") rangeError(operation, `layout must be "bnhd"`, layout);
  if (cuSeqlens !== undefined || initialState !== undefined) {
    rangeError(
      operation,
      "sequences must be neither packed nor continued (--packed)",
      cuSeqlens ?? initialState,
    );
  }
  const { backend } = q, { device } = backend.machine as WebgpuMachine;
  return { backend, device, batch, seqLen, heads, headDim, valueDim, slopes, scale };
}

/** A tensor as a kernel binds it: as a whole. */
function whole(tensor: Tensor): Store {
  const store = storeOf(tensor);
  if (store.pieces.length > 1) {
    rangeError("the baseline", "a tensor must fit into one binding of the GPU", tensor.shape);
  }
  return store;
}

/** Tiles of 64 tokens of all sequences and heads. */
function tilesOf({ batch, heads, seqLen }: Call): number {
  return batch * heads * Math.ceil(seqLen / EDGE);
}

function softmaxOptions({ headDim, valueDim }: Pick<Call, "headDim" | "valueDim">) {
  return { constants: { WIDE: Math.max(headDim, valueDim) > 64 } };
}

function softmaxValues(
  { seqLen, heads, headDim, valueDim, scale = 1 / Math.sqrt(headDim) }: Call,
  workgroups: number,
) {
  const dims = { headDim: headDim / 4, valueDim: valueDim / 4 };
  return { seqLen, heads, ...dims, workgroups, scoreScale: scale * Math.LOG2E, scale };
}

/**
 * (cos, sin) of every pair of elements at `count` positions from `first` on, `[count, headDim]`; angles in float64: of
 * large positions, f32 would keep few digits of the fraction of a full circle.
 */
export function rotaryTable(headDim: number, first: number, count: number): Float32Array {
  const table = new Float32Array(count * headDim);
  for (let pair = 0; pair < headDim / 2; pair++) {
    const frequency = 10000 ** (-2 * pair / headDim);
    for (let i = 0; i < count; i++) {
      table[i * headDim + 2 * pair] = Math.cos((first + i) * frequency);
      table[i * headDim + 2 * pair + 1] = Math.sin((first + i) * frequency);
    }
  }
  return table;
}

/** Rotates queries or keys, or their gradients, by their positions, or back. */
function rotate(call: Call, x: Tensor, direction: 1 | -1): Tensor {
  const { device, seqLen, headDim } = call;
  const table = device.constant(`rotary ${seqLen},${headDim}`, () => rotaryTable(headDim, 0, seqLen));
  return rotateBy(call, x, table, direction);
}

/** The same by a table of the call's positions. */
export function rotateBy(
  call: Pick<Call, "backend" | "device" | "seqLen" | "heads" | "headDim" | "valueDim">,
  x: Tensor,
  table: Store,
  direction: 1 | -1,
): Tensor {
  const { backend, device, seqLen, heads, headDim, valueDim } = call;
  const rotated = backend.empty(x.shape);
  const vectors = x.size / 4;
  const kernel = device.kernel(shaders.softmax.rotate, {
    access: { rotated: "write" },
    ...softmaxOptions(call),
  });
  device.dispatch(
    kernel,
    { q: whole(x), angles: table, rotated: whole(rotated) },
    {
      seqLen,
      heads,
      headDim: headDim / 4,
      valueDim: valueDim / 4,
      workgroups: vectors,
      scoreScale: 0,
      scale: direction,
    },
    Math.ceil(vectors / kernel.shader.threads),
  );
  return rotated;
}

/** `scale · (A Bᵀ ⊙ M) C`, or with Mᵀ. */
function leftProduct(call: Call, a: Tensor, b: Tensor, c: Tensor, transposed = false): Tensor {
  const { backend, device, seqLen, heads, slopes, scale = 1 } = call;
  const inner = a.shape[3], outer = c.shape[3];
  const kernel = device.kernel(shaders.leftProduct.main, {
    access: { output: "write" },
    constants: { WIDE: outer > 64, TRANSPOSED: transposed },
  });
  // Finite, so that the decay over no distance is 1.
  const finite = Float32Array.from(slopes, (slope) => Math.min(slope, 1e30));
  const decay = device.constant(`left product ${finite.join()}`, () => finite);
  const output = backend.empty(c.shape);
  const workgroups = tilesOf(call);
  device.dispatch(
    kernel,
    { a: whole(a), b: whole(b), c: whole(c), slopes: decay, output: whole(output) },
    { seqLen, heads, inner: inner / 4, outer: outer / 4, workgroups, scale },
    workgroups,
  );
  return output;
}
