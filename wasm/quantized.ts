/**
 * Quantised weights in linear memory, packed as `assembly/quantized.ts` reads them: blocks of 8 outputs, group by group.
 *
 * @module
 */
import { fromBfloat16 } from "../core/bfloat16.ts";
import { type Quantization, type QuantizedWeight, rowIntegers } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import type { LinearMemory } from "./memory.ts";
import { at } from "./operands.ts";

/** Outputs of a block. */
export const BLOCK_OUT_DIM = 8;

/** Bytes of a group of a block: integers of 8 outputs and their scales. */
function groupBytes({ bits, group }: Quantization): number {
  return bits * group + 2 * BLOCK_OUT_DIM;
}

/** Bytes of a packed block. */
export function blockBytes(inDim: number, quantization: Quantization): number {
  return Math.ceil(inDim / quantization.group) * groupBytes(quantization);
}

/** Bytes of a packed weight of `[outDim, inDim]`. */
export function packedBytes([outDim, inDim]: readonly number[], quantization: Quantization): number {
  return Math.ceil(outDim / BLOCK_OUT_DIM) * blockBytes(inDim, quantization);
}

/** The byte of input `i` of output `lane` in a group of 8 bits: see `assembly/quantized.ts`. */
function byteOf(i: number, lane: number): number {
  return (i >> 2) * 32 + 4 * lane + [0, 2, 1, 3][i & 3];
}

/** The byte of the scale of output `lane` among the scales of a group. */
function scaleOf(lane: number): number {
  return 4 * (lane % 4) + 2 * (lane >> 2);
}

/** Packs a weight. Padding has no effect: its integer, its x or its scale is zero, or its result is never written. */
export function pack(weight: QuantizedWeight, target: Uint8Array): void {
  const [outDim, inDim] = weight.shape;
  const { bits, group, scales } = weight;
  const groups = Math.ceil(inDim / group), bytes = groupBytes(weight), block = blockBytes(inDim, weight);
  target.fill(0);
  for (let o = 0; o < outDim; o++) {
    const integers = rowIntegers(weight, o), lane = o % BLOCK_OUT_DIM;
    for (let g = 0; g < groups; g++) {
      const at = Math.floor(o / BLOCK_OUT_DIM) * block + g * bytes;
      const start = g * group, count = Math.min(group, inDim - start);
      for (let i = 0; i < count; i++) {
        const q = integers[start + i];
        if (bits === 8) target[at + byteOf(i, lane)] = q + 128;
        else target[at + (i >> 3) * 32 + 4 * lane + (i & 3)] |= (q + 8) << (i & 4);
      }
      const scale = scales[o * groups + g], scaleAt = at + bits * group + scaleOf(lane);
      target[scaleAt] = scale;
      target[scaleAt + 1] = scale >> 8;
    }
  }
}

/** Writes row `row` of a packed weight, times `factor`, to `target`. */
function unpackRow(
  packed: Uint8Array,
  inDim: number,
  quantization: Quantization,
  row: number,
  factor: number,
  target: Float32Array,
): void {
  const { bits, group } = quantization;
  const bytes = groupBytes(quantization), lane = row % BLOCK_OUT_DIM;
  const block = Math.floor(row / BLOCK_OUT_DIM) * blockBytes(inDim, quantization);
  for (let start = 0; start < inDim; start += group) {
    const at = block + start / group * bytes, scaleAt = at + bits * group + scaleOf(lane);
    const scale = fromBfloat16(packed[scaleAt] | packed[scaleAt + 1] << 8) * factor;
    const count = Math.min(group, inDim - start);
    for (let i = 0; i < count; i++) {
      const q = bits === 8
        ? packed[at + byteOf(i, lane)] - 128
        : (packed[at + (i >> 3) * 32 + 4 * lane + (i & 3)] >> (i & 4) & 15) - 8;
      target[start + i] = q * scale;
    }
  }
}

/** Writes rows of a quantised weight in linear memory, times `factor`, to `target`, as f32. */
export function unpackRows(
  memory: LinearMemory,
  table: Tensor,
  quantization: Quantization,
  rows: Iterable<number>,
  factor: number,
  target: Float32Array,
): void {
  const inDim = table.shape[1];
  const packed = memory.bytes(at(table), packedBytes(table.shape, quantization));
  let i = 0;
  for (const row of rows) {
    unpackRow(packed, inDim, quantization, row, factor, target.subarray(i * inDim, (i + 1) * inDim));
    i++;
  }
}
