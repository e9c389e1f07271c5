/**
 * Quantised weights: symmetric integers of 8 or 4 bits with one scale per group along the input.
 *
 * @module
 */
import { fromBfloat16, toBfloat16 } from "./bfloat16.ts";
import { checkDimensions } from "./shape.ts";
import { rangeError, typeError } from "./errors.ts";

/** How a weight is quantised. */
export interface Quantization {
  /** Bits of an element. */
  readonly bits: 8 | 4;
  /** Elements along the input that share a scale; the last group of a row may be shorter. */
  readonly group: 32 | 64;
}

/** A quantised weight on the host: `weight[o][i] = integer[o][i] · scale[o][⌊i / group⌋]`. */
export interface QuantizedWeight extends Quantization {
  /** `[out, in]`. */
  readonly shape: readonly number[];
  /**
   * Integers, row by row. 8 bits: −127 to 127 in two's complement. 4 bits: −8 to 7, stored with 8 added, two to a byte,
   * the first in the low half; a row of odd length ends with half a byte.
   */
  readonly values: Uint8Array;
  /** Scales, `[out, ⌈in / group⌉]`, the bits of bfloat16: the upper half of an f32. */
  readonly scales: Uint16Array;
}

/** Bytes of the integers of a row, and number of its scales. */
export function quantizedRow(
  inDim: number,
  { bits, group }: Quantization,
): { bytes: number; groups: number } {
  return { bytes: Math.ceil(inDim * bits / 8), groups: Math.ceil(inDim / group) };
}

/**
 * The integers that the largest element of a group may become. With 4 bits, the one that leaves the smallest squared
 * error is taken; an integer below −8 is clipped, which makes the others finer.
 */
const LARGEST = { 8: [127], 4: [-8, -7, -7.5, -8.5, -9, -9.5] } as const;

/**
 * Quantises a weight.
 *
 * @param data elements, row-major
 * @param shape `[out, in]`
 * @param quantization `bits`: 8 or 4; `group`: 32 (default) or 64
 *
 * @example
 * ```ts
 * import { createBackend, quantize } from "@levin/attention";
 * import { linear } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * const data = Float32Array.from({ length: 128 * 64 }, (_, i) => Math.sin(i));
 * using weight = backend.quantized(quantize(data, [128, 64], { bits: 4 }));
 * using x = backend.tensor(new Float32Array(64).fill(1), [1, 64]);
 * using y = linear(x, weight);
 * assert.deepEqual(y.shape, [1, 128]);
 * ```
 *
 * @throws {TypeError} when `data` is no `Float32Array`
 * @throws {RangeError} when an element is not finite, or bits, group or shape do not match
 */
export function quantize(
  data: Float32Array,
  shape: readonly number[],
  { bits, group = 32 }: { bits: 8 | 4; group?: 32 | 64 },
): QuantizedWeight {
  if (!(data instanceof Float32Array)) typeError("quantize", "data must be a Float32Array", data);
  const quantizer = new Quantizer(shape, { bits, group });
  checkDimensions("quantize", shape, data.length);
  quantizer.add(data);
  return quantizer.finish();
}

/** Quantises a weight whose elements come in pieces, in order: of the elements only a row that is not whole is kept. */
export class Quantizer {
  readonly #weight: QuantizedWeight;
  /** The row that is coming, where a piece ended within it. */
  readonly #row: Float32Array;
  /** Elements that have come. */
  #count = 0;

  readonly #name: string;

  /** @param shape `[out, in]` @param name of the weight, in messages */
  constructor(shape: readonly number[], quantization: Quantization, name = "data") {
    checkQuantization("quantize", shape, quantization);
    checkDimensions("quantize", shape);
    const { bits, group } = quantization, [outDim, inDim] = shape;
    const { bytes, groups } = quantizedRow(inDim, quantization);
    const values = new Uint8Array(outDim * bytes), scales = new Uint16Array(outDim * groups);
    this.#weight = { shape: [...shape], bits, group, values, scales };
    this.#row = new Float32Array(inDim);
    this.#name = name;
  }

  /** Takes the next elements, row by row; they must be finite. */
  add(elements: Float32Array): void {
    const inDim = this.#row.length;
    for (let at = 0; at < elements.length;) {
      const row = Math.floor(this.#count / inDim), begun = this.#count % inDim;
      const part = elements.subarray(at, at + inDim - begun);
      at += part.length;
      this.#count += part.length;
      if (part.length === inDim) this.#quantize(row, part);
      else {
        this.#row.set(part, begun);
        if (begun + part.length === inDim) this.#quantize(row, this.#row);
      }
    }
  }

  /** The weight, once all elements have come. */
  finish(): QuantizedWeight {
    return this.#weight;
  }

  /** Writes integers and scales of a row. */
  #quantize(o: number, row: Float32Array): void {
    const { bits, group, values, scales } = this.#weight;
    const { bytes, groups } = quantizedRow(row.length, { bits, group });
    for (let g = 0; g < groups; g++) {
      const from = g * group, to = Math.min(from + group, row.length);
      let most = 0;
      for (let i = from; i < to; i++) {
        const value = row[i];
        if (!Number.isFinite(value)) {
          rangeError("quantize", `${this.#name} must be finite`, value, `row ${o}`);
        }
        if (Math.abs(value) > Math.abs(most)) most = value;
      }
      let best = 0, least = Infinity;
      for (const largest of LARGEST[bits]) {
        const candidate = toBfloat16(most / largest);
        const error = bits === 8 ? 0 : squaredError(row, from, to, fromBfloat16(candidate), least);
        if (error < least) [best, least] = [candidate, error];
      }
      scales[o * groups + g] = best;
      const scale = fromBfloat16(best);
      if (scale === 0) {
        if (bits === 4) {
          for (let i = from; i < to; i++) values[o * bytes + (i >> 1)] |= 8 << (i & 1 ? 4 : 0);
        }
      } else if (bits === 8) {
        for (let i = from; i < to; i++) {
          values[o * bytes + i] = Math.max(-127, Math.min(127, Math.floor(row[i] / scale + 0.5)));
        }
      } else {
        for (let i = from; i < to; i++) {
          values[o * bytes + (i >> 1)] |= (integer4(row[i], scale) + 8) << (i & 1 ? 4 : 0);
        }
      }
    }
  }
}

/**
 * Integer of 4 bits; the scale is not zero. `Math.round` takes three times as long, and gives the same: between a quotient
 * of f32 by bfloat16 and a half lies at least a step of f32.
 */
function integer4(value: number, scale: number): number {
  const q = Math.floor(value / scale + 0.5);
  return q > 7 ? 7 : q < -8 ? -8 : q;
}

/** Squared error of a group with 4 bits, or more than `least` as soon as it is more. */
function squaredError(row: Float32Array, from: number, to: number, scale: number, least: number): number {
  let sum = 0;
  for (let i = from; i < to && sum < least; i++) {
    const error = row[i] - (scale === 0 ? 0 : scale * integer4(row[i], scale));
    sum += error * error;
  }
  return sum;
}

/** The integers of one row of a weight. */
export function rowIntegers({ shape, values, bits, group }: QuantizedWeight, row: number): Int8Array {
  const inDim = shape[1], { bytes } = quantizedRow(inDim, { bits, group });
  if (bits === 8) return new Int8Array(values.buffer, values.byteOffset + row * bytes, bytes);
  const integers = new Int8Array(inDim);
  for (let i = 0; i < inDim; i++) {
    integers[i] = (values[row * bytes + (i >> 1)] >> (i & 1 ? 4 : 0) & 15) - 8;
  }
  return integers;
}

/** The elements that a quantised weight stands for. */
export function dequantize(weight: QuantizedWeight): Float32Array {
  const [outDim, inDim] = checkQuantized("dequantize", weight);
  const groups = Math.ceil(inDim / weight.group);
  const data = new Float32Array(outDim * inDim);
  for (let o = 0; o < outDim; o++) {
    const integers = rowIntegers(weight, o);
    for (let i = 0; i < inDim; i++) {
      const scale = fromBfloat16(weight.scales[o * groups + Math.floor(i / weight.group)]);
      data[o * inDim + i] = integers[i] * scale;
    }
  }
  return data;
}

/** Checks a quantised weight, which may come from a file, and returns its shape. */
export function checkQuantized(operation: string, weight: QuantizedWeight): readonly number[] {
  if (typeof weight !== "object" || weight === null) {
    typeError(operation, "weight must be a QuantizedWeight, made by quantize()", weight);
  }
  const { shape, values, scales } = weight;
  checkQuantization(operation, shape, weight);
  checkDimensions(operation, shape);
  const { bytes, groups } = quantizedRow(shape[1], weight);
  if (!(values instanceof Uint8Array)) typeError(operation, "values must be a Uint8Array", values);
  if (!(scales instanceof Uint16Array)) typeError(operation, "scales must be a Uint16Array", scales);
  if (values.length !== shape[0] * bytes) {
    rangeError(operation, `values must hold ${shape[0] * bytes} bytes`, values.length, `shape [${shape}]`);
  }
  if (scales.length !== shape[0] * groups) {
    rangeError(operation, `scales must hold ${shape[0] * groups}`, scales.length, `shape [${shape}]`);
  }
  return shape;
}

function checkQuantization(operation: string, shape: readonly number[], { bits, group }: Quantization): void {
  if (bits !== 8 && bits !== 4) rangeError(operation, "bits must be 8 or 4", bits);
  if (group !== 32 && group !== 64) rangeError(operation, "group must be 32 or 64", group);
  if (!Array.isArray(shape)) typeError(operation, "shape must be an array of integers >= 0", shape);
  if (shape.length !== 2) rangeError(operation, "shape must be [out, in]", shape);
}
