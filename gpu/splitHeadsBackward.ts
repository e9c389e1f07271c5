/**
 * Gradient of the split into query, key, value and gate, and of the activation.
 *
 * @module
 */
import type { Activation } from "../core/backend.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, storeOf } from "./device.ts";
import activations from "./activation.wgsl" with { type: "text" };
import source from "./splitHeadsBackward.wgsl" with { type: "text" };
import turn from "./turn.wgsl" with { type: "text" };

const SOURCE = source + activations + turn;

/** See {@linkcode GradientKernels.splitHeads}. */
export function splitHeadsBackward(
  device: Device,
  x: Tensor,
  heads: number,
  activation: Activation,
  { dq, dk, dv, du }: { dq: Tensor; dk: Tensor; dv: Tensor; du: Tensor },
  dx: Tensor,
): void {
  if (x.size === 0) return;
  const kernel = device.kernel({
    source: SOURCE,
    bindings: ["read", "read", "read", "read", "read", "write"],
    constants: { ACTIVATION: ACTIVATIONS.indexOf(activation) },
  });
  const joint = x.shape[x.shape.length - 1];
  const hidden = joint / 4;
  const [from, to, ...parts] = [x, dx, dq, dk, dv, du].map(storeOf);
  const rowsOfParts = parts.map((part) => [part, hidden] as const);
  for (const { start, count } of device.chunks(x.size / joint, [from, joint], [to, joint], ...rowsOfParts)) {
    device.dispatch(
      kernel,
      [
        from.window(start * joint, count * joint),
        ...parts.map((part) => part.window(start * hidden, count * hidden)),
        to.window(start * joint, count * joint),
      ],
      [count * 4 * heads, heads, hidden / heads],
      count * 4 * heads,
    );
  }
}
