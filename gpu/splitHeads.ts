/**
 * Query, key, value and gate out of one joint projection, with the activation of query and key, and the gradient.
 *
 * @module
 */
import type { SplitHeadsBackwardCall, SplitHeadsCall } from "../core/machine.ts";
import { ACTIVATION_NUMBERS } from "../core/ops/splitHeads.ts";
import { type Device, storeOf } from "./device.ts";
import activation from "./activation.wgsl" with { type: "text" };
import cosSin from "./cosSin.wgsl" with { type: "text" };
import source from "./splitHeads.wgsl" with { type: "text" };
import backwardSource from "./splitHeadsBackward.wgsl" with { type: "text" };

/** See {@linkcode Operations.splitHeads}. */
export function splitHeads(
  device: Device,
  { x, rows, hidden, headDim, activation: name, q, k, v, u }: SplitHeadsCall,
): void {
  if (x.size === 0) return;
  const kernel = device.kernel({
    source: source + activation + cosSin,
    bindings: ["read", "write", "write", "write", "write"],
    types: { X: x.dtype, Output: q.dtype },
    constants: { ACTIVATION: ACTIVATION_NUMBERS[name] },
  });
  const joint = 4 * hidden, heads = hidden / headDim;
  const from = storeOf(x);
  const parts = [q, k, v, u].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(rows, [from, joint], ...rowsOfParts)) {
    device.dispatch(
      kernel,
      [
        from.window(start * joint, count * joint),
        ...parts.map((part) => part.window(start * hidden, count * hidden)),
      ],
      [count * 4 * heads, heads, headDim],
      count * 4 * heads,
    );
  }
}

/** See {@linkcode Operations.splitHeadsBackward}. */
export function splitHeadsBackward(
  device: Device,
  { x, rows, hidden, headDim, activation: name, dq, dk, dv, du, dx }: SplitHeadsBackwardCall,
): void {
  if (x.size === 0) return;
  const kernel = device.kernel({
    source: backwardSource + activation + cosSin,
    bindings: ["read", "read", "read", "read", "read", "write"],
    constants: { ACTIVATION: ACTIVATION_NUMBERS[name] },
  });
  const joint = 4 * hidden, heads = hidden / headDim;
  const [from, to, ...parts] = [x, dx, dq, dk, dv, du].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(rows, [from, joint], [to, joint], ...rowsOfParts)) {
    device.dispatch(
      kernel,
      [
        from.window(start * joint, count * joint),
        ...parts.map((part) => part.window(start * hidden, count * hidden)),
        to.window(start * joint, count * joint),
      ],
      [count * 4 * heads, heads, headDim],
      count * 4 * heads,
    );
  }
}
