/**
 * Serving a model without the page: what `@levin/attention/serve` exports, for programs whose bundle should not hold what
 * browsers load, kernels for both backends among it. `GET /` is 404.
 *
 * @module
 */
import { type Handler, type HandlerOptions, makeHandler } from "./handler.ts";

export type { Handler, HandlerOptions } from "./handler.ts";
export type { Limits } from "./limits.ts";
export { openStore } from "./stores/mod.ts";
export { type ObjectNamespace, type ObjectStorage, objectStore, SessionObject } from "./stores/objects.ts";
export type { SessionStore, Versioned } from "./stores/store.ts";
export type { SessionStorage } from "./stores/unstorage.ts";

/**
 * A handler that answers from a model, in OpenAI's protocol: `createHandler()` of `@levin/attention/serve`, which lists its
 * routes, without the page at `/`.
 *
 * @throws {TypeError} when an option is of the wrong kind @throws {RangeError} when a limit is out of range
 */
export function createHandler(options: HandlerOptions): Handler {
  return makeHandler(options);
}
