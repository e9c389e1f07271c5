/**
 * How elements are stored: the one list of storage types, and which of them an operation may take.
 *
 * @module
 */

/**
 * How elements are stored. Arithmetic accumulates in f32 whatever the storage. `"bf16"` is for weights: the upper half of
 * an f32, so that a product with it is the product with those f32, bit for bit. `"int8"` and `"int4"` are quantised
 * weights: integers with one scale per group, made by {@linkcode Backend.quantized}.
 */
export type DType = "f32" | "f16" | "bf16" | "int8" | "int4";

/** The types of plain elements, which `backend.tensor` stores. */
export type FloatType = Exclude<DType, "int8" | "int4">;

/** What training takes: gradients are computed from and in f32. */
export const F32: readonly DType[] = ["f32"];

/** What `backend.tensor` stores, as far as the machine can. */
export const PLAIN: readonly DType[] = ["f32", "f16", "bf16"];

/** What activations may be. */
export const FLOATS: readonly DType[] = ["f32", "f16"];

/** What the weight of `linear` and the table of `embedding` may be. */
export const WEIGHTS: readonly DType[] = ["f32", "f16", "bf16", "int8", "int4"];

/** Bytes of one plain element. */
export function elementBytes(dtype: FloatType): number {
  return dtype === "f32" ? 4 : 2;
}
