/**
 * Rows by index: `gatherRows` picks them, `scatterRows` puts them in their places.
 *
 * @module
 */
import type { GatherRowsCall, ScatterRowsCall } from "../core/machine.ts";
import { type Device, type Store, storeOf, type Window } from "./device.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Operations.gatherRows}. */
export function gatherRows(device: Device, { x, indices, width, output }: GatherRowsCall): void {
  using scope = device.scope();
  pickRows(device, storeOf(x), scope.upload(indices), 1, width, storeOf(output));
}

/** `output[i] = table[ids[i]] · scale`, rows of `width` elements. */
export function pickRows(
  device: Device,
  table: Store,
  ids: Window,
  scale: number,
  width: number,
  output: Store,
): void {
  if (output.length === 0) return;
  const kernel = device.kernel(shaders.rows.gather, {
    access: { output: "update" }, // where the table is split, each of its ranges sets some of the rows
    types: { Table: table.dtype, Output: output.dtype },
    constants: { PACKED: table.dtype === "bf16" },
  });
  for (const rows of device.chunks(ids.length, [output, width], [ids.store, 1])) {
    const size = rows.count * width;
    for (const range of device.chunks(table.length / width, [table, width])) {
      device.dispatch(
        kernel,
        {
          table: table.window(range.start * width, range.count * width),
          ids: ids.store.window(ids.start + rows.start, rows.count),
          output: output.window(rows.start * width, size),
        },
        { count: size, width, first: range.start, rows: range.count, scale },
        Math.ceil(size / kernel.shader.threads),
      );
    }
  }
}

/** See {@linkcode Operations.scatterRows}. */
export function scatterRows(device: Device, { x, indices, width, target }: ScatterRowsCall): void {
  if (x.size === 0) return;
  const kernel = device.kernel(shaders.rows.scatter, {
    access: { output: "update" },
    types: { Table: x.dtype, Output: target.dtype },
    constants: { PACKED: false },
  });
  const from = storeOf(x), to = storeOf(target);
  using scope = device.scope();
  const ids = scope.upload(indices);
  for (const part of device.chunks(indices.length, [from, width], [ids, 1])) {
    const size = part.count * width;
    for (const range of device.chunks(target.size / width, [to, width])) {
      device.dispatch(
        kernel,
        {
          table: from.window(part.start * width, size),
          ids: ids.window(part.start, part.count),
          output: to.window(range.start * width, range.count * width),
        },
        { count: size, width, first: range.start, rows: range.count, scale: 1 },
        Math.ceil(size / kernel.shader.threads),
      );
    }
  }
}
