/**
 * One small call of every public function that computes: a table for tests of what holds for all of them.
 *
 * @module
 */
import {
  activateBackward,
  adamw,
  crossEntropy,
  embeddingBackward,
  linearBackward,
  lrpeBackward,
  multiplyBackward,
  normBackward,
  splitHeadsBackward,
  sum,
  sumSquares,
} from "../core/gradients.ts";
import {
  activate,
  embedding,
  gatherRows,
  linear,
  lrpe,
  multiply,
  norm,
  scatterRows,
  splitHeads,
} from "../core/ops.ts";
import {
  type Backend,
  lightningAttention,
  lightningAttentionBackward,
  lightningAttentionStep,
  type Tensor,
} from "../mod.ts";
import type { Scope } from "./harness.ts";

/** A public function, arguments that it takes, and its options that are tensors. */
export interface PublicCall {
  readonly call: (...args: never[]) => unknown;
  readonly args: unknown[];
  /** Tensors by the name of the option, as the last argument takes them. */
  readonly options?: Record<string, Tensor>;
}

/** One call of every public function that computes, by its name; `scope` keeps the tensors. */
export function callsOf(backend: Backend, scope: Scope): Record<string, PublicCall> {
  const zeros = (...shape: number[]) => scope.keep(backend.zeros(shape));
  const x = zeros(2, 6), table = zeros(5, 6), weight = zeros(4, 6), dy = zeros(2, 4), scalar = zeros(1);
  const joint = zeros(1, 2, 8), headed = zeros(1, 2, 2, 1), hidden = zeros(1, 2, 2);
  const tokens = zeros(1, 2, 3, 4), theta = zeros(3, 4), doubled = zeros(1, 2, 3, 8);
  const state = zeros(1, 2, 4, 4), qkv = zeros(1, 2, 3, 4), one = zeros(1, 2, 4), width = zeros(6);
  return {
    embedding: { call: embedding, args: [table, [1, 2]] },
    gatherRows: { call: gatherRows, args: [table, [1, 2]] },
    scatterRows: { call: scatterRows, args: [x, [1, 2], table] },
    linear: { call: linear, args: [x, weight], options: { bias: zeros(4), residual: dy } },
    norm: { call: norm, args: [x], options: { gate: x, weight: width, bias: width } },
    splitHeads: { call: splitHeads, args: [joint, 2, "silu"] },
    activate: { call: activate, args: [x, "silu"] },
    activateBackward: { call: activateBackward, args: [x, "silu", x] },
    lrpe: { call: lrpe, args: [tokens, theta, [0]] },
    multiply: { call: multiply, args: [x, x] },
    embeddingBackward: { call: embeddingBackward, args: [[1, 2], x, table] },
    linearBackward: {
      call: linearBackward,
      args: [x, weight, dy],
      options: { dWeight: weight, dBias: zeros(4), residual: x },
    },
    normBackward: {
      call: normBackward,
      args: [x, x],
      options: { gate: x, residual: x, weight: width, bias: width, dWeight: width, dBias: width },
    },
    splitHeadsBackward: {
      call: splitHeadsBackward,
      args: [joint, 2, "silu", { dq: headed, dk: headed, dv: headed, du: hidden }],
    },
    lrpeBackward: { call: lrpeBackward, args: [tokens, theta, [0], doubled, theta] },
    multiplyBackward: { call: multiplyBackward, args: [x, x, x] },
    crossEntropy: { call: crossEntropy, args: [x, [1, 2]] },
    sum: { call: sum, args: [x, scalar] },
    sumSquares: { call: sumSquares, args: [x, scalar] },
    adamw: {
      call: adamw,
      args: [x, x, { first: x, second: x }, scalar, { count: 1, learningRate: 0.1 }],
    },
    lightningAttention: { call: lightningAttention, args: [qkv, qkv, qkv], options: { initialState: state } },
    lightningAttentionBackward: {
      call: lightningAttentionBackward,
      args: [qkv, qkv, qkv, qkv],
      options: { initialState: state, dState: state },
    },
    lightningAttentionStep: { call: lightningAttentionStep, args: [one, one, one, state] },
  };
}
