/**
 * Checks of arguments that several operations share, and how they make their results. Each check throws the library's
 * typed errors; see `errors.ts`.
 *
 * @module
 */
import type { DType, FloatType } from "./dtype.ts";
import { rangeError, typeError } from "./errors.ts";
import { checkShape } from "./shape.ts";
import { type Backend, checkTensor, type Tensor } from "./tensor.ts";

/** Checks a tensor and its shape; see {@linkcode checkTensor} and {@linkcode checkShape}. */
export function checkOperand(
  operation: string,
  name: string,
  value: unknown,
  dtypes: readonly DType[],
  backend: Backend | undefined,
  expected: readonly (number | undefined)[],
  wording: string,
): readonly number[] {
  const shape = checkTensor(operation, name, value, dtypes, backend);
  checkShape(operation, name, shape, expected, wording);
  return shape;
}

/** Checks that options are an object; `null` is none. */
export function checkOptions(operation: string, options: unknown): void {
  if (typeof options !== "object" || options === null) {
    typeError(operation, "options must be an object", options);
  }
}

/** Checks that a number is finite. */
export function checkFinite(operation: string, name: string, value: unknown): void {
  if (typeof value !== "number") typeError(operation, `${name} must be a number`, value);
  if (!Number.isFinite(value)) rangeError(operation, `${name} must be finite`, value);
}

/** Checks that a value is an array of whatever `what` says. */
export function checkArray(
  operation: string,
  name: string,
  value: unknown,
  what: string,
): asserts value is ArrayLike<number> {
  if (
    value === null || typeof value !== "object" || typeof (value as { length?: unknown }).length !== "number"
  ) {
    typeError(operation, `${name} must be an array of ${what}`, value);
  }
}

/** Checks integers from 0 to limit − 1, and copies them. */
export function checkIndices(
  operation: string,
  name: string,
  values: ArrayLike<number>,
  limit: number,
): Uint32Array {
  checkArray(operation, name, values, "integers");
  for (let i = 0; i < values.length; i++) {
    if (!Number.isInteger(values[i]) || values[i] < 0 || values[i] >= limit) {
      rangeError(operation, `${name} must be integers from 0 to ${limit - 1}`, values[i], `index ${i}`);
    }
  }
  return Uint32Array.from(values);
}

/** Checks that no index comes twice. */
export function checkDistinct(operation: string, name: string, indices: Uint32Array): void {
  if (new Set(indices).size !== indices.length) {
    rangeError(operation, `${name} must differ from one another`, indices);
  }
}

/** Makes a result, has it written, and gives it back if that fails. */
export function result(
  backend: Backend,
  shape: readonly number[],
  dtype: FloatType,
  write: (output: Tensor) => void,
): Tensor {
  const output = backend.empty(shape, dtype);
  try {
    write(output);
    return output;
  } catch (error) {
    output.dispose();
    throw error;
  }
}

/** Makes several results, has them written, and gives them back if that fails. */
export function results<K extends string>(
  backend: Backend,
  shapes: Readonly<Record<K, readonly number[]>>,
  dtypes: Readonly<Partial<Record<K, FloatType>>>,
  write: (outputs: Record<K, Tensor>) => void,
): Record<K, Tensor> {
  const outputs = {} as Record<K, Tensor>;
  try {
    for (const name in shapes) outputs[name] = backend.empty(shapes[name], dtypes[name] ?? "f32");
    write(outputs);
    return outputs;
  } catch (error) {
    for (const name in outputs) outputs[name].dispose();
    throw error;
  }
}

/** Checks the number of threads that a backend is asked for; undefined is 1. */
export function checkThreads(operation: string, threads: unknown): void {
  if (threads === undefined || threads === "auto") return;
  if (!Number.isInteger(threads) || (threads as number) < 1) {
    rangeError(operation, `threads must be an integer >= 1 or "auto"`, threads);
  }
}
