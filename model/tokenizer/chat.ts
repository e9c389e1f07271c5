/**
 * Chats as text, by the templates that checkpoints bring.
 *
 * @module
 */
import { message, rangeError, typeError } from "../../core/errors.ts";
import { contentOf } from "./added.ts";
import { type Jinja, readTemplate, renderTemplate, type Template, TemplateBudgetError } from "./template.ts";

/** A message of a chat. Templates see all its fields. */
export interface ChatMessage {
  /** Who speaks, such as `"system"`, `"user"`, `"assistant"` or `"tool"`. */
  readonly role: string;
  /** What is said: a text, for most templates. */
  readonly content?: unknown;
  /** Whatever else templates look for, such as `tool_calls` or `name`. */
  readonly [field: string]: unknown;
}

/** Options of `tokenizer.applyChatTemplate()`. */
export interface ChatTemplateOptions {
  /** Descriptions of functions that the assistant may call, as the template wants them. Default: none. */
  tools?: readonly unknown[];
  /** Whether the text ends with what begins an answer of the assistant. Default false. */
  addGenerationPrompt?: boolean;
  /** A template in place of the one that the checkpoint brings, as Jinja. */
  template?: string;
}

type Config = Readonly<Record<string, unknown>>;

/** The template of a name in a configuration: the only one counts as `"default"`. */
export function templateOf({ chat_template: given }: Config, name: string): string | undefined {
  if (typeof given === "string") return name === "default" ? given : undefined;
  if (!Array.isArray(given)) return undefined;
  const { template } = given.find((entry) => entry?.name === name) ?? {};
  return typeof template === "string" ? template : undefined;
}

/** What a template is rendered with, as transformers has it: it may ask whether there are tools or documents. */
export function chatVariables(
  config: Config,
  messages: readonly unknown[],
  tools: readonly unknown[] | undefined,
  addGenerationPrompt: boolean,
): Record<string, unknown> {
  const tokens = Object.entries(config).flatMap(([name, token]) => {
    const content = name.endsWith("_token") ? contentOf(token) : undefined;
    return content === undefined ? [] : [[name, content]];
  });
  return {
    bos_token: "",
    eos_token: "",
    ...Object.fromEntries(tokens),
    messages,
    tools: tools ?? null,
    documents: null,
    add_generation_prompt: addGenerationPrompt,
  };
}

/** Renders chats. Templates come with models, and may be anybody's. */
export class ChatTemplates {
  readonly #jinja: Jinja;
  /** The last template that was used: a chat is rendered again and again. */
  #last: { readonly source: string; readonly template: Template } | undefined;

  constructor(jinja: Jinja) {
    this.#jinja = jinja;
  }

  /** See `tokenizer.applyChatTemplate()`. */
  render(config: Config, messages: readonly ChatMessage[], options: ChatTemplateOptions): string {
    const operation = "Tokenizer.applyChatTemplate";
    if (!Array.isArray(messages)) typeError(operation, "messages must be an array of messages", messages);
    messages.forEach((one, i) => {
      if (typeof one?.role !== "string") {
        typeError(operation, "every message must be an object with a role", one, `message ${i}`);
      }
    });
    if (messages.length === 0) rangeError(operation, "messages must hold at least one message", messages);
    const { tools, addGenerationPrompt = false, template } = options;
    const source = template ?? (tools === undefined ? undefined : templateOf(config, "tool_use")) ??
      templateOf(config, "default");
    if (source === undefined) {
      const { chat_template: given } = config;
      const names = Array.isArray(given) ? given.map((entry) => entry?.name) : undefined;
      rangeError(operation, "the tokenizer must bring a chat template of the name default", names);
    }
    try {
      if (this.#last?.source !== source) {
        this.#last = { source, template: readTemplate(this.#jinja, source) };
      }
      const variables = chatVariables(config, messages, tools, addGenerationPrompt);
      return renderTemplate(this.#jinja, this.#last.template, variables);
    } catch (cause) {
      if (cause instanceof TemplateBudgetError) {
        const expected = "the chat template must keep within a budget of steps and sizes";
        throw new RangeError(message(operation, expected, cause.excess), { cause });
      }
      // By raise_exception() the model's author tells what messages the model takes.
      const roles = messages.map(({ role }) => role),
        reason = (cause as Error).message || "no reason is given";
      throw new RangeError(
        message(operation, "messages must be such as the chat template takes", roles, reason),
        { cause },
      );
    }
  }
}
