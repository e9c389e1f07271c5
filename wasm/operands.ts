/**
 * Tensors as the kernels see them: byte offsets into linear memory.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";

/** Where an element of a tensor lies in linear memory; 0 for no tensor. */
export function at(tensor: Tensor | undefined, element = 0): number {
  return tensor === undefined ? 0 : tensor.storage as number + 4 * element;
}

/** The next multiple. */
export function roundUp(n: number, multiple: number): number {
  return Math.ceil(n / multiple) * multiple;
}
