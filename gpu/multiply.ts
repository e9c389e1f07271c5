/**
 * `output = x ⊙ y`, element by element.
 *
 * @module
 */
import type { MultiplyCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import source from "./multiply.wgsl" with { type: "text" };

/** See {@linkcode Operations.multiply}. */
export function multiply(device: Device, { x, y, output }: MultiplyCall): void {
  const kernel = device.kernel({
    source,
    bindings: ["read", "read", "write"],
    types: { X: x.dtype, Y: y.dtype, Output: output.dtype },
  });
  const stores = [x, y, output].map(storeOf);
  for (const { start, count } of device.chunks(x.size, ...stores.map((store) => [store, 1] as const))) {
    device.dispatch(
      kernel,
      stores.map((store) => store.window(start, count)),
      [count],
      Math.ceil(count / 256),
    );
  }
}
