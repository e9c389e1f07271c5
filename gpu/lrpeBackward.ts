/**
 * Gradients of linearized relative positional encoding.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, storeOf } from "./device.ts";
import { sumRows } from "./sumRows.ts";
import source from "./lrpeBackward.wgsl" with { type: "text" };
import turn from "./turn.wgsl" with { type: "text" };

const SOURCE = source + turn;
/** Workgroups that fill a large GPU. */
const ENOUGH_WORKGROUPS = 2048;

/** See {@linkcode GradientKernels.lrpe}. */
export function lrpeBackward(
  device: Device,
  x: Tensor,
  theta: Tensor,
  positions: Float64Array,
  dy: Tensor,
  dx: Tensor,
  dTheta: Tensor,
): void {
  if (x.size === 0) return;
  const [batch, seqLen, heads, headDim] = x.shape;
  const hidden = heads * headDim;
  const kernel = device.kernel({
    source: SOURCE,
    bindings: ["read", "read", "read", "read", "write", "write"],
  });
  const [from, incoming, to] = [x, dy, dx].map(storeOf);
  const first = device.upload(Uint32Array.from(positions));
  const held = [first];
  try {
    const groups = Math.ceil(hidden / 64);
    const rowsOf = [[from, hidden], [incoming, 2 * hidden], [to, hidden]] as const;
    for (const { start, count } of device.chunks(batch * seqLen, ...rowsOf)) {
      const step = Math.ceil(count * groups / ENOUGH_WORKGROUPS);
      const ranges = Math.ceil(count / step);
      const sums = device.allocate([ranges, hidden]);
      held.push(sums);
      device.dispatch(
        kernel,
        [
          from.window(start * hidden, count * hidden),
          storeOf(theta),
          first,
          incoming.window(start * 2 * hidden, count * 2 * hidden),
          to.window(start * hidden, count * hidden),
          sums,
        ],
        [count, step, start, seqLen, heads, headDim, ranges * groups],
        ranges * groups,
      );
      sumRows(device, sums, hidden, storeOf(dTheta));
    }
  } finally {
    for (const store of held) device.release(store);
  }
}
