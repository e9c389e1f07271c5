/**
 * Linearized relative positional encoding, and its gradients.
 *
 * @module
 */
import type { LrpeBackwardCall, LrpeCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";
import { addRows } from "./sums.ts";

/** Workgroups of the gradient that fill a large GPU. */
const BACKWARD_WORKGROUPS = 2048;

/** See {@linkcode Operations.lrpe}. */
export function lrpe(device: Device, { x, theta, positions, output }: LrpeCall): void {
  if (x.size === 0) return;
  const [batch, seqLen, heads, headDim] = x.shape;
  const hidden = heads * headDim;
  const kernel = device.kernel(shaders.lrpe.main, {
    access: { output: "write" },
    types: { X: x.dtype, Theta: theta.dtype, Output: output.dtype },
  });
  const from = storeOf(x), to = storeOf(output);
  using scope = device.scope();
  const first = scope.upload(Uint32Array.from(positions));
  for (const { start, count } of device.chunks(batch * seqLen, [from, hidden], [to, 2 * hidden])) {
    device.dispatch(
      kernel,
      {
        x: from.window(start * hidden, count * hidden),
        theta: storeOf(theta),
        positions: first,
        output: to.window(start * 2 * hidden, count * 2 * hidden),
      },
      { count: count * hidden, firstRow: start, seqLen, heads, headDim },
      Math.ceil(count * hidden / kernel.shader.threads),
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
  const kernel = device.kernel(shaders.lrpeBackward.main, { access: { dx: "write", dTheta: "write" } });
  const [from, incoming, to] = [x, dy, dx].map(storeOf);
  using scope = device.scope();
  const first = scope.upload(Uint32Array.from(positions));
  const groups = Math.ceil(hidden / kernel.shader.threads);
  const rowsOf = [[from, hidden], [incoming, 2 * hidden], [to, hidden]] as const;
  for (const { start, count } of device.chunks(batch * seqLen, ...rowsOf)) {
    const step = Math.ceil(count * groups / BACKWARD_WORKGROUPS);
    const ranges = Math.ceil(count / step), workgroups = ranges * groups;
    using scratch = device.scope();
    const sums = scratch.allocate([ranges, hidden]);
    device.dispatch(
      kernel,
      {
        x: from.window(start * hidden, count * hidden),
        theta: storeOf(theta),
        positions: first,
        dy: incoming.window(start * 2 * hidden, count * 2 * hidden),
        dx: to.window(start * hidden, count * hidden),
        dTheta: sums,
      },
      { rows: count, step, firstRow: start, seqLen, heads, headDim, workgroups },
      workgroups,
    );
    addRows(device, sums, hidden, storeOf(dTheta));
  }
}
