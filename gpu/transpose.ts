/**
 * Transposed copies, for products that read rows.
 *
 * @module
 */
import type { Device, Store } from "./device.ts";
import * as shaders from "./shaders.ts";

/** `y = xᵀ`: x `[rows, columns]`, y `[columns, rows]`. */
export function transpose(
  device: Device,
  x: Store,
  [rows, columns]: readonly [number, number],
  y: Store,
): void {
  const { EDGE } = shaders.transpose.constants;
  const kernel = device.kernel(shaders.transpose.main, {
    access: { y: "update" }, // a range of x sets some columns of y
  });
  for (const from of device.chunks(rows, [x, columns])) {
    for (const to of device.chunks(columns, [y, rows])) {
      const workgroups = Math.ceil(from.count / EDGE) * Math.ceil(to.count / EDGE);
      device.dispatch(
        kernel,
        {
          x: x.window(from.start * columns, from.count * columns),
          y: y.window(to.start * rows, to.count * rows),
        },
        {
          rows: from.count,
          columns,
          firstRow: from.start,
          firstColumn: to.start,
          count: to.count,
          stride: rows,
          workgroups,
        },
        workgroups,
      );
    }
  }
}
