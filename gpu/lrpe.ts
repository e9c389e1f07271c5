/**
 * Linearized relative positional encoding, and its gradients.
 *
 * @module
 */
import type { LrpeBackwardCall, LrpeCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import { addRows } from "./sums.ts";
import cosSin from "./cosSin.wgsl" with { type: "text" };
import source from "./lrpe.wgsl" with { type: "text" };
import backwardSource from "./lrpeBackward.wgsl" with { type: "text" };

/** Workgroups of the gradient that fill a large GPU. */
const BACKWARD_WORKGROUPS = 2048;

/** See {@linkcode Operations.lrpe}. */
export function lrpe(device: Device, { x, theta, positions, output }: LrpeCall): void {
  if (x.size === 0) return;
  const [batch, seqLen, heads, headDim] = x.shape;
  const hidden = heads * headDim;
  const kernel = device.kernel({
    source: source + cosSin,
    bindings: ["read", "read", "read", "write"],
    types: { X: x.dtype, Theta: theta.dtype, Output: output.dtype },
  });
  const [from, to] = [storeOf(x), storeOf(output)];
  using scope = device.scope();
  const first = scope.upload(Uint32Array.from(positions));
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
}

/** See {@linkcode Operations.lrpeBackward}. */
export function lrpeBackward(
  device: Device,
  { x, theta, positions, dy, dx, dTheta }: LrpeBackwardCall,
): void {
  if (x.size === 0) return;
  const [batch, seqLen, heads, headDim] = x.shape;
  const hidden = heads * headDim;
  const kernel = device.kernel({
    source: backwardSource + cosSin,
    bindings: ["read", "read", "read", "read", "write", "write"],
  });
  const [from, incoming, to] = [x, dy, dx].map(storeOf);
  using scope = device.scope();
  const first = scope.upload(Uint32Array.from(positions));
  const groups = Math.ceil(hidden / 64);
  const rowsOf = [[from, hidden], [incoming, 2 * hidden], [to, hidden]] as const;
  for (const { start, count } of device.chunks(batch * seqLen, ...rowsOf)) {
    const step = Math.ceil(count * groups / BACKWARD_WORKGROUPS);
    const ranges = Math.ceil(count / step);
    const sums = scope.allocate([ranges, hidden]);
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
    addRows(device, sums, hidden, storeOf(dTheta));
  }
}
