/**
 * The model, as OpenAI's clients ask for it.
 *
 * @module
 */
import { Hono } from "hono";
import { ApiError, report } from "../errors.ts";
import { type Introduction, readIntroduction } from "../page/files.ts";
import type { Env, Service } from "../service.ts";

/** `GET /v1/models` and `GET /v1/models/<name>`. */
export function models(service: Service): Hono<Env> {
  let introduction: Promise<Introduction> | undefined;
  const card = async () => await describe(service, await (introduction ??= introduce(service)));
  return new Hono<Env>()
    .get("/v1/models", async (c) => c.json({ object: "list", data: [await card()] }))
    // Names may hold slashes, escaped or not.
    .get("/v1/models/:name{.+}", async (c) => {
      checkName(c.req.param("name"), service);
      return c.json(await card());
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

/** What the model's folder says of the model. If that cannot be read, the host is told, and clients get the rest. */
async function introduce({ checkpoint }: Service): Promise<Introduction> {
  try {
    return checkpoint === undefined ? {} : await readIntroduction(checkpoint);
  } catch (error) {
    report(error);
    return {};
  }
}

async function describe(service: Service, introduction: Introduction) {
  const { engine, name, created, checkpoint, limits } = service;
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
    max_tokens: limits.maxTokens,
    chat_template: service.chatTemplate ?? model.tokenizer?.chatTemplate() ?? null,
    files: checkpoint !== undefined,
    ...introduction,
  };
}
