/**
 * Shapes: counting, checking, joining. A shape lists dimensions, outermost first.
 *
 * @module
 */
import { rangeError, typeError } from "./errors.ts";

/** Number of elements of a shape. */
export function elementCount(shape: readonly number[]): number {
  let size = 1;
  for (let axis = 0; axis < shape.length; axis++) size *= shape[axis];
  return size;
}

/** Checks dimensions given by the caller, and the number of elements if data comes with them. */
export function checkDimensions(operation: string, shape: readonly number[], size?: number): void {
  if (!Array.isArray(shape)) typeError(operation, "shape must be an array of integers >= 0", shape);
  for (let axis = 0; axis < shape.length; axis++) {
    if (!Number.isSafeInteger(shape[axis]) || shape[axis] < 0) {
      rangeError(operation, "every dimension of shape must be an integer >= 0", shape);
    }
  }
  const product = elementCount(shape);
  if (!Number.isSafeInteger(product)) rangeError(operation, "shape must hold at most 2^53 elements", shape);
  if (size !== undefined && size !== product) {
    rangeError(
      operation,
      `data must hold ${product} elements, the product of shape`,
      size,
      `shape [${shape}]`,
    );
  }
}

/** Checks a shape; `undefined` in `expected` lets any size pass. */
export function checkShape(
  operation: string,
  name: string,
  shape: readonly number[],
  expected: readonly (number | undefined)[],
  wording: string,
): void {
  let matches = shape.length === expected.length;
  // A loop, because methods of frozen arrays are slow, and a token checks some hundred shapes.
  for (let axis = 0; axis < expected.length; axis++) {
    if (expected[axis] !== undefined && expected[axis] !== shape[axis]) matches = false;
  }
  if (!matches) {
    const sizes = expected.every((n) => n !== undefined) ? ` = [${expected.join(", ")}]` : "";
    rangeError(operation, `${name} must have shape ${wording}${sizes}`, shape);
  }
}

/** Size of the last dimension. */
export function lastDimension(operation: string, name: string, shape: readonly number[]): number {
  if (shape.length < 1) rangeError(operation, `${name} must have at least one dimension`, shape);
  return shape[shape.length - 1];
}

/** The shape with its last dimensions joined to `width`. */
export function joinTo(operation: string, shape: readonly number[], width: number): number[] {
  let joined = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    joined *= shape[axis];
    if (joined === width) {
      const result = [...shape];
      result.splice(axis, shape.length, width);
      return result;
    }
  }
  return rangeError(operation, "the last dimensions of x must multiply to width", shape, `width ${width}`);
}
