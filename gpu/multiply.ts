/**
 * `output = x ⊙ y`, element by element.
 *
 * @module
 */
import type { MultiplyCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Operations.multiply}. */
export function multiply(device: Device, { x, y, output }: MultiplyCall): void {
  const left = storeOf(x), right = storeOf(y), result = storeOf(output);
  const kernel = device.kernel(shaders.multiply.main, {
    access: { output: "write" },
    types: { X: left.dtype, Y: right.dtype, Output: result.dtype },
  });
  const { THREADS, EACH } = shaders.multiply.constants;
  for (const { start, count } of device.chunks(x.size, [left, 1], [right, 1], [result, 1])) {
    device.dispatch(
      kernel,
      { x: left.window(start, count), y: right.window(start, count), output: result.window(start, count) },
      { count },
      Math.ceil(count / (THREADS * EACH)),
    );
  }
}
