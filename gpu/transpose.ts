/**
 * Transposed copies, for products that read rows.
 *
 * @module
 */
import type { Device, Store } from "./device.ts";
import source from "./transpose.wgsl" with { type: "text" };

/** `y = xᵀ`: x `[rows, columns]`, y `[columns, rows]`. */
export function transpose(
  device: Device,
  x: Store,
  [rows, columns]: readonly [number, number],
  y: Store,
): void {
  const kernel = device.kernel({ source, bindings: ["read", "update"] }); // a range of x sets some columns of y
  for (const from of device.chunks(rows, [x, columns])) {
    for (const to of device.chunks(columns, [y, rows])) {
      const workgroups = Math.ceil(from.count / 32) * Math.ceil(to.count / 32);
      device.dispatch(
        kernel,
        [x.window(from.start * columns, from.count * columns), y.window(to.start * rows, to.count * rows)],
        [from.count, columns, from.start, to.start, to.count, rows, workgroups],
        workgroups,
      );
    }
  }
}
