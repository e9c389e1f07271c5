/**
 * The tokenizer of a checkpoint, whichever files it is in. All of them become a `tokenizer.json` and a
 * `tokenizer_config.json`.
 *
 * @module
 */
import { rangeError } from "../../core/errors.ts";
import { readAll, type Source } from "../source.ts";
import { Tokenizer } from "../tokenizer.ts";
import { type AddedToken, refuse, type TokenizerJson } from "./json.ts";
import { contentOf, namedTokens, readAddedTokens, withConfigTokens } from "./added.ts";
import { readGpt2 } from "./gpt2.ts";
import { readSentencePiece } from "./sentencepiece.ts";
import { readTiktoken, TIKTOKEN_FILES, withPublishedTokens } from "./tiktoken.ts";

/** What a tokenizer is made of. */
export interface TokenizerFiles {
  /** Parsed `tokenizer.json`, as it came or as it was made of other files. */
  readonly json: unknown;
  /** Parsed `tokenizer_config.json` with what other files add to it: special tokens, chat templates. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** The files that a tokenizer may be in, apart from chat templates of other names. */
export const TOKENIZER_FILES: readonly string[] = [
  "tokenizer.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  ...TIKTOKEN_FILES,
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
];

type Config = Readonly<Record<string, unknown>>;

/**
 * The tokenizer of a checkpoint.
 *
 * @returns nothing where there is none
 * @throws {RangeError} when its files are damaged, or of a kind that is not computed
 */
export async function readTokenizer(
  source: Source,
  inspect?: (json: unknown, config: unknown) => Promise<void>,
): Promise<Tokenizer | undefined> {
  const files = await readTokenizerFiles(source);
  if (files === undefined) return undefined;
  await inspect?.(files.json, files.config);
  return await Tokenizer.create(files.json, files.config);
}

/**
 * Finds the files of a tokenizer, in the order of transformers: `tokenizer.json`, else `tokenizer.model`, else
 * `vocab.json` and `merges.txt`, else a file of tiktoken.
 *
 * @returns nothing where there is none
 */
export async function readTokenizerFiles(source: Source): Promise<TokenizerFiles | undefined> {
  const given = await readJson(source, "tokenizer.json");
  const other = given === undefined ? await readOther(source) : undefined;
  if (given === undefined && other === undefined) return undefined;
  const config = await readConfig(source);
  return given === undefined ? other!(config) : { json: given, config };
}

/** Makes a tokenizer of files that are not `tokenizer.json`. */
async function readOther(source: Source): Promise<((config: Config) => TokenizerFiles) | undefined> {
  const model = await read(source, "tokenizer.model", LIST_BYTES);
  if (model !== undefined) return (config) => sentencePiece(model, config);
  const vocab = await readJson(source, "vocab.json");
  const merges = vocab === undefined ? undefined : await readText(source, "merges.txt", LIST_BYTES);
  if (merges !== undefined) return (config) => gpt2(vocab, merges, config);
  for (const name of TIKTOKEN_FILES) {
    const ranks = await readText(source, name, LIST_BYTES);
    if (ranks !== undefined) return (config) => tiktoken(ranks, name, config);
  }
  return undefined;
}

/** Classes of transformers that give the pieces of a `tokenizer.model` other ids, or add more. */
const OTHER_IDS =
  /^(Albert|Barthez|BigBird|Camembert|CpmTokenizer|DebertaV2|FNet|M2M100|Marian|MBart|NllbTokenizer|Pegasus|Plbart|RemBert|Reformer|SeamlessM4T|Speech2Text|T5|UMT5|XGLM|XLMRoberta|XLNet)/;

/** Classes that add a begin-of-sequence token unless their configuration says otherwise. */
const ADDS_BOS = /^(Llama|CodeLlama|Bai[Cc]huan)Tokenizer(Fast)?$/;

function sentencePiece(model: Uint8Array<ArrayBuffer>, given: Config): TokenizerFiles {
  const kind = String(given.tokenizer_class ?? "");
  if (OTHER_IDS.test(kind)) refuse("tokenizer.model without a tokenizer_class of other ids", kind);
  const config: Config = {
    bos_token: "<s>",
    eos_token: "</s>",
    unk_token: "<unk>",
    add_bos_token: ADDS_BOS.test(kind),
    ...withoutNulls(given),
  };
  if (/^(Code)?Llama/.test(kind) && config.legacy === false) {
    refuse("tokenizer.model without a legacy of its class", config.legacy);
  }
  const json = readSentencePiece(model);
  const pieces = json.model!.vocab as Readonly<Record<string, number>> | readonly (readonly [string])[];
  const ids = new Map(
    Array.isArray(pieces) ? pieces.map(([piece], id) => [piece, id]) : Object.entries(pieces),
  );
  // Special tokens cut the text as it is, whatever the normaliser makes of it.
  return baked(json, ids, config, (token) => ({ ...token, normalized: false }));
}

function gpt2(vocab: unknown, merges: string, given: Config): TokenizerFiles {
  const kind = given.tokenizer_class;
  if (kind !== undefined && kind !== null && !/^(GPT2|PreTrained)Tokenizer(Fast)?$/.test(String(kind))) {
    refuse("vocab.json and merges.txt of a GPT2Tokenizer", kind);
  }
  const end = "<|endoftext|>";
  const config: Config = { bos_token: end, eos_token: end, unk_token: end, ...withoutNulls(given) };
  const json = readGpt2(vocab, merges, config.add_prefix_space === true);
  const ids = new Map(Object.entries(json.model!.vocab as Record<string, number>));
  return baked(json, ids, config);
}

function tiktoken(ranks: string, name: string, given: Config): TokenizerFiles {
  const json = readTiktoken(ranks, name);
  const ids = new Map(Object.entries(json.model!.vocab as Record<string, number>));
  const config = withPublishedTokens(withoutNulls(given), ids.size);
  // They are looked for behind the normaliser.
  return baked(json, ids, config, (token) => ({ ...token, normalized: true }));
}

/** With the special tokens of the configuration in `tokenizer.json`, which needs no other file then. */
function baked(
  json: TokenizerJson,
  ids: ReadonlyMap<string, number>,
  given: Config,
  change: (token: AddedToken) => AddedToken = (token) => token,
): TokenizerFiles {
  const added = withConfigTokens([], ids, given).map(change).sort((a, b) => a.id - b.id);
  const idOf = (name: string) => {
    const content = contentOf(given[name]) ?? refuse(`add_${name} with a ${name}`, given[name]);
    return { content, id: added.find((token) => token.content === content)!.id };
  };
  const [bos, eos] = ["bos_token", "eos_token"].map((name) =>
    given[`add_${name}`] === true ? idOf(name) : undefined
  );
  // Cleaning up is for WordPiece: transformers does not do it to tokens of these files.
  const { added_tokens_decoder: _, ...config }: Config = { ...given, clean_up_tokenization_spaces: false };
  return {
    json: { ...json, added_tokens: added, post_processor: template(bos, eos) ?? json.post_processor },
    config,
  };
}

/** What adds tokens before and behind a prompt, if anything. */
function template(...around: readonly ({ content: string; id: number } | undefined)[]): object | undefined {
  if (around.every((token) => token === undefined)) return undefined;
  const [before, after] = around.map((token) =>
    token === undefined ? [] : [{ SpecialToken: { id: token.content, type_id: 0 } }]
  );
  return {
    type: "TemplateProcessing",
    single: [...before, { Sequence: { id: "A", type_id: 0 } }, ...after],
    pair: [
      ...before,
      { Sequence: { id: "A", type_id: 0 } },
      ...after,
      ...before,
      { Sequence: { id: "B", type_id: 1 } },
      ...after,
    ],
    special_tokens: Object.fromEntries(
      around.filter((token) => token !== undefined).map(({ content, id }) => [
        content,
        { id: content, ids: [id], tokens: [content] },
      ]),
    ),
  };
}

/**
 * `tokenizer_config.json` with what other files say. `special_tokens_map.json` wins over it and `added_tokens.json`
 * counts, both only where there is no `added_tokens_decoder`, as in transformers.
 */
async function readConfig(source: Source): Promise<Config> {
  let config = asObject(await readJson(source, "tokenizer_config.json") ?? {}, "tokenizer_config.json");
  if (config.added_tokens_decoder === undefined) {
    const named = asObject(
      await readJson(source, "special_tokens_map.json") ?? {},
      "special_tokens_map.json",
    );
    config = { ...config, ...named };
    const added = await readJson(source, "added_tokens.json");
    if (added !== undefined) {
      const special = new Set(namedTokens(config).map(contentOf));
      const tokens = Object.entries(asObject(added, "added_tokens.json")).map(([content, id]) => ({
        id,
        content,
        special: special.has(content),
      }));
      const decoder = readAddedTokens(tokens, "added_tokens.json").map(({ id, ...token }) => [id, token]);
      config = { ...config, added_tokens_decoder: Object.fromEntries(decoder) };
    }
  }
  return { ...config, ...await readTemplates(source) };
}

/** Where templates of other names lie, and the names that are known without a list of files. */
const TEMPLATES = "additional_chat_templates", TEMPLATE_NAMES = ["tool_use", "rag"];

/** Chat templates in files: together they replace those of `tokenizer_config.json`. */
async function readTemplates(source: Source): Promise<Config> {
  const single = await readText(source, "chat_template.jinja");
  const listed = await source.list?.(TEMPLATES);
  // Without a list, templates of other names are looked for only behind one that is there: each look is a request.
  const names = listed?.flatMap((file) => file.endsWith(".jinja") ? [file.slice(0, -6)] : []).sort() ??
    (single === undefined ? [] : TEMPLATE_NAMES);
  const templates: { name: string; template: string }[] = [];
  if (single !== undefined) templates.push({ name: "default", template: single });
  for (const name of names) {
    const template = await readText(source, `${TEMPLATES}/${name}.jinja`);
    if (template === undefined) continue;
    const same = templates.find((entry) => entry.name === name);
    if (same === undefined) templates.push({ name, template });
    else same.template = template;
  }
  if (templates.length === 0) return {};
  return { chat_template: templates.length === 1 && single !== undefined ? single : templates };
}

function asObject(value: unknown, name: string): Config {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    refuse(`${name} as an object`, value);
  }
  return value as Config;
}

/** A token of `null` is none: that of the class counts. */
function withoutNulls(config: Config): Config {
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null));
}

/** Bytes of a file that lists tokens and nothing else: the largest vocabularies take a third. */
const LIST_BYTES = 2 ** 24;

async function read(
  source: Source,
  name: string,
  most?: number,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const reader = await source.open(name);
  return reader && await readAll(reader, name, most);
}

async function readText(source: Source, name: string, most?: number): Promise<string | undefined> {
  const bytes = await read(source, name, most);
  try {
    return bytes && new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return refuse(`${name} in UTF-8`, `${bytes!.length} bytes`);
  }
}

async function readJson(source: Source, name: string): Promise<unknown> {
  const text = await readText(source, name);
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch (error) {
    return rangeError("TransNormerLLM.load", `${name} must be JSON in UTF-8`, (error as Error).message);
  }
}
