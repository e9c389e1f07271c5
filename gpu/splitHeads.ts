/**
 * Query, key, value and gate out of one joint projection, with the activation of query and key.
 *
 * @module
 */
import type { Activation } from "../core/backend.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, storeOf } from "./device.ts";
import activations from "./activation.wgsl" with { type: "text" };
import source from "./splitHeads.wgsl" with { type: "text" };
import turn from "./turn.wgsl" with { type: "text" };

const SOURCE = source + activations + turn;

/** See {@linkcode Kernels.splitHeads}. */
export function splitHeads(
  device: Device,
  x: Tensor,
  heads: number,
  activation: Activation,
  output: { q: Tensor; k: Tensor; v: Tensor; u: Tensor },
): void {
  if (x.size === 0) return;
  const kernel = device.kernel({
    source: SOURCE,
    bindings: ["read", "write", "write", "write", "write"],
    types: { X: x.dtype, Output: output.q.dtype },
    constants: { ACTIVATION: ACTIVATIONS.indexOf(activation) },
  });
  const joint = x.shape[x.shape.length - 1];
  const hidden = joint / 4;
  const from = storeOf(x);
  const parts = [output.q, output.k, output.v, output.u].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(x.size / joint, [from, joint], ...rowsOfParts)) {
    device.dispatch(
      kernel,
      [
        from.window(start * joint, count * joint),
        ...parts.map((part) => part.window(start * hidden, count * hidden)),
      ],
      [count * 4 * heads, heads, hidden / heads],
      count * 4 * heads,
    );
  }
}
