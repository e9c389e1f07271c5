/**
 * The operations around attention that TransNormerLLM is made of. Each checks its arguments, makes its result on the
 * backend of its input and enqueues one kernel.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { linear, norm } from "@levin/attention/ops";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]);
 * using weight = backend.tensor(new Float32Array([1, 0, 0, 0, 1, 0]), [2, 3]);
 * using h = norm(x);
 * using y = linear(h, weight);
 * console.log(y.shape); // [2, 2]
 * ```
 *
 * @module
 */
import type { Activation } from "./backend.ts";
import { checkFinite, checkIndices, checkRows, checkShape, checkTensor, joinTo } from "./check.ts";
import { rangeError, typeError } from "./errors.ts";
import { type DType, elementCount, type Tensor } from "./tensor.ts";

export type { Activation } from "./backend.ts";

/** The activations by name, as `config.json` spells them (there also `"swish"`, for `"silu"`). */
export const ACTIVATIONS: readonly Activation[] = [
  "identity",
  "silu",
  "1+elu",
  "2+elu",
  "elu",
  "relu",
  "gelu",
  "leak",
  "sigmoid",
  "sine",
  "exp",
];

/**
 * Looks token ids up: `output[i] = table[ids[i]] · scale`.
 *
 * @param table `[vocab, dim]`, quantised or not
 * @param ids token ids, row by row, each an integer from 0 to vocab − 1
 * @param options `scale`: factor of every element, default 1; `shape`: shape of the ids, default `[ids.length]`
 * @returns `[...shape, dim]`
 * @throws {RangeError} when an id is outside the table, or shapes do not fit
 */
export function embedding(
  table: Tensor,
  ids: ArrayLike<number>,
  options: { scale?: number; shape?: readonly number[] } = {},
): Tensor {
  const operation = "embedding";
  checkTensor(operation, "table", table, undefined, { quantized: true });
  checkShape(operation, "table", table.shape, [undefined, undefined], "[vocab, dim]");
  const { scale = 1, shape = [ids.length] } = options;
  checkFinite(operation, "scale", scale);
  if (elementCount(shape) !== ids.length) {
    rangeError(operation, "shape must hold as many elements as ids", shape, `${ids.length} ids`);
  }
  const [vocab, dim] = table.shape;
  const checked = checkIndices(operation, "ids", ids, vocab);
  return result(table, [...shape, dim], (output) => {
    table.backend.kernels.embedding(table, checked, scale, output);
  }, "f32");
}

/**
 * A linear layer: `y = x weightᵀ + bias + residual`.
 *
 * @param x `[..., in]`
 * @param weight `[out, in]`, as PyTorch stores it; quantised or not
 * @param options `bias` `[out]`; `residual`, shaped like the result, is added
 * @returns `[..., out]`
 * @throws {RangeError} when shapes do not fit
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  options: { bias?: Tensor; residual?: Tensor } = {},
): Tensor {
  const operation = "linear";
  const { backend } = x;
  checkTensor(operation, "x", x);
  checkTensor(operation, "weight", weight, backend, { quantized: true });
  const last = checkRows(operation, "x", x);
  checkShape(operation, "weight", weight.shape, [undefined, last], "[out, in]");
  const out = weight.shape[0];
  const shape = [...x.shape];
  shape[shape.length - 1] = out;
  const { bias, residual } = options;
  if (bias !== undefined) {
    checkTensor(operation, "bias", bias, backend);
    checkShape(operation, "bias", bias.shape, [out], "[out]");
  }
  if (residual !== undefined) {
    checkTensor(operation, "residual", residual, backend);
    checkShape(operation, "residual", residual.shape, shape, "of the result");
  }
  return result(x, shape, (output) => backend.kernels.linear(x, weight, bias, residual, output));
}

/** Options of {@linkcode norm}. */
export interface NormOptions {
  /** LayerNorm's weight, `[width]`; left out, the norm is SRMSNorm and has no parameters. */
  weight?: Tensor;
  /** LayerNorm's bias, `[width]`; comes with `weight`. */
  bias?: Tensor;
  /** Added to the mean square or variance. Default 1e−6 for SRMSNorm, 1e−5 for LayerNorm. */
  eps?: number;
  /** The result is multiplied by it, element by element: `[..., width]`, TNL's output gate. */
  gate?: Tensor;
  /** Elements normed together; default: the last dimension. A multiple of it joins dimensions, such as heads. */
  width?: number;
}

/**
 * SRMSNorm, `x / sqrt(mean(x²) + eps)` ("Scaling TransNormer to 175 Billion Parameters", section 3.1.4), or, with
 * weight and bias, LayerNorm.
 *
 * @param x any shape whose last dimensions multiply to `width`
 * @param options see {@linkcode NormOptions}
 * @returns `[..., width]`
 * @throws {RangeError} when shapes do not fit
 */
export function norm(x: Tensor, options: NormOptions = {}): Tensor {
  const operation = "norm";
  const { backend } = x;
  checkTensor(operation, "x", x);
  const { weight, bias, gate } = options;
  const width = options.width ?? checkRows(operation, "x", x);
  const shape = joinTo(operation, x.shape, width);
  const eps = options.eps ?? (weight === undefined ? 1e-6 : 1e-5);
  checkFinite(operation, "eps", eps);
  if (eps < 0) rangeError(operation, "eps must be >= 0", eps);
  if ((weight === undefined) !== (bias === undefined)) {
    typeError(operation, "weight and bias must come together", weight ?? bias);
  }
  const affine = weight !== undefined && bias !== undefined ? { weight, bias } : undefined;
  for (const [name, tensor] of Object.entries(affine ?? {})) {
    checkTensor(operation, name, tensor, backend);
    checkShape(operation, name, tensor.shape, [width], "[width]");
  }
  if (gate !== undefined) {
    checkTensor(operation, "gate", gate, backend);
    checkShape(operation, "gate", gate.shape, shape, "of the result");
  }
  return result(x, shape, (output) => backend.kernels.norm(x, width, affine, eps, gate, output));
}

/**
 * Splits the joint projection of a TNL token mixer into query, key, value and gate, and applies the activation to
 * query and key.
 *
 * @param x `[batch, seqLen, 4 · hidden]`
 * @param heads number of heads; divides hidden
 * @param activation applied to query and key; `"exp"` is `exp(x − max)` with the maximum over each head
 * @returns `q`, `k`, `v`: `[batch, seqLen, heads, hidden / heads]`; `u`: `[batch, seqLen, hidden]`
 * @throws {RangeError} when shapes do not fit or the activation does not exist
 */
export function splitHeads(
  x: Tensor,
  heads: number,
  activation: Activation,
): { q: Tensor; k: Tensor; v: Tensor; u: Tensor } {
  const operation = "splitHeads";
  checkTensor(operation, "x", x);
  checkShape(operation, "x", x.shape, [undefined, undefined, undefined], "[batch, seqLen, 4 * hidden]");
  const [batch, seqLen, joint] = x.shape;
  if (!Number.isInteger(heads) || heads < 1 || joint % (4 * heads) !== 0) {
    rangeError(
      operation,
      "heads must be an integer >= 1 that divides hidden",
      heads,
      `4 * hidden = ${joint}`,
    );
  }
  if (!ACTIVATIONS.includes(activation)) {
    rangeError(operation, `activation must be one of ${ACTIVATIONS.join(", ")}`, activation);
  }
  const hidden = joint / 4;
  const { backend } = x;
  const made: Tensor[] = [];
  try {
    const make = (shape: number[]) => (made.push(backend.empty(shape, x.dtype)), made[made.length - 1]);
    const headed = [batch, seqLen, heads, hidden / heads];
    const output = { q: make(headed), k: make(headed), v: make(headed), u: make([batch, seqLen, hidden]) };
    backend.kernels.splitHeads(x, heads, activation, output);
    return output;
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  }
}

/**
 * Linearized relative positional encoding: `[x·cos(θp), x·sin(θp)]` at position p, so that a product of two encoded
 * vectors depends on the distance of their positions ("Linearized Relative Positional Encoding", TMLR 2023).
 *
 * @param x `[batch, seqLen, heads, headDim]`
 * @param theta `[heads, headDim]`
 * @param positions position of the first token of each batch element, `[batch]`, integers from 0 to 2^31 − 1
 * @returns `[batch, seqLen, heads, 2 · headDim]`
 * @throws {RangeError} when shapes do not fit or a position is none
 */
export function lrpe(x: Tensor, theta: Tensor, positions: ArrayLike<number>): Tensor {
  const operation = "lrpe";
  const { backend } = x;
  checkTensor(operation, "x", x);
  checkTensor(operation, "theta", theta, backend);
  checkShape(
    operation,
    "x",
    x.shape,
    [undefined, undefined, undefined, undefined],
    "[batch, seqLen, heads, headDim]",
  );
  const [batch, seqLen, heads, headDim] = x.shape;
  checkShape(operation, "theta", theta.shape, [heads, headDim], "[heads, headDim]");
  if (positions.length !== batch) {
    rangeError(
      operation,
      "positions must have one value per batch element",
      positions.length,
      `batch ${batch}`,
    );
  }
  checkIndices(operation, "positions", positions, 2 ** 31 - seqLen);
  return result(x, [batch, seqLen, heads, 2 * headDim], (output) => {
    backend.kernels.lrpe(x, theta, Float64Array.from(positions), output);
  });
}

/**
 * `x ⊙ y`, the gate of SGLU ("Scaling TransNormer to 175 Billion Parameters", section 3.1.3: no activation).
 *
 * @param x any shape @param y the same shape
 * @throws {RangeError} when the shapes differ
 */
export function multiply(x: Tensor, y: Tensor): Tensor {
  const operation = "multiply";
  checkTensor(operation, "x", x);
  checkTensor(operation, "y", y, x.backend);
  checkShape(operation, "y", y.shape, x.shape, "of x");
  return result(x, x.shape, (output) => x.backend.kernels.multiply(x, y, output));
}

/**
 * Picks rows: `output[i] = x[rows[i]]`, x taken as `[count, width]`.
 *
 * @param x `[..., width]`
 * @param rows indices from 0 to count − 1
 * @param options `width`: elements of a row; default: the last dimension. A multiple of it joins dimensions
 * @returns `[rows.length, width]`
 * @throws {RangeError} when an index is outside x, or the last dimensions do not multiply to `width`
 */
export function gatherRows(x: Tensor, rows: ArrayLike<number>, options: { width?: number } = {}): Tensor {
  const operation = "gatherRows";
  checkTensor(operation, "x", x);
  const width = options.width ?? checkRows(operation, "x", x);
  joinTo(operation, x.shape, width);
  const checked = checkIndices(operation, "rows", rows, width === 0 ? 0 : x.size / width);
  return result(x, [checked.length, width], (output) => x.backend.kernels.gatherRows(x, checked, output));
}

/**
 * Puts rows in their places: `target[rows[i]] = x[i]`, the other rows of target as they are.
 *
 * @param x `[rows.length, ...]`
 * @param rows indices into the first dimension of target, no two the same
 * @param target `[count, ...]`, rows of x's size; changed in place
 * @throws {RangeError} when an index is outside target or comes twice, or shapes do not fit
 */
export function scatterRows(x: Tensor, rows: ArrayLike<number>, target: Tensor): void {
  const operation = "scatterRows";
  checkTensor(operation, "x", x);
  const [count = 0, ...row] = checkTensor(operation, "target", target, x.backend);
  const checked = checkIndices(operation, "rows", rows, count);
  if (new Set(checked).size !== checked.length) {
    rangeError(operation, "rows must differ from one another", checked);
  }
  checkShape(operation, "x", x.shape, [checked.length, ...row], "[rows.length, ...] of target");
  if (x.dtype !== target.dtype) typeError(operation, "x must be stored as target is", x.dtype, target.dtype);
  const width = elementCount(row);
  x.backend.kernels.scatterRows(x, checked, width, target);
}

/** Makes a result on the backend of `x`, has it written, and gives it back if that fails. */
function result(
  x: Tensor,
  shape: readonly number[],
  write: (output: Tensor) => void,
  dtype: DType = x.dtype,
): Tensor {
  const output = x.backend.empty(shape, dtype);
  try {
    write(output);
    return output;
  } catch (error) {
    output.dispose();
    throw error;
  }
}
