/**
 * Quantised weights on the GPU. A row is words: its integers as the host has them, padded to whole groups, then its
 * scales as bfloat16, two to a word; padded to whole vectors of 4 words.
 *
 * @module
 */
import { type Quantization, quantizedRow, type QuantizedWeight } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import type { FloatType } from "../core/dtype.ts";
import type { LinearCall, NormLinearCall } from "../core/machine.ts";
import { type Device, type Scope, type Store, storeOf, type Window } from "./device.ts";
import { padded } from "./pad.ts";
import * as shaders from "./shaders.ts";

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

/**
 * A linear layer of few rows: one pass over the weight for every 4 rows of x. With a norm its factor of each row is found on
 * the way, whatever the number of rows.
 */
export function multiplyQuantized(
  device: Device,
  { x: { storage }, weight, bias, residual, rows, inDim, outDim, output }: LinearCall,
  quantization: Quantization,
  norm?: Pick<NormLinearCall, "normed" | "eps" | "gate">,
): void {
  const { words, scalesAt } = rowWords(inDim, quantization);
  const width = Math.ceil(inDim / quantization.group) * quantization.group;
  using scope = device.scope();
  const vectors = (store: Store) => padded(scope, store, [1, inDim], [1, width]);
  const x = vectors(storage as Store), gate = norm?.gate;
  const normed = norm?.normed.storage === storage ? x : norm && vectors(storeOf(norm.normed));
  const kernel = device.kernel(shaders.quantizedLinear.main, {
    access: { output: "update" },
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
      ONE_ROW: rows === 1,
      BIAS: bias !== undefined,
      RESIDUAL: residual !== undefined,
      NORMED: normed !== undefined,
      GATED: gate !== undefined,
    },
  });
  const gateBias = gate?.bias && storeOf(gate.bias);
  const from = storeOf(weight), to = storeOf(output), addend = residual && storeOf(residual);
  const residualRows = addend === undefined ? [] : [[addend, outDim] as const];
  for (const { start, count } of device.chunks(rows, [x, width], [to, outDim], ...residualRows)) {
    const first = start * outDim, length = count * outDim;
    for (const bound of device.chunks(outDim, [from, words])) {
      const workgroups = Math.ceil(bound.count * TEAM / kernel.shader.threads) * Math.ceil(count / 4);
      device.dispatch(
        kernel,
        {
          x: x.window(start * width, count * width),
          weight: from.window(bound.start * words, bound.count * words),
          bias: bias === undefined ? device.nothing : storeOf(bias),
          residual: addend?.window(first, length) ?? device.nothing,
          output: to.window(first, length),
          normed: normed?.window(start * width, count * width) ?? device.nothing,
          gateWeight: gate === undefined
            ? device.nothing
            : storeOf(gate.weight).window(bound.start * words, bound.count * words),
          gateBias: gateBias ?? device.nothing,
        },
        {
          rows: count,
          inVectors: width / 4,
          vectors: words / 4,
          scalesAt,
          firstOut: bound.start,
          outCount: bound.count,
          stride: outDim,
          workgroups,
          inDim,
          eps: norm?.eps ?? 0,
        },
        workgroups,
      );
    }
  }
}
