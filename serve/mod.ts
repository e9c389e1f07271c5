/**
 * Serving a model over HTTP, from a server or an edge function: OpenAI's protocol, and sessions of fixed size.
 *
 * @module
 */
import { type Handler, type HandlerOptions, makeHandler } from "./handler.ts";
import { page } from "./page/mod.ts";

export type { Handler, HandlerOptions } from "./handler.ts";
export type { Limits } from "./limits.ts";
export { openStore } from "./stores/mod.ts";
export type { SessionStore, Versioned } from "./stores/store.ts";
export { type ObjectNamespace, type ObjectStorage, objectStore, SessionObject } from "./stores/objects.ts";
export type { SessionStorage } from "./stores/unstorage.ts";

/**
 * A handler that answers from a model, in OpenAI's protocol.
 *
 * | route | |
 * |---|---|
 * | `POST /v1/completions`, `POST /v1/chat/completions` | answers, whole or streamed; `session` continues an earlier one |
 * | `GET /v1/models`, `GET /v1/models/<name>` | the model |
 * | `GET`, `DELETE /v1/sessions/<id>` | a session of the key that made it |
 * | `POST /v1/sessions/<id>/stop` | ends the answer that is being written in a session; its text so far counts |
 * | `POST /v1/sessions/<id>/fork` | another session, of the id in the body, that continues where this one stands |
 * | `GET /` | a page to try it |
 * | `GET /model/<file>` | the model's files, if `checkpoint` is given |
 * | `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info` | the tokenizer |
 * | `GET /health`, `GET /ready` | whether the process lives, whether it can answer; without a key |
 * | `GET /metrics` | Prometheus |
 *
 * Spans go to OpenTelemetry if the host has set it up; in Deno by `OTEL_DENO=true`.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * import { createBackend } from "@levin/attention";
 * import { createHandler } from "@levin/attention/serve";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * const handler = createHandler({ model });
 * const response = await handler(
 *   new Request("http://localhost/v1/completions", {
 *     method: "POST",
 *     headers: { "content-type": "application/json" },
 *     body: JSON.stringify({ prompt: [5, 17, 9], max_tokens: 4, temperature: 0, session: "mine" }),
 *   }),
 * );
 * assert.equal(response.status, 200);
 * assert.equal((await response.json()).usage.completion_tokens, 4);
 * await handler.close();
 * ```
 *
 * @throws {TypeError} when an option is of the wrong kind @throws {RangeError} when a limit is out of range
 */
export function createHandler(options: HandlerOptions): Handler {
  return makeHandler(options, page());
}
