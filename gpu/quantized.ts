/**
 * Quantised weights on the GPU. A row is words: its integers as the host has them, padded to whole groups, then its
 * scales as bfloat16, two to a word; padded to whole vectors of 4 words.
 *
 * @module
 */
import { type Quantization, quantizedRow, type QuantizedWeight } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import type { FloatType } from "../core/dtype.ts";
import type { LinearCall } from "../core/machine.ts";
import { type Device, float, type Scope, type Store, storeOf } from "./device.ts";
import { padded } from "./pad.ts";
import linearSource from "./quantizedLinear.wgsl" with { type: "text" };
import rowsSource from "./quantizedRows.wgsl" with { type: "text" };

/** Threads of `fewRows` that share a column of the result; 128 / TEAM columns per workgroup, 4 rows. */
const TEAM = 32;

/** Words of a row, and where its scales begin. */
function rowWords(inDim: number, { bits, group }: Quantization): { words: number; scalesAt: number } {
  const groups = Math.ceil(inDim / group), scalesAt = groups * group * bits / 32;
  return { words: 4 * Math.ceil((scalesAt + Math.ceil(groups / 2)) / 4), scalesAt };
}

/** Uploads a weight. */
export function upload(device: Device, weight: QuantizedWeight): Store {
  const [outDim, inDim] = weight.shape;
  const { words, scalesAt } = rowWords(inDim, weight);
  const { bytes, groups } = quantizedRow(inDim, weight);
  const data = new Uint32Array(outDim * words);
  const integers = new Uint8Array(data.buffer), scales = new Uint16Array(data.buffer);
  for (let o = 0; o < outDim; o++) {
    integers.set(weight.values.subarray(o * bytes, (o + 1) * bytes), 4 * o * words);
    scales.set(weight.scales.subarray(o * groups, (o + 1) * groups), 2 * (o * words + scalesAt));
  }
  const store = device.allocate([outDim, words]);
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
  const [vocab, inDim] = table.shape;
  if (to.length === 0) return;
  const { words, scalesAt } = rowWords(inDim, quantization);
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
    const size = rows.count * inDim;
    device.dispatch(
      kernel,
      [
        from.window(range.start * words, range.count * words),
        indices?.window(rows.start, rows.count) ?? device.nothing,
        to.window(rows.start * inDim, size),
      ],
      [size, inDim, words, scalesAt, range.start, range.count, float(scale)],
      Math.ceil(size / 256),
    );
  };
  if (ids === undefined) {
    for (const range of device.chunks(vocab, [from, words], [to, inDim])) dispatch(range, range);
    return;
  }
  using scope = device.scope();
  const indices = scope.upload(ids);
  for (const rows of device.chunks(ids.length, [to, inDim], [indices, 1])) {
    for (const range of device.chunks(vocab, [from, words])) dispatch(range, rows, indices);
  }
}

/** The elements that a weight stands for, `[out, in]`, in a store of the scope. */
export function dequantized(
  scope: Scope,
  weight: Tensor,
  quantization: Quantization,
  dtype: FloatType,
): Store {
  const store = scope.allocate(weight.shape, dtype);
  quantizedRows(scope.device, weight, quantization, undefined, 1, store);
  return store;
}

/** A linear layer of few rows: one pass over the weight for every 4 rows of x. */
export function productQuantized(
  device: Device,
  { x: { storage }, weight, bias, residual, rows, inDim, outDim, output }: LinearCall,
  quantization: Quantization,
): void {
  const { words, scalesAt } = rowWords(inDim, quantization);
  const width = Math.ceil(inDim / quantization.group) * quantization.group;
  using scope = device.scope();
  const x = padded(scope, storage as Store, [1, inDim], [1, width]);
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
      [x, width],
      [to, outDim],
      ...addend ? [[addend, outDim] as const] : [],
    )
  ) {
    const result = [start * outDim, count * outDim] as const;
    for (const columns of device.chunks(outDim, [from, words])) {
      const workgroups = Math.ceil(columns.count * TEAM / 128) * Math.ceil(count / 4);
      device.dispatch(
        kernel,
        [
          x.window(start * width, count * width),
          from.window(columns.start * words, columns.count * words),
          bias === undefined ? device.nothing : storeOf(bias),
          addend?.window(...result) ?? device.nothing,
          to.window(...result),
        ],
        [count, width / 4, words / 4, scalesAt, columns.start, columns.count, outDim, workgroups],
        workgroups,
      );
    }
  }
}
