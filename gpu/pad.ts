/**
 * Padding of the last two dimensions, for kernels that read vectors of 4.
 *
 * @module
 */
import type { Device, Scope, Store } from "./device.ts";
import * as shaders from "./shaders.ts";

/** The next multiple of 4. */
export const multipleOf4 = (n: number): number => Math.ceil(n / 4) * 4;

/**
 * Copies `[count, rows, columns]` to `[count, rows, columns]` of other sizes: zeros where the result has more, cut where
 * it has less. A result of another type is rounded.
 */
export function pad(
  device: Device,
  x: Store,
  [rows, columns]: readonly [number, number],
  [toRows, toColumns]: readonly [number, number],
  y: Store,
): void {
  const count = rows * columns === 0 ? 0 : x.length / (rows * columns);
  const kernel = device.kernel(shaders.pad.main, {
    access: { y: "write" },
    types: { X: x.dtype, Y: y.dtype },
    constants: { PACKED: x.dtype === "bf16" },
  });
  const from = rows * columns, to = toRows * toColumns;
  for (const { start, count: part } of device.chunks(count, [x, from], [y, to])) {
    device.dispatch(
      kernel,
      { x: x.window(start * from, part * from), y: y.window(start * to, part * to) },
      { size: part * to, rows, columns, toRows, toColumns },
      Math.ceil(part * to / kernel.shader.threads),
    );
  }
}

/** x itself where the sizes are the same, else a padded copy of it in the scope; that of bf16 is f32. */
export function padded(
  scope: Scope,
  x: Store,
  from: readonly [number, number],
  to: readonly [number, number],
): Store {
  if (from[0] === to[0] && from[1] === to[1]) return x;
  const count = from[0] * from[1] === 0 ? 0 : x.length / (from[0] * from[1]);
  const y = scope.allocate([count, ...to], x.dtype === "bf16" ? "f32" : x.dtype);
  pad(scope.device, x, from, to, y);
  return y;
}
