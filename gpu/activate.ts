/**
 * An activation of each element, and its gradient.
 *
 * @module
 */
import type { ActivateBackwardCall, ActivateCall } from "../core/machine.ts";
import { ACTIVATION_NUMBERS } from "../core/ops/splitHeads.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Operations.activate}. */
export function activate(device: Device, { x, activation, rows, width, output }: ActivateCall): void {
  if (x.size === 0) return;
  const kernel = device.kernel(shaders.activate.main, {
    access: { output: "write" },
    types: { X: x.dtype, Output: output.dtype },
    constants: { ACTIVATION: ACTIVATION_NUMBERS[activation] },
  });
  const from = storeOf(x), to = storeOf(output);
  for (const { start, count } of device.chunks(rows, [from, width], [to, width])) {
    const part = [start * width, count * width] as const;
    device.dispatch(
      kernel,
      { x: from.window(...part), output: to.window(...part) },
      { rows: count, width },
      count,
    );
  }
}

/** See {@linkcode Operations.activateBackward}. */
export function activateBackward(
  device: Device,
  { x, activation, rows, width, dy, dx }: ActivateBackwardCall,
): void {
  if (x.size === 0) return;
  const kernel = device.kernel(shaders.activateBackward.main, {
    access: { dx: "write" },
    constants: { ACTIVATION: ACTIVATION_NUMBERS[activation] },
  });
  const from = storeOf(x), incoming = storeOf(dy), to = storeOf(dx);
  for (const { start, count } of device.chunks(rows, [from, width], [incoming, width], [to, width])) {
    const part = [start * width, count * width] as const;
    device.dispatch(
      kernel,
      { x: from.window(...part), dy: incoming.window(...part), dx: to.window(...part) },
      { rows: count, width },
      count,
    );
  }
}
