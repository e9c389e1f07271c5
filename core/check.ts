/**
 * Checks that several operations share. Each throws the library's typed errors; see `errors.ts`.
 *
 * @module
 */
import type { Backend } from "./backend.ts";
import { rangeError, typeError } from "./errors.ts";
import { elementCount, Tensor } from "./tensor.ts";

/**
 * Checks that a value is a live tensor of the backend of the first one, and returns its shape. Quantised weights pass
 * only where the operation reads them as such.
 */
export function checkTensor(
  operation: string,
  name: string,
  value: unknown,
  backend?: Backend,
  { quantized = false }: { quantized?: boolean } = {},
): readonly number[] {
  if (!(value instanceof Tensor)) typeError(operation, `${name} must be a Tensor`, value);
  if (value.quantization !== undefined && !quantized) {
    typeError(
      operation,
      `${name} must not be quantised`,
      `${value.quantization.bits} bits`,
      "only linear's weight and embedding's table may be; backend.tensor(await x.data(), x.shape) is not",
    );
  }
  value.storage; // throws when disposed
  if (backend !== undefined && value.backend !== backend) {
    typeError(
      operation,
      `${name} must belong to the same backend as the other tensors, ${backend.name}`,
      value.backend.name,
      "copy it with backend.tensor(await x.data(), x.shape)",
    );
  }
  return value.shape;
}

/** Checks a shape; `undefined` in `expected` lets any size pass. */
export function checkShape(
  operation: string,
  name: string,
  shape: readonly number[],
  expected: readonly (number | undefined)[],
  wording: string,
): void {
  let fits = shape.length === expected.length;
  // A loop, as methods of frozen arrays are slow, and a token checks some hundred shapes.
  for (let axis = 0; axis < expected.length; axis++) {
    if (expected[axis] !== undefined && expected[axis] !== shape[axis]) fits = false;
  }
  if (!fits) {
    const sizes = expected.every((n) => n !== undefined) ? ` = [${expected.join(", ")}]` : "";
    rangeError(operation, `${name} must have shape ${wording}${sizes}`, shape);
  }
}

/** Checks dimensions given by the caller, and the number of elements where data comes with them. */
export function checkDimensions(operation: string, shape: readonly number[], size?: number): void {
  if (!Array.isArray(shape)) typeError(operation, "shape must be an array of integers >= 0", shape);
  for (const n of shape) {
    if (!Number.isSafeInteger(n) || n < 0) {
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

/** Checks that a number is finite. */
export function checkFinite(operation: string, name: string, value: unknown): void {
  if (typeof value !== "number") typeError(operation, `${name} must be a number`, value);
  if (!Number.isFinite(value)) rangeError(operation, `${name} must be finite`, value);
}

/** Size of the last dimension. */
export function checkRows(operation: string, name: string, x: Tensor): number {
  if (x.shape.length < 1) rangeError(operation, `${name} must have at least one dimension`, x.shape);
  return x.shape[x.shape.length - 1];
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

/** Checks integers from 0 to limit − 1. */
export function checkIndices(
  operation: string,
  name: string,
  values: ArrayLike<number>,
  limit: number,
): Uint32Array {
  if (values === null || typeof values !== "object" || typeof values.length !== "number") {
    typeError(operation, `${name} must be an array of integers`, values);
  }
  for (let i = 0; i < values.length; i++) {
    if (!Number.isInteger(values[i]) || values[i] < 0 || values[i] >= limit) {
      rangeError(operation, `${name} must be integers from 0 to ${limit - 1}`, values[i], `index ${i}`);
    }
  }
  return Uint32Array.from(values);
}
