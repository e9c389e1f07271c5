/**
 * Error grammar and error types of the library.
 *
 * Every message names the function, the argument, what was expected and what came:
 * `Cannot run lightningAttention as slopes must be >= 0: current value is -0.1 (head 3)`.
 *
 * @module
 */

/** A value for people: strings quoted, arrays in brackets, everything else as it prints. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value) || ArrayBuffer.isView(value)) {
    const items = Array.from(value as unknown as ArrayLike<unknown>);
    return `[${items.slice(0, 8).map(show).join(", ")}${items.length > 8 ? ", ..." : ""}]`;
  }
  if (typeof value === "function") return `function ${value.name}`;
  if (typeof value === "object" && value !== null) return value.constructor?.name ?? "object";
  return String(value);
}

/** The message of every argument error; `detail` says where in the argument, for example `head 3`. */
export function message(operation: string, expectation: string, current: unknown, detail?: string): string {
  return `Cannot run ${operation} as ${expectation}: current value is ${show(current)}${
    detail === undefined ? "" : ` (${detail})`
  }`;
}

/** Throws the `RangeError` for a value outside what the operation takes. */
export function rangeError(
  operation: string,
  expectation: string,
  current: unknown,
  detail?: string,
): never {
  throw new RangeError(message(operation, expectation, current, detail));
}

/** Throws the `TypeError` for a value of the wrong kind. */
export function typeError(operation: string, expectation: string, current: unknown, detail?: string): never {
  throw new TypeError(message(operation, expectation, current, detail));
}

/**
 * A backend could not be created, was lost, ran out of memory or refused a command.
 *
 * `reason` says which: `"unavailable"` (asked for by name and not to be had), `"lost"` (the device is gone: create a
 * new backend and restore from a snapshot), `"out-of-memory"` (dispose tensors, or use shorter segments),
 * `"validation"` (the device refused a command: a defect worth reporting) or `"disposed"` (used after `dispose()`).
 */
export class BackendError extends Error {
  /** What went wrong. */
  readonly reason: "unavailable" | "lost" | "out-of-memory" | "validation" | "disposed";

  /** An error with its reason, a sentence for people, and its cause if known. */
  constructor(reason: BackendError["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "BackendError";
    this.reason = reason;
  }
}
