/**
 * The model, as OpenAI's clients ask for it.
 *
 * @module
 */
import { Hono } from "hono";
import { ApiError } from "../errors.ts";
import type { Env, Service } from "../service.ts";

/** `GET /v1/models` and `GET /v1/models/<name>`. */
export function models(service: Service): Hono<Env> {
  return new Hono<Env>()
    .get("/v1/models", async (c) => c.json({ object: "list", data: [await card(service)] }))
    // Names may hold slashes, escaped or not.
    .get("/v1/models/:name{.+}", async (c) => {
      checkName(c.req.param("name"), service);
      return c.json(await card(service));
    });
}

/** Throws an `ApiError` if a client asks for another model. */
export function checkName(asked: string | undefined, { name }: Service): void {
  if (asked !== undefined && asked !== name) {
    throw new ApiError(404, `There is no model ${JSON.stringify(asked)}`, {
      param: "model",
      code: "model_not_found",
    });
  }
}

async function card({ engine, name, created, checkpoint }: Service) {
  const { model, stateBytes } = await engine;
  const { vocabSize, layers, hiddenDim } = model.config;
  return {
    id: name,
    object: "model",
    created,
    owned_by: "levin",
    parameters: model.parameterCount,
    vocab_size: vocabSize,
    state_bytes: stateBytes,
    // What softmax attention of the same size would keep of each token: key and value of every layer, in f32.
    cache_bytes_per_token: 2 * 4 * layers * hiddenDim,
    backend: model.backend.name,
    files: checkpoint !== undefined,
  };
}
