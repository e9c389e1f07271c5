/**
 * Quantised weights on the GPU. A row is words: its integers as the host has them, padded to whole groups, then its
 * scales as bfloat16, two to a word; padded to whole vectors of 4 words.
 *
 * @module
 */
import { type Quantization, quantizedRow, type QuantizedWeight } from "../core/quantize.ts";
import type { DType, Tensor } from "../core/tensor.ts";
import { FEW_ROWS } from "../core/tile.ts";
import { type Device, float, type Store, storeOf } from "./device.ts";
import { linear } from "./linear.ts";
import { pad } from "./pad.ts";
import linearSource from "./quantizedLinear.wgsl" with { type: "text" };
import rowsSource from "./quantizedRows.wgsl" with { type: "text" };

/** Threads of `fewRows` that share a column of the result; 128 / TEAM columns per workgroup, 4 rows. */
const TEAM = 32;

/** Words of a row, and where its scales begin. */
function rowWords(inner: number, { bits, group }: Quantization): { words: number; scalesAt: number } {
  const groups = Math.ceil(inner / group), scalesAt = groups * group * bits / 32;
  return { words: 4 * Math.ceil((scalesAt + Math.ceil(groups / 2)) / 4), scalesAt };
}

/** Uploads a weight. */
export function upload(device: Device, weight: QuantizedWeight): Store {
  const [outs, inner] = weight.shape;
  const { words, scalesAt } = rowWords(inner, weight);
  const { bytes, groups } = quantizedRow(inner, weight);
  const data = new Uint32Array(outs * words);
  const integers = new Uint8Array(data.buffer), scales = new Uint16Array(data.buffer);
  for (let o = 0; o < outs; o++) {
    integers.set(weight.values.subarray(o * bytes, (o + 1) * bytes), 4 * o * words);
    scales.set(weight.scales.subarray(o * groups, (o + 1) * groups), 2 * (o * words + scalesAt));
  }
  const store = device.allocate([outs, words]);
  try {
    device.write(store, data);
    return store;
  } catch (error) {
    device.release(store);
    throw error;
  }
}

/** `output[i] = table[ids[i]] · scale`; without ids all rows in order. */
export function quantizedRows(
  device: Device,
  table: Tensor,
  quantization: Quantization,
  ids: Uint32Array | undefined,
  scale: number,
  to: Store,
): void {
  const [vocab, inner] = table.shape;
  if (to.length === 0) return;
  const { words, scalesAt } = rowWords(inner, quantization);
  const { bits, group } = quantization;
  const kernel = device.kernel({
    source: rowsSource,
    bindings: ["read", "read", "update"],
    types: { Output: to.dtype },
    constants: { BITS: bits, GROUP: group, BY_ID: Number(ids !== undefined) },
  });
  const from = storeOf(table);
  const dispatch = (
    range: { start: number; count: number },
    rows: { start: number; count: number },
    indices?: Store,
  ) => {
    const size = rows.count * inner;
    device.dispatch(
      kernel,
      [
        from.window(range.start * words, range.count * words),
        indices?.window(rows.start, rows.count) ?? device.nothing,
        to.window(rows.start * inner, size),
      ],
      [size, inner, words, scalesAt, range.start, range.count, float(scale)],
      Math.ceil(size / 256),
    );
  };
  if (ids === undefined) {
    for (const range of device.chunks(vocab, [from, words], [to, inner])) dispatch(range, range);
    return;
  }
  const indices = device.upload(ids);
  for (const rows of device.chunks(ids.length, [to, inner], [indices, 1])) {
    for (const range of device.chunks(vocab, [from, words])) dispatch(range, rows, indices);
  }
  device.release(indices);
}

/** The elements that a weight stands for, in a store that the caller releases. */
export function dequantized(
  device: Device,
  weight: Tensor,
  quantization: Quantization,
  dtype: DType = "f32",
): Store {
  const store = device.allocate(weight.shape, dtype);
  try {
    quantizedRows(device, weight, quantization, undefined, 1, store);
    return store;
  } catch (error) {
    device.release(store);
    throw error;
  }
}

/** See {@linkcode Kernels.linear}. */
export function linearQuantized(
  device: Device,
  x: Tensor,
  weight: Tensor,
  quantization: Quantization,
  bias: Tensor | undefined,
  residual: Tensor | undefined,
  output: Tensor,
): void {
  const [out, inner] = weight.shape;
  if (output.size === 0) return;
  const rows = output.size / out;
  // Few rows: the weight is dequantised on the way into each product; many: once before all of them.
  if (rows > FEW_ROWS) {
    using plain = weight.backend.empty(weight.shape, x.dtype);
    quantizedRows(device, weight, quantization, undefined, 1, storeOf(plain));
    linear(device, x, plain, bias, residual, output);
    return;
  }
  const padded = Math.ceil(inner / quantization.group) * quantization.group;
  const from = padded === inner ? storeOf(x) : pad(device, storeOf(x), [1, inner], [1, padded]);
  try {
    fewRows(device, from, padded, weight, quantization, bias, residual, output);
  } finally {
    if (padded !== inner) device.release(from);
  }
}

/** One pass over the weight for every 4 rows of x, which are `padded` elements long. */
function fewRows(
  device: Device,
  x: Store,
  padded: number,
  weight: Tensor,
  quantization: Quantization,
  bias: Tensor | undefined,
  residual: Tensor | undefined,
  output: Tensor,
): void {
  const [out, inner] = weight.shape;
  const rows = output.size / out;
  const { words, scalesAt } = rowWords(inner, quantization);
  const kernel = device.kernel({
    source: linearSource,
    bindings: ["read", "read", "read", "read", "update"],
    types: {
      X: x.dtype,
      Bias: bias?.dtype ?? "f32",
      Residual: residual?.dtype ?? "f32",
      Output: output.dtype,
    },
    constants: {
      BITS: quantization.bits,
      GROUP: quantization.group,
      TEAM,
      ONE_ROW: Number(rows === 1),
      BIAS: Number(bias !== undefined),
      RESIDUAL: Number(residual !== undefined),
    },
  });
  const from = storeOf(weight), to = storeOf(output);
  const addend = residual && storeOf(residual);
  for (
    const { start, count } of device.chunks(
      rows,
      [x, padded],
      [to, out],
      ...addend ? [[addend, out] as const] : [],
    )
  ) {
    const result = [start * out, count * out] as const;
    for (const columns of device.chunks(out, [from, words])) {
      const workgroups = Math.ceil(columns.count * TEAM / 128) * Math.ceil(count / 4);
      device.dispatch(
        kernel,
        [
          x.window(start * padded, count * padded),
          from.window(columns.start * words, columns.count * words),
          bias === undefined ? device.nothing : storeOf(bias),
          addend?.window(...result) ?? device.nothing,
          to.window(...result),
        ],
        [count, padded / 4, words / 4, scalesAt, columns.start, columns.count, out, workgroups],
        workgroups,
      );
    }
  }
}
