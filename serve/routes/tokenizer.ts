/**
 * The model's tokenizer, for clients that count tokens or score texts.
 *
 * @module
 */
import { Hono } from "hono";
import { readJson } from "../body.ts";
import { invalid } from "../errors.ts";
import { tokenName } from "../openai.ts";
import { checkTexts, encode, renderChat, tokenizerOf } from "../prompts.ts";
import { detokenizeSchema, tokenizeSchema } from "../schema.ts";
import type { Env, Service } from "../service.ts";

/** `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`. */
export function tokenizer(service: Service): Hono<Env> {
  const { limits } = service;
  const detokenizeBody = detokenizeSchema(limits);
  return new Hono<Env>()
    .post("/tokenize", async (c) => {
      const body = await readJson(c, tokenizeSchema);
      const { model } = await service.engine;
      const [text, addSpecialTokens] = "messages" in body
        ? [renderChat(model, body, body.add_generation_prompt ?? true, service.chatTemplate), false]
        : [body.prompt, body.add_special_tokens ?? true];
      checkTexts([text], limits);
      const tokens = encode(model, text, addSpecialTokens);
      // Others give a model's longest sequence here; a state of fixed size has none but the server's limit.
      return c.json({ count: tokens.length, max_model_len: limits.requestTokens, tokens });
    })
    .post("/detokenize", async (c) => {
      const { tokens } = await readJson(c, detokenizeBody);
      const { model } = await service.engine;
      const { vocabSize } = model.config;
      const outside = tokens.find((id) => id >= vocabSize);
      if (outside !== undefined) {
        throw invalid("tokens", `tokens: must be below ${vocabSize}, not ${outside}`);
      }
      return c.json({ prompt: tokenizerOf(model).decode(tokens, { specialTokens: true }) });
    })
    .get("/tokenizer_info", async (c) => {
      const { model } = await service.engine;
      const { bosTokenId, eosTokenIds } = model.config;
      const tokenizer = tokenizerOf(model);
      const nameOf = (id: number | undefined) => id === undefined ? null : tokenName(tokenizer, id);
      return c.json({
        bos_token: nameOf(bosTokenId),
        eos_token: nameOf(eosTokenIds[0]),
        ...tokenizer.config,
      });
    });
}
