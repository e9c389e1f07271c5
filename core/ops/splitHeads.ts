/**
 * From a joint projection to query, key, value and gate, and the gradient of that.
 *
 * @module
 */
import * as numbers from "../activations.ts";
import { checkOperand, checkOptions, result, results } from "../check.ts";
import { type DType, F32, FLOATS, type FloatType } from "../dtype.ts";
import { rangeError, typeError } from "../errors.ts";
import type { Activation, SplitHeadsCall } from "../machine.ts";
import type { Tensor } from "../tensor.ts";

/** The number of each activation, as kernels know it. */
export const ACTIVATION_NUMBERS: Readonly<Record<Activation, number>> = {
  "identity": numbers.IDENTITY,
  "silu": numbers.SILU,
  "1+elu": numbers.ONE_PLUS_ELU,
  "2+elu": numbers.TWO_PLUS_ELU,
  "elu": numbers.ELU,
  "relu": numbers.RELU,
  "gelu": numbers.GELU,
  "leak": numbers.LEAK,
  "sigmoid": numbers.SIGMOID,
  "sine": numbers.SINE,
  "exp": numbers.EXP,
};

/** The activations by name, as `config.json` spells them (there also `"swish"`, for `"silu"`). */
export const ACTIVATIONS: readonly Activation[] = Object.keys(ACTIVATION_NUMBERS) as Activation[];

/**
 * Splits the joint projection of a TNL token mixer into query, key, value and gate, and applies the activation to
 * query and key.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { splitHeads } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, -1, 2, -2, 3, -3, 4, -4]), [1, 1, 8]);
 * const { q, k, v, u } = splitHeads(x, 2, "relu");
 * assert.deepEqual(q.shape, [1, 1, 2, 1]);
 * assert.deepEqual([...await k.data()], [2, 0]);
 * assert.deepEqual([...await u.data()], [4, -4]);
 * for (const tensor of [q, k, v, u]) tensor.dispose();
 * ```
 *
 * @param x `[batch, seqLen, 4 · hidden]`; without a gate `[batch, seqLen, 3 · hidden]`
 * @param heads number of heads; divides hidden
 * @param activation applied to query and key; `"exp"` is `exp(x − max)` with the maximum over each head
 * @param options `gate: false`: the projection has no gate, and `u` is undefined
 * @returns `q`, `k`, `v`: `[batch, seqLen, heads, hidden / heads]`; `u`: `[batch, seqLen, hidden]`; stored as x
 * @throws {TypeError} when x is no tensor
 * @throws {RangeError} when shapes do not match or the activation does not exist
 */
export function splitHeads(
  x: Tensor,
  heads: number,
  activation: Activation,
  options?: { readonly gate?: true },
): { q: Tensor; k: Tensor; v: Tensor; u: Tensor };
/** The same, also of a projection without a gate. */
export function splitHeads(
  x: Tensor,
  heads: number,
  activation: Activation,
  options?: { readonly gate?: boolean },
): { q: Tensor; k: Tensor; v: Tensor; u: Tensor | undefined };
export function splitHeads(
  x: Tensor,
  heads: number,
  activation: Activation,
  options: { readonly gate?: boolean } = {},
): { q: Tensor; k: Tensor; v: Tensor; u: Tensor | undefined } {
  const operation = "splitHeads";
  checkOptions(operation, options);
  const { gate = true } = options;
  const { sizes, headed, joined } = checkSplit(operation, x, heads, activation, gate, FLOATS);
  const { backend } = x, dtype = x.dtype as FloatType;
  const shapes = { q: headed, k: headed, v: headed };
  if (!gate) {
    return results(backend, shapes, { q: dtype, k: dtype, v: dtype }, (output) => {
      backend.machine.operations.splitHeads({ x, activation, ...sizes, ...output, u: undefined });
    }) as { q: Tensor; k: Tensor; v: Tensor; u: undefined };
  }
  const gated = { ...shapes, u: joined };
  return results(backend, gated, { q: dtype, k: dtype, v: dtype, u: dtype }, (output) => {
    backend.machine.operations.splitHeads({ x, activation, ...sizes, ...output });
  });
}

/**
 * Gradient of `splitHeads`. The maximum that `"exp"` subtracts counts as a constant, as in the authors' code.
 *
 * @param x what `splitHeads` was given
 * @param heads number of heads
 * @param activation the activation of query and key
 * @param gradients `dq`, `dk`, `dv` `[batch, seqLen, heads, hidden / heads]` and `du` `[batch, seqLen, hidden]`; no
 * `du` where x has no gate
 * @returns `dx`, shaped like x
 * @throws {TypeError} when an argument is of the wrong kind, or not stored as f32
 * @throws {RangeError} when shapes do not match or the activation does not exist
 */
export function splitHeadsBackward(
  x: Tensor,
  heads: number,
  activation: Activation,
  gradients: { dq: Tensor; dk: Tensor; dv: Tensor; du?: Tensor },
): Tensor {
  const operation = "splitHeadsBackward";
  if (typeof gradients !== "object" || gradients === null) {
    typeError(operation, "gradients must be an object of dq, dk, dv and du", gradients);
  }
  const { dq, dk, dv, du } = gradients;
  const { sizes, headed, joined } = checkSplit(operation, x, heads, activation, du !== undefined, F32);
  const { backend } = x;
  for (const [name, tensor] of Object.entries({ dq, dk, dv })) {
    checkOperand(operation, name, tensor, F32, backend, headed, "[batch, seqLen, heads, hidden / heads]");
  }
  if (du !== undefined) checkOperand(operation, "du", du, F32, backend, joined, "[batch, seqLen, hidden]");
  return result(backend, x.shape, "f32", (dx) => {
    backend.machine.operations.splitHeadsBackward({ x, activation, ...sizes, dq, dk, dv, du, dx });
  });
}

/** What forward and backward have in common; `headed` is the shape of a query, `joined` that of the gate. */
function checkSplit(
  operation: string,
  x: Tensor,
  heads: number,
  activation: Activation,
  gate: boolean,
  dtypes: readonly DType[],
): {
  sizes: Pick<SplitHeadsCall, "rows" | "hidden" | "headDim">;
  headed: readonly number[];
  joined: readonly number[];
} {
  const parts = gate ? 4 : 3;
  const [batch, seqLen, joint] = checkOperand(
    operation,
    "x",
    x,
    dtypes,
    undefined,
    [undefined, undefined, undefined],
    `[batch, seqLen, ${parts} * hidden]`,
  );
  if (!Number.isInteger(heads) || heads < 1 || joint % (parts * heads) !== 0) {
    rangeError(
      operation,
      "heads must be an integer >= 1 that divides hidden",
      heads,
      `${parts} * hidden = ${joint}`,
    );
  }
  if (!ACTIVATIONS.includes(activation)) {
    rangeError(operation, `activation must be one of ${ACTIVATIONS.join(", ")}`, activation);
  }
  const hidden = joint / parts, headDim = hidden / heads;
  return {
    sizes: { rows: batch * seqLen, hidden, headDim },
    headed: Object.freeze([batch, seqLen, heads, headDim]),
    joined: Object.freeze([batch, seqLen, hidden]),
  };
}
