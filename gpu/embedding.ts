/**
 * Rows by index: `embedding` and `gatherRows` look them up, `scatterRows` puts them in their places.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, float, storeOf } from "./device.ts";
import source from "./embedding.wgsl" with { type: "text" };

/** `output[i] = table[ids[i]] · scale`, rows of `dim` elements. */
export function embedding(
  device: Device,
  table: Tensor,
  dim: number,
  ids: Uint32Array,
  scale: number,
  output: Tensor,
): void {
  if (output.size === 0) return;
  const kernel = device.kernel({
    source,
    bindings: ["read", "read", "update"], // where the table is split, each of its ranges sets some of the rows
    types: { Table: table.dtype, Output: output.dtype },
  });
  const [from, to] = [storeOf(table), storeOf(output)];
  const indices = device.upload(ids);
  for (const rows of device.chunks(ids.length, [to, dim], [indices, 1])) {
    const size = rows.count * dim;
    for (const range of device.chunks(table.size / dim, [from, dim])) {
      device.dispatch(
        kernel,
        [
          from.window(range.start * dim, range.count * dim),
          indices.window(rows.start, rows.count),
          to.window(rows.start * dim, size),
        ],
        [size, dim, range.start, range.count, float(scale)],
        Math.ceil(size / 256),
      );
    }
  }
  device.release(indices);
}

/** `target[rows[i]] = x[i]`, rows of `width` elements. */
export function scatterRows(
  device: Device,
  x: Tensor,
  rows: Uint32Array,
  width: number,
  target: Tensor,
): void {
  if (x.size === 0) return;
  const kernel = device.kernel({
    source,
    entryPoint: "scatter",
    bindings: ["read", "read", "update"],
    types: { Table: x.dtype, Output: target.dtype },
  });
  const [from, to] = [storeOf(x), storeOf(target)];
  const indices = device.upload(rows);
  for (const part of device.chunks(rows.length, [from, width], [indices, 1])) {
    const size = part.count * width;
    for (const range of device.chunks(target.size / width, [to, width])) {
      device.dispatch(
        kernel,
        [
          from.window(part.start * width, size),
          indices.window(part.start, part.count),
          to.window(range.start * width, range.count * width),
        ],
        [size, width, range.start, range.count, float(1)],
        Math.ceil(size / 256),
      );
    }
  }
  device.release(indices);
}
