/**
 * Query, key, value and gate out of one joint projection, with the activation of query and key, and the gradient.
 *
 * @module
 */
import type { SplitHeadsBackwardCall, SplitHeadsCall } from "../core/machine.ts";
import { ACTIVATION_NUMBERS } from "../core/ops/splitHeads.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

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
  const joint = 4 * hidden, heads = hidden / headDim;
  const from = storeOf(x), parts = [q, k, v, u].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(rows, [from, joint], ...rowsOfParts)) {
    const [q, k, v, u] = parts.map((part) => part.window(start * hidden, count * hidden));
    const workgroups = count * 4 * heads;
    device.dispatch(
      kernel,
      { x: from.window(start * joint, count * joint), q, k, v, u },
      { workgroups, heads, headDim },
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
  const joint = 4 * hidden, heads = hidden / headDim;
  const from = storeOf(x), to = storeOf(dx), parts = [dq, dk, dv, du].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(rows, [from, joint], [to, joint], ...rowsOfParts)) {
    const [dq, dk, dv, du] = parts.map((part) => part.window(start * hidden, count * hidden));
    const workgroups = count * 4 * heads;
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
      { workgroups, heads, headDim },
      workgroups,
    );
  }
}
