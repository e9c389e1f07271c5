/**
 * Serving a model over HTTP, from a server or an edge function: OpenAI's protocol, and sessions of fixed size.
 *
 * @module
 */
export { createHandler, type Handler, type HandlerOptions } from "./handler.ts";
export type { Limits } from "./limits.ts";
export { openStore } from "./stores/mod.ts";
export type { SessionStore, Versioned } from "./stores/store.ts";
export { type ObjectNamespace, type ObjectStorage, objectStore, SessionObject } from "./stores/objects.ts";
export type { SessionStorage } from "./stores/unstorage.ts";
