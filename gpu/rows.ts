/**
 * Rows by index: `gatherRows` picks them, `scatterRows` puts them in their places.
 *
 * @module
 */
import type { GatherRowsCall, ScatterRowsCall } from "../core/machine.ts";
import { type Device, float, type Store, storeOf } from "./device.ts";
import source from "./rows.wgsl" with { type: "text" };

/** See {@linkcode Operations.gatherRows}. */
export function gatherRows(device: Device, { x, indices, width, output }: GatherRowsCall): void {
  pickRows(device, storeOf(x), indices, 1, width, storeOf(output));
}

/** `output[i] = table[indices[i]] · scale`, rows of `width` elements. */
export function pickRows(
  device: Device,
  table: Store,
  indices: Uint32Array,
  scale: number,
  width: number,
  output: Store,
): void {
  if (output.length === 0) return;
  const kernel = device.kernel({
    source,
    bindings: ["read", "read", "update"], // where the table is split, each of its ranges sets some of the rows
    types: { Table: table.dtype, Output: output.dtype },
  });
  using scope = device.scope();
  const ids = scope.upload(indices);
  for (const rows of device.chunks(indices.length, [output, width], [ids, 1])) {
    const size = rows.count * width;
    for (const range of device.chunks(table.length / width, [table, width])) {
      device.dispatch(
        kernel,
        [
          table.window(range.start * width, range.count * width),
          ids.window(rows.start, rows.count),
          output.window(rows.start * width, size),
        ],
        [size, width, range.start, range.count, float(scale)],
        Math.ceil(size / 256),
      );
    }
  }
}

/** See {@linkcode Operations.scatterRows}. */
export function scatterRows(device: Device, { x, indices, width, target }: ScatterRowsCall): void {
  if (x.size === 0) return;
  const kernel = device.kernel({
    source,
    entryPoint: "scatter",
    bindings: ["read", "read", "update"],
    types: { Table: x.dtype, Output: target.dtype },
  });
  const from = storeOf(x), to = storeOf(target);
  using scope = device.scope();
  const ids = scope.upload(indices);
  for (const part of device.chunks(indices.length, [from, width], [ids, 1])) {
    const size = part.count * width;
    for (const range of device.chunks(target.size / width, [to, width])) {
      device.dispatch(
        kernel,
        [
          from.window(part.start * width, size),
          ids.window(part.start, part.count),
          to.window(range.start * width, range.count * width),
        ],
        [size, width, range.start, range.count, float(1)],
        Math.ceil(size / 256),
      );
    }
  }
}
