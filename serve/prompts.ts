/**
 * Prompts: what clients send as text, token ids or messages, as token ids.
 *
 * @module
 */
import * as jinja from "@huggingface/jinja";
import { rangeError, typeError } from "../core/errors.ts";
import { pauses } from "../core/eventLoop.ts";
import type { Tokenizer, TransNormerLLM } from "../model/mod.ts";
import { chatVariables } from "../model/tokenizer/chat.ts";
import { readTemplate, renderTemplate } from "../model/tokenizer/template.ts";
import { invalid, templateRefusal } from "./errors.ts";
import type { Limits } from "./limits.ts";
import type { Chat } from "./schema.ts";
import type { Engine } from "./service.ts";

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
export function checkTexts(prompts: readonly (string | unknown[])[], limits: Limits): void {
  let length = 0;
  for (const prompt of prompts) if (typeof prompt === "string") length += prompt.length;
  checkLength("prompt", length, limits);
}

function checkLength(param: string, length: number, { characters }: Limits): void {
  if (length <= characters) return;
  throw invalid(
    param,
    `${param}: texts must be at most ${characters} characters, not ${length}: send token ids, or pieces in a session`,
    "text_too_long",
  );
}

/**
 * Prompts of any of the four kinds. Ids are taken as they are; to text that begins a sequence the tokenizer adds what it
 * adds to prompts.
 *
 * @param owner whose turn it is to have texts tokenized
 * @param withText whether ids are wanted as text too
 */
export async function textPrompts(
  { model, texts, limits }: Engine,
  owner: string,
  prompt: string | number[] | string[] | number[][],
  { addSpecialTokens, withText }: { addSpecialTokens: boolean; withText: boolean },
): Promise<Prompt[]> {
  const isOne = typeof prompt === "string" || typeof prompt[0] === "number";
  const rows = (isOne ? [prompt] : prompt) as (string | number[])[];
  checkTexts(rows, limits);
  const pause = pauses(10);
  const prompts: Prompt[] = [];
  for (const row of rows) {
    if (typeof row === "string") {
      tokenizerOf(model);
      prompts.push({ ids: await texts!.encode(owner, row, addSpecialTokens), text: row });
    } else {
      const ids = toUint32(row);
      prompts.push({ ids, text: withText ? await texts?.decode(owner, ids) ?? "" : "" });
    }
    await pause();
  }
  return prompts;
}

/** Ids beyond 32 bits must not wrap around into the vocabulary. */
function toUint32(ids: readonly number[]): Uint32Array {
  const result = new Uint32Array(ids.length);
  for (let i = 0; i < ids.length; i++) result[i] = Math.min(ids[i], 2 ** 32 - 1);
  return result;
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
    readTemplate(jinja, template);
  } catch (error) {
    rangeError("createHandler", "chatTemplate must be a Jinja template", (error as Error).message);
  }
}

/** A chat as text, by a template or, if that is undefined, by the one that the tokenizer brings. */
export function renderChat(
  model: Pick<TransNormerLLM, "tokenizer">,
  chat: Chat,
  addGenerationPrompt: boolean,
  template: string | undefined,
): string {
  const tokenizer = tokenizerOf(model);
  const source = template ?? chatTemplate(tokenizer, chat.tools !== undefined);
  try {
    return renderTemplate(
      jinja,
      readTemplate(jinja, source),
      chatVariables(tokenizer.config, chat.messages, chat.tools, addGenerationPrompt),
    );
  } catch (error) {
    throw templateRefusal((error as Error).message || "no reason is given");
  }
}

/** What a template has to do with each message, as if it were so many characters. */
const PER_MESSAGE = 32;

/** {@linkcode renderChat} in the server, where it must not hold up others. */
export async function chatText(
  { model, texts, limits }: Engine,
  owner: string,
  chat: Chat,
  addGenerationPrompt: boolean,
  template: string | undefined,
): Promise<string> {
  const tokenizer = tokenizerOf(model);
  const source = template ?? chatTemplate(tokenizer, chat.tools !== undefined);
  const length = lengthOf([chat.messages, chat.tools]);
  checkLength("messages", length, limits);
  const variables = chatVariables(tokenizer.config, chat.messages, chat.tools, addGenerationPrompt);
  const text = await texts!.render(owner, source, variables, length + PER_MESSAGE * chat.messages.length);
  checkLength("messages", text.length, limits);
  return text;
}

/** Characters of all texts in a value. */
function lengthOf(value: unknown): number {
  const left = [value];
  let length = 0;
  while (left.length > 0) {
    const next = left.pop();
    if (typeof next === "string") length += next.length;
    else if (typeof next === "object" && next !== null) {
      for (const inner of Object.values(next)) left.push(inner);
    }
  }
  return length;
}
