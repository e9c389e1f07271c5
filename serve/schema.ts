/**
 * Request bodies: what clients may send, with OpenAI's names and defaults. Unknown fields are ignored.
 *
 * Arrays are counted before anybody looks inside, and long ones are checked up to their first bad element: a schema error
 * per element of a hostile body would hold up everybody else.
 *
 * @module
 */
import { z } from "zod";
import { ApiError } from "./errors.ts";
import type { Limits } from "./limits.ts";

/** Maximum number of strings to stop at, and of characters in each: every token is compared with all of them. */
const STOPS = 64, STOP_CHARACTERS = 256;
const MESSAGES = 4096, TOOLS = 1024;

function isTokenIds(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((id) => Number.isSafeInteger(id) && id >= 0);
}

/** Text, token ids, or several of one of them. */
function isPrompt(value: unknown, { choices, requestTokens }: Limits): boolean {
  if (typeof value === "string") return true;
  if (!Array.isArray(value) || value.length === 0) return false;
  if (typeof value[0] === "number") return value.length <= requestTokens && isTokenIds(value);
  if (value.length > choices) return false;
  if (typeof value[0] === "string") return value.every((text) => typeof text === "string");
  return value.every((ids) => Array.isArray(ids) && ids.length > 0) &&
    value.reduce((sum, { length }) => sum + length, 0) <= requestTokens && value.every(isTokenIds);
}

/** An array of at most `max` elements, which are looked at up to the first bad one. */
const few = <T extends z.ZodType>(element: T, max: number, min = 0) =>
  z.custom<unknown[]>(
    (value) => Array.isArray(value) && value.length >= min && value.length <= max,
    `must be an array of ${min === 0 ? "" : `at least ${min} and `}at most ${max} elements`,
  ).transform((values, context): z.output<T>[] => {
    const checked: z.output<T>[] = [];
    for (const [i, value] of values.entries()) {
      const result = element.safeParse(value);
      if (!result.success) {
        const { path, message } = deepest(result.error.issues[0]);
        context.addIssue({ code: "custom", path: [i, ...path], message });
        return z.NEVER;
      }
      checked.push(result.data);
    }
    return checked;
  });

/** OpenAI's clients send null for a field that they omit. */
const optional = <T extends z.ZodType>(schema: T) =>
  schema.nullish().transform((value) => value ?? undefined);

const sessionId = z.string().min(1).max(256);

/** Fields of both kinds of generation. */
const generation = (limits: Limits) => ({
  model: optional(z.string().max(256)),
  temperature: optional(z.number().min(0).max(100)),
  top_p: optional(z.number().gt(0).max(1)),
  // Other servers write 0 or −1 for "all".
  top_k: optional(z.int().min(-1)).transform((k) => k === undefined ? undefined : k < 1 ? Infinity : k),
  min_p: optional(z.number().min(0).max(1)),
  repetition_penalty: optional(z.number().gt(0).max(100)),
  seed: optional(z.int()),
  stop: optional(z.union([z.string().max(STOP_CHARACTERS), few(z.string().max(STOP_CHARACTERS), STOPS)]))
    .transform((stop) => [stop ?? []].flat().filter((text) => text !== "")),
  n: optional(z.int().min(1).max(limits.choices)).transform((n) => n ?? 1),
  stream: optional(z.boolean()).transform((stream) => stream ?? false),
  stream_options: optional(z.object({ include_usage: optional(z.boolean()) })),
  /** Levin's own: continues where the last request of this session ended. */
  session: optional(sessionId),
});

/** `POST /v1/completions`. */
export const completionSchema = (limits: Limits) =>
  z.object({
    ...generation(limits),
    prompt: z.custom<string | number[] | string[] | number[][]>(
      (value) => isPrompt(value, limits),
      `must be text, token ids, or an array of one to ${limits.choices} of them, ` +
        `of at most ${limits.requestTokens} ids together`,
    ),
    max_tokens: optional(z.int().min(0).max(limits.maxTokens)).transform((n) =>
      n ?? Math.min(16, limits.maxTokens)
    ),
    echo: optional(z.boolean()).transform((echo) => echo ?? false),
    logprobs: optional(z.int().min(0).max(limits.logprobs)),
    best_of: optional(z.int()),
  })
    // More answers than are sent would be work that no limit counts. Older clients send the default, which is `n`.
    .refine(({ best_of, n }) => best_of === undefined || best_of === n, {
      path: ["best_of"],
      message: "must be n or absent: answers that are not sent are not written",
    });

/** A call as a message of the assistant has it. */
const toolCall = z.looseObject({
  id: optional(z.string()),
  type: optional(z.string()),
  function: z.looseObject({
    name: z.string(),
    // OpenAI's clients send JSON as text; templates are written for what it stands for.
    arguments: optional(z.union([z.string().transform(parsedArguments), z.record(z.string(), z.unknown())])),
  }),
});

/** Only the assistant may say nothing: when it calls tools. Templates get an empty text then. */
const content = z.union([
  z.string(),
  few(z.object({ type: z.literal("text"), text: z.string() }), MESSAGES)
    .transform((parts) => parts.map(({ text }) => text).join("")),
]);

/** Fields that are not named here reach the template as they are. */
const message = z.union([
  z.looseObject({
    role: z.literal("assistant"),
    content: content.nullish().transform((text) => text ?? ""),
    tool_calls: few(toolCall, TOOLS, 1),
  }),
  z.looseObject({
    role: z.string().min(1).max(64),
    content,
    name: optional(z.string()),
    tool_call_id: optional(z.string()),
    tool_calls: optional(few(toolCall, TOOLS)),
  }),
]);

const messages = few(message, MESSAGES, 1);

/** What a model may call, as its template describes it to the model. */
const tools = optional(few(z.looseObject({}), TOOLS)).transform((tools) =>
  tools?.length === 0 ? undefined : tools
);

function parsedArguments(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : text;
  } catch {
    return text; // models write what is not JSON, and clients send it back
  }
}

/** `POST /v1/chat/completions`. */
export const chatSchema = (limits: Limits) =>
  z.object({
    ...generation(limits),
    messages,
    tools,
    max_tokens: optional(z.int().min(1).max(limits.maxTokens)),
    max_completion_tokens: optional(z.int().min(1).max(limits.maxTokens)),
    logprobs: optional(z.boolean()),
    top_logprobs: optional(z.int().min(0).max(limits.logprobs)),
  });

/** `POST /tokenize`: text, or messages of a chat. */
export const tokenizeSchema = z.union([
  z.object({ prompt: z.string(), add_special_tokens: optional(z.boolean()) }),
  z.object({ messages, tools, add_generation_prompt: optional(z.boolean()) }),
]);

/** `POST /detokenize`. */
export const detokenizeSchema = ({ characters }: Limits) =>
  z.object({
    tokens: z.custom<number[]>(
      (value) => Array.isArray(value) && value.length <= characters && isTokenIds(value),
      `must be at most ${characters} token ids`,
    ),
  });

/** `POST /v1/sessions/<id>/fork`: the id of the new session. */
export const forkSchema = z.object({ id: sessionId });

/** What both kinds of generation have in common. */
export type Generation = Omit<
  z.output<ReturnType<typeof completionSchema>>,
  "prompt" | "echo" | "logprobs" | "max_tokens" | "best_of"
>;
/** What a template makes a text of. */
export type Chat = Pick<z.output<ReturnType<typeof chatSchema>>, "messages" | "tools">;

/**
 * Checks a body.
 *
 * @throws {ApiError} 400 that names the field
 */
export function checkBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = deepest(result.error.issues[0]);
  const param = issue.path.map(String).join(".") || null;
  throw new ApiError(400, param === null ? issue.message : `${param}: ${issue.message}`, {
    param,
    code: "invalid_value",
  });
}

/** Of the alternatives of a union, the complaint of the one that came closest. */
function deepest(
  issue: z.core.$ZodIssue,
  path: PropertyKey[] = [],
): { path: PropertyKey[]; message: string } {
  const at = [...path, ...issue.path];
  if (issue.code !== "invalid_union" || issue.errors.length === 0) {
    return { path: at, message: issue.message };
  }
  const inner = issue.errors.filter((issues) => issues.length > 0).map((issues) => deepest(issues[0], at));
  const depth = Math.max(0, ...inner.map((issue) => issue.path.length));
  return depth > at.length
    ? inner.find((issue) => issue.path.length === depth)!
    : { path: at, message: issue.message };
}
