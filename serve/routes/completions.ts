/**
 * Answers: text completions and chat completions, whole or streamed.
 *
 * @module
 */
import { type Context, Hono } from "hono";
import type { Part, PartSink } from "../answer.ts";
import { readJson } from "../body.ts";
import { begin, type Completion, type Outcome } from "../completion.ts";
import { Deadline } from "../deadline.ts";
import { ApiError, report } from "../errors.ts";
import { inTurn } from "../gate.ts";
import { chatShape, type Shape, textShape } from "../openai.ts";
import { chatText, type Prompt, textPrompts, tokenizerOf } from "../prompts.ts";
import { type Chat, chatSchema, completionSchema, type Generation } from "../schema.ts";
import type { Engine, Env, Service } from "../service.ts";
import type { Lease } from "../sessions.ts";
import { eventStream, PartQueue } from "../stream.ts";
import { startSpan } from "../tracing.ts";
import { checkName } from "./models.ts";

/** `POST /v1/completions` and `POST /v1/chat/completions`. */
export function completions(service: Service): Hono<Env> {
  const { limits, name } = service;
  const completionBody = completionSchema(limits), chatBody = chatSchema(limits); // costly to make: once
  const app = new Hono<Env>();

  app.post("/v1/completions", async (c) => {
    const body = await readJson(c, completionBody, service);
    checkName(body.model, service);
    const engine = await service.engine;
    const { model } = engine;
    if (body.stop.length > 0) tokenizerOf(model);
    const { logprobs, echo } = body;
    const shape = textShape({
      model: name,
      tokenizer: model.tokenizer,
      withLogprobs: logprobs !== undefined,
      withUsage: body.stream_options?.include_usage ?? false,
    });
    return await answer(c, service, engine, shape, body, async (isContinued) => ({
      prompts: await textPrompts(engine, c.get("owner"), body.prompt, {
        addSpecialTokens: !isContinued,
        withText: echo,
      }),
      maxTokens: body.max_tokens,
      echo,
      logprobs,
      keepEnd: false,
    }));
  });

  app.post("/v1/chat/completions", async (c) => {
    const body = await readJson(c, chatBody, service);
    checkName(body.model, service);
    const engine = await service.engine;
    const { model } = engine;
    const logprobs = body.logprobs ? body.top_logprobs ?? 0 : undefined;
    const shape = chatShape({
      model: name,
      tokenizer: model.tokenizer,
      withLogprobs: logprobs !== undefined,
      withUsage: body.stream_options?.include_usage ?? false,
    });
    return await answer(c, service, engine, shape, body, async () => ({
      prompts: [await chatPrompt(engine, c.get("owner"), body, service.chatTemplate)],
      maxTokens: body.max_completion_tokens ?? body.max_tokens ?? Math.min(1024, limits.maxTokens),
      echo: false,
      logprobs,
      keepEnd: true,
    }));
  });

  // Clients that know only OpenAI's newest protocol learn here what to use instead.
  const noResponses = () => {
    throw new ApiError(
      404,
      "There is no Responses API here: use /v1/chat/completions (client.chat.completions), or /v1/completions " +
        "for a model without a chat template; a session takes the place of previous_response_id",
      { code: "unsupported_endpoint" },
    );
  };
  app.all("/v1/responses", noResponses).all("/v1/responses/*", noResponses);

  return app;
}

async function chatPrompt(
  engine: Engine,
  owner: string,
  chat: Chat,
  template: string | undefined,
): Promise<Prompt> {
  const text = await chatText(engine, owner, chat, true, template);
  return { ids: await engine.texts!.encode(owner, text, false), text };
}

/** What the two kinds of request differ in. */
type Asked = Pick<Completion, "prompts" | "maxTokens" | "echo" | "logprobs" | "keepEnd">;

/**
 * Answers a checked request: opens its session and a tracing span, streams if asked to, ends on timeout or disconnect.
 *
 * @param asked what is asked for, if the session is a new one or continues
 */
async function answer(
  c: Context<Env>,
  service: Service,
  engine: Engine,
  shape: Shape,
  options: Generation,
  asked: (isContinued: boolean) => Promise<Asked>,
): Promise<Response> {
  const { sessions, name, limits } = service;
  const place = service.admit();
  const span = startSpan(c.req.path, name);
  const deadline = new Deadline(c.req.raw.signal, limits.seconds);
  let lease: Lease | undefined;
  const release = () => {
    deadline[Symbol.dispose]();
    lease?.[Symbol.dispose]();
    place[Symbol.dispose]();
  };
  const fail = (error: unknown): never => {
    release();
    span.fail(error);
    throw error;
  };
  const succeed = (outcome: Outcome) => {
    release();
    span.end(outcome);
    return outcome;
  };

  let completion: Completion;
  let begun: Promise<Outcome>;
  const queue = new PartQueue(
    () => engine.scheduler.wake(),
    () => deadline.clientStalled(limits.stallSeconds),
    limits.stallSeconds,
  );
  const collected: Part[][] = [];
  const whole: PartSink = { push: (part) => void (collected[part.index] ??= []).push(part), isFull: false };
  try {
    if (options.session !== undefined) lease = await sessions.open(c.get("owner"), options.session);
    const wanted = await asked(lease?.stored !== undefined);
    completion = { ...wanted, owner: c.get("owner"), options, lease, stored: await lease?.read() };
    const sink = options.stream ? queue : whole;
    begun = begin(engine, completion, {
      push(part) {
        span.token();
        sink.push(part);
      },
      get isFull() {
        return sink.isFull;
      },
    }, deadline.signal);
    c.get("body")[Symbol.dispose](); // what is left of it is counted as tokens now
  } catch (error) {
    return fail(error);
  }
  const outcome = begun.then(succeed, fail);
  if (!options.stream) {
    const ended = await outcome;
    return await inTurn(() => c.json(shape.whole(collected, ended)));
  }
  outcome.catch(report).then(() => queue.end()); // the client, if it still reads, gets the error as an event
  const choices = completion.prompts.length * options.n;
  return eventStream(c, shape, queue, outcome, { choices, gone: deadline.clientGone });
}
