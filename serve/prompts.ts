/**
 * Prompts: what clients send as text, token ids or messages, as token ids.
 *
 * @module
 */
import { Template } from "@huggingface/jinja";
import { rangeError, typeError } from "../core/errors.ts";
import type { Tokenizer, TransNormerLLM } from "../model/mod.ts";
import { invalid } from "./errors.ts";
import type { Limits } from "./limits.ts";
import type { Chat } from "./schema.ts";

/** A prompt in both its forms. */
export interface Prompt {
  /** Token ids; may be none if a session continues. */
  readonly ids: Uint32Array;
  /** Text, for `echo`. */
  readonly text: string;
}

/** The model's tokenizer. Throws an `ApiError` if it has none. */
export function tokenizerOf({ tokenizer }: Pick<TransNormerLLM, "tokenizer">): Tokenizer {
  if (tokenizer === undefined) {
    throw invalid(
      null,
      "The model has no tokenizer: prompts must be token ids, and stop strings are not possible",
      "no_tokenizer",
    );
  }
  return tokenizer;
}

/** Holds texts to `characters` of {@linkcode Limits}. */
export function checkTexts(prompts: readonly (string | unknown[])[], { characters }: Limits): void {
  let length = 0;
  for (const prompt of prompts) if (typeof prompt === "string") length += prompt.length;
  if (length > characters) {
    throw invalid(
      "prompt",
      `prompt: texts must be at most ${characters} characters, not ${length}: send token ids, or pieces in a session`,
      "text_too_long",
    );
  }
}

/**
 * Prompts of any of the four kinds. Ids are taken as they are; to text that begins a sequence the tokenizer adds what it
 * adds to prompts.
 */
export function textPrompts(
  model: TransNormerLLM,
  prompt: string | number[] | string[] | number[][],
  addSpecialTokens: boolean,
  limits: Limits,
): Prompt[] {
  const isOne = typeof prompt === "string" || typeof prompt[0] === "number";
  const rows = (isOne ? [prompt] : prompt) as (string | number[])[];
  checkTexts(rows, limits);
  return rows.map((row): Prompt => {
    if (typeof row === "string") {
      return { ids: Uint32Array.from(encode(model, row, addSpecialTokens)), text: row };
    }
    return { ids: toUint32(row), text: model.tokenizer?.decode(row, { specialTokens: true }) ?? "" };
  });
}

/** Ids beyond 32 bits must not wrap around into the vocabulary. */
function toUint32(ids: readonly number[]): Uint32Array {
  return Uint32Array.from(ids, (id) => Math.min(id, 2 ** 32 - 1));
}

/** Token ids of a text. Throws an `ApiError` if the tokenizer has no token for a part of it. */
export function encode(
  model: Pick<TransNormerLLM, "tokenizer">,
  text: string,
  addSpecialTokens: boolean,
): number[] {
  const tokenizer = tokenizerOf(model);
  try {
    return tokenizer.encode(text, { addSpecialTokens });
  } catch (error) {
    if (error instanceof RangeError) {
      throw invalid("prompt", "prompt: the tokenizer has no token for a part of it");
    }
    throw error;
  }
}

/** The template for a chat: for one with tools `tool_use`, if the checkpoint brings several and that is one of them. */
function chatTemplate(tokenizer: Tokenizer, withTools: boolean): string {
  const template = (withTools ? tokenizer.chatTemplate("tool_use") : undefined) ?? tokenizer.chatTemplate();
  if (template !== undefined) return template;
  const { chat_template: given } = tokenizer.config;
  const names = Array.isArray(given) ? given.map((entry) => entry?.name).join(", ") : "";
  throw invalid(
    "messages",
    names === ""
      ? "The model's tokenizer brings no chat template: use /v1/completions"
      : `The model's tokenizer has no chat template named default, only ${names}`,
    "no_chat_template",
  );
}

/**
 * Throws unless it is a template.
 *
 * @throws {TypeError} when it is not a string @throws {RangeError} when its syntax is wrong
 */
export function checkTemplate(template: unknown): void {
  if (typeof template !== "string") typeError("createHandler", "chatTemplate must be a string", template);
  try {
    new Template(template);
  } catch (error) {
    rangeError("createHandler", "chatTemplate must be a Jinja template", (error as Error).message);
  }
}

/** A chat as text, by a template or, if that is undefined, by the one that the tokenizer brings. */
export function renderChat(
  model: Pick<TransNormerLLM, "tokenizer">,
  { messages, tools }: Chat,
  addGenerationPrompt: boolean,
  template: string | undefined,
): string {
  const tokenizer = tokenizerOf(model);
  const { config } = tokenizer;
  const source = template ?? chatTemplate(tokenizer, tools !== undefined);
  const text = (token: unknown) =>
    typeof token === "string" ? token : (token as { content?: string })?.content ?? "";
  try {
    return new Template(source).render({
      messages,
      tools: tools ?? null, // as transformers has it: a template may ask whether it is none
      add_generation_prompt: addGenerationPrompt,
      bos_token: text(config.bos_token),
      eos_token: text(config.eos_token),
    });
  } catch (error) {
    // By raise_exception() the model's author tells what messages the model takes.
    const reason = (error as Error).message || "no reason is given";
    throw invalid("messages", `messages: the chat template refuses them: ${reason}`, "template_error");
  }
}
