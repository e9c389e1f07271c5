/**
 * Linearized relative positional encoding.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, storeOf } from "./device.ts";
import source from "./lrpe.wgsl" with { type: "text" };
import turn from "./turn.wgsl" with { type: "text" };

const SOURCE = source + turn;

/** See {@linkcode Kernels.lrpe}. */
export function lrpe(
  device: Device,
  x: Tensor,
  theta: Tensor,
  positions: Float64Array,
  output: Tensor,
): void {
  if (x.size === 0) return;
  const [batch, seqLen, heads, headDim] = x.shape;
  const hidden = heads * headDim;
  const kernel = device.kernel({
    source: SOURCE,
    bindings: ["read", "read", "read", "write"],
    types: { X: x.dtype, Theta: theta.dtype, Output: output.dtype },
  });
  const [from, to] = [storeOf(x), storeOf(output)];
  const first = device.upload(Uint32Array.from(positions));
  for (const { start, count } of device.chunks(batch * seqLen, [from, hidden], [to, 2 * hidden])) {
    device.dispatch(
      kernel,
      [
        from.window(start * hidden, count * hidden),
        storeOf(theta),
        first,
        to.window(start * 2 * hidden, count * 2 * hidden),
      ],
      [count * hidden, start, seqLen, heads, headDim],
      Math.ceil(count * hidden / 256),
    );
  }
  device.release(first);
}
