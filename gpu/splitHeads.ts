/**
 * Query, key, value and gate out of one joint projection, with the activation of query and key, and the gradient.
 *
 * @module
 */
import type { SplitHeadsBackwardCall, SplitHeadsCall } from "../core/machine.ts";
import { ACTIVATION_NUMBERS } from "../core/ops/splitHeads.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

/** Workgroups that fill a large GPU: with more, one takes all heads of a part of a row. */
const FULL_WORKGROUPS = 2048;

/** See {@linkcode Operations.splitHeads}. */
export function splitHeads(
  device: Device,
  { x, rows, hidden, headDim, activation, q, k, v, u }: SplitHeadsCall,
): void {
  if (x.size === 0) return;
  const kernel = device.kernel(shaders.splitHeads.main, {
    access: { q: "write", k: "write", v: "write", u: "write" },
    types: { X: x.dtype, Output: q.dtype },
    constants: { ACTIVATION: ACTIVATION_NUMBERS[activation] },
  });
  const joined = u === undefined ? 3 : 4;
  const joint = joined * hidden, [heads, width] = headsOf(rows, hidden, headDim, activation);
  using scope = device.scope();
  const unused = scope.allocate([1]); // in the place of u
  const from = storeOf(x), parts = [q, k, v, ...u === undefined ? [] : [u]].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(rows, [from, joint], ...rowsOfParts)) {
    const [q, k, v, u = unused] = parts.map((part) => part.window(start * hidden, count * hidden));
    const workgroups = count * joined * heads;
    device.dispatch(
      kernel,
      { x: from.window(start * joint, count * joint), q, k, v, u },
      { workgroups, parts: joined, heads, headDim: width },
      workgroups,
    );
  }
}

/** See {@linkcode Operations.splitHeadsBackward}. */
export function splitHeadsBackward(
  device: Device,
  { x, rows, hidden, headDim, activation, dq, dk, dv, du, dx }: SplitHeadsBackwardCall,
): void {
  if (x.size === 0) return;
  const kernel = device.kernel(shaders.splitHeadsBackward.main, {
    access: { dx: "write" },
    constants: { ACTIVATION: ACTIVATION_NUMBERS[activation] },
  });
  const joined = du === undefined ? 3 : 4;
  const joint = joined * hidden, [heads, width] = headsOf(rows, hidden, headDim, activation);
  const from = storeOf(x), to = storeOf(dx);
  const parts = [dq, dk, dv, ...du === undefined ? [] : [du]].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(rows, [from, joint], [to, joint], ...rowsOfParts)) {
    const [dq, dk, dv, du = device.nothing] = parts.map((part) =>
      part.window(start * hidden, count * hidden)
    );
    const workgroups = count * joined * heads;
    device.dispatch(
      kernel,
      {
        x: from.window(start * joint, count * joint),
        dq,
        dk,
        dv,
        du,
        dx: to.window(start * joint, count * joint),
      },
      { workgroups, parts: joined, heads, headDim: width },
      workgroups,
    );
  }
}

/**
 * Heads, and their size, as the kernels see them: a workgroup takes one head, whose maximum "exp" needs. Other activations
 * are of each element, so that all heads together may be one.
 */
function headsOf(
  rows: number,
  hidden: number,
  headDim: number,
  activation: SplitHeadsCall["activation"],
): readonly [heads: number, width: number] {
  return activation === "exp" || 4 * rows < FULL_WORKGROUPS ? [hidden / headDim, headDim] : [1, hidden];
}
