/**
 * Tensors as the kernels see them: byte offsets into linear memory.
 *
 * @module
 */
import { elementBytes, type FloatType } from "../core/dtype.ts";
import type { Tensor } from "../core/tensor.ts";

/** Where an element of a plain tensor lies, or where any tensor begins; 0 for no tensor. */
export function at(tensor: Tensor | undefined, element = 0): number {
  return tensor === undefined
    ? 0
    : tensor.storage as number + element * elementBytes(tensor.dtype as FloatType);
}

/** The next multiple. */
export function roundUp(n: number, multiple: number): number {
  return Math.ceil(n / multiple) * multiple;
}
