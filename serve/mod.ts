/**
 * Serving a model over HTTP, from a server or an edge function: OpenAI's protocol, and sessions of fixed size.
 *
 * @module
 */
export { createHandler, type Handler, type HandlerOptions } from "./handler.ts";
export type { Limits } from "./limits.ts";
export type { SessionStorage } from "./sessions.ts";
