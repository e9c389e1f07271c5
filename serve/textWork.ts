/**
 * What is done with texts: tokens of them, texts of tokens, texts of chats. It runs in the server's thread, or in a
 * worker, see `texts.ts`.
 *
 * @module
 */
import * as jinja from "@huggingface/jinja";
import { pauses } from "../core/eventLoop.ts";
import type { Tokenizer } from "../model/mod.ts";
import { readTemplate, renderTemplate, TemplateBudgetError } from "../model/tokenizer/template.ts";

/** A piece of work; all of it can be sent to a worker. */
export type TextTask =
  | { readonly kind: "encode"; readonly text: string; readonly addSpecialTokens: boolean }
  | { readonly kind: "decode"; readonly ids: Uint32Array }
  | { readonly kind: "render"; readonly template: string; readonly variables: Record<string, unknown> }
  | { readonly kind: "try" };

/** Its result, or why there is none: `code` tells errors apart for clients. */
export type TextResult =
  | { readonly ids: Uint32Array<ArrayBuffer> }
  | { readonly text: string }
  | { readonly code: "no_token" | "template_error" | "template_budget"; readonly message: string };

/** Milliseconds after which work in pieces lets others go first. */
const PAUSE = 10;

/** Does a piece of work. */
export async function workOn(tokenizer: Tokenizer, task: TextTask): Promise<TextResult> {
  switch (task.kind) {
    case "encode":
      try {
        const { addSpecialTokens } = task;
        return { ids: Uint32Array.from(tokenizer.encode(task.text, { addSpecialTokens })) };
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        return { code: "no_token", message: error.message };
      }
    case "decode":
      return { text: await decode(tokenizer, task.ids) };
    case "render":
      try {
        return { text: renderTemplate(jinja, readTemplate(jinja, task.template), task.variables) };
      } catch (error) {
        const code = error instanceof TemplateBudgetError ? "template_budget" : "template_error";
        return { code, message: (error as Error).message || "no reason is given" };
      }
    case "try":
      // What a server does with any token, whenever an answer has it.
      for (let id = 0, left = tokenizer.size; left > 0 && id < 2 ** 24; id++) {
        if (tokenizer.tokenOf(id) === undefined) continue;
        tokenizer.decode([id], { specialTokens: true });
        left--;
      }
      return { text: "" };
  }
}

async function decode(tokenizer: Tokenizer, ids: Uint32Array): Promise<string> {
  const stream = tokenizer.stream({ specialTokens: true });
  const pause = pauses(PAUSE);
  let text = "";
  for (const [i, id] of ids.entries()) {
    text += stream.push(id);
    if (i % 256 === 255) await pause();
  }
  return text + stream.end();
}
