/**
 * Quantised weights on the GPU. A row is words: its integers as the host has them, padded to whole groups, then its
 * scales as bfloat16, two to a word; padded to whole vectors of 4 words.
 *
 * @module
 */
import { type Quantization, quantizedRow, type QuantizedWeight } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import type { FloatType } from "../core/dtype.ts";
import { type Device, type Scope, type Store, storeOf, type Window } from "./device.ts";
import type { WeightRows } from "./fewRows.ts";
import * as shaders from "./shaders.ts";
import { roundUp } from "./store.ts";

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
  ids: Window | undefined,
  scale: number,
  to: Store,
): void {
  const [vocab, inDim] = table.shape;
  if (to.length === 0) return;
  const { words, scalesAt } = rowWords(inDim, quantization);
  const { bits, group } = quantization;
  const kernel = device.kernel(shaders.quantizedRows.main, {
    access: { output: "update" },
    types: { Output: to.dtype },
    constants: { BITS: bits, GROUP: group, BY_ID: ids !== undefined },
  });
  const from = storeOf(table);
  const dispatch = (
    range: { start: number; count: number },
    rows: { start: number; count: number },
  ) => {
    const size = rows.count * inDim;
    device.dispatch(
      kernel,
      {
        table: from.window(range.start * words, range.count * words),
        ids: ids?.store.window(ids.start + rows.start, rows.count) ?? device.nothing,
        output: to.window(rows.start * inDim, size),
      },
      { size, inDim, words, scalesAt, first: range.start, rows: range.count, scale },
      Math.ceil(size / kernel.shader.threads),
    );
  };
  if (ids === undefined) {
    for (const range of device.chunks(vocab, [from, words], [to, inDim])) dispatch(range, range);
    return;
  }
  for (const rows of device.chunks(ids.length, [to, inDim], [ids.store, 1])) {
    for (const range of device.chunks(vocab, [from, words])) dispatch(range, rows);
  }
}

/** The elements of a weight, `[out, in]`: its store, or those that its integers stand for, in a store of the scope. */
export function elementsOf(scope: Scope, weight: Tensor, dtype: FloatType): Store {
  if (weight.quantization === undefined) return storeOf(weight);
  const store = scope.allocate(weight.shape, dtype);
  quantizedRows(scope.device, weight, weight.quantization, undefined, 1, store);
  return store;
}

/** The rows of a quantised weight as {@linkcode multiplyFewRows} reads them. */
export function integerRows(weight: Tensor, quantization: Quantization): WeightRows {
  const inDim = weight.shape[1], { words, scalesAt } = rowWords(inDim, quantization);
  const inside = roundUp(inDim, quantization.group);
  return { store: storeOf(weight), rowLength: words, inside, quantization, scalesAt };
}
