/**
 * How the matrices of a model are stored, in a file or on a backend: the embedding, those of linear layers, `lm_head`.
 * Norms, θ and biases are small and stay as they are.
 *
 * @module
 */
import { toBfloat16s } from "../core/bfloat16.ts";
import type { DType } from "../core/dtype.ts";
import { rangeError } from "../core/errors.ts";
import { toHalf } from "../core/half.ts";

/** Whether a matrix is stored as integers. */
export function isInteger(type: DType): type is "int8" | "int4" {
  return type === "int8" || type === "int4";
}

/** Bits of an integer. */
export function bitsOf(type: "int8" | "int4"): 8 | 4 {
  return type === "int8" ? 8 : 4;
}

/**
 * How one matrix is stored where all are asked to be `type`. An embedding that does not serve as `lm_head` keeps 8 bits
 * with int4: it costs nothing but its size, as one row is read per token.
 */
export function matrixType(name: string, type: DType, tied: boolean): DType {
  return type === "int4" && name.startsWith("model.embed_tokens.") && !tied ? "int8" : type;
}

/**
 * The nearest elements of 16 bits, as bits.
 *
 * @throws {RangeError} when a value is not finite or too large
 */
export function to16Bits(
  operation: string,
  values: Float32Array,
  type: "bf16" | "f16",
  name: string,
): Uint16Array<ArrayBuffer> {
  // Infinity and NaN have all bits of the exponent set.
  const exponent = type === "f16" ? 0x7c00 : 0x7f80;
  const bits = type === "f16" ? toHalf(values) : toBfloat16s(values);
  bits.forEach((word, i) => {
    if ((word & exponent) !== exponent) return;
    rangeError(operation, `weights must be finite and fit into ${type}`, values[i], name);
  });
  return bits;
}
