import assert from "node:assert/strict";
import { openSource, type Source } from "../model/source.ts";
import { Tokenizer } from "../model/tokenizer.ts";
import { readTokenizer, readTokenizerFiles } from "../model/tokenizer/files.ts";
import { byteLevelJson } from "./reference_model.ts";

/** Files by name: bytes, text, or what becomes JSON. */
type Files = Record<string, unknown>;

/** Files under a URL. */
function sourceOf(files: Files): Source {
  const get = (input: URL | RequestInfo) => {
    const name = decodeURIComponent(new URL(String(input)).pathname.slice(1)), file = files[name];
    if (file === undefined) return Promise.resolve(new Response(null, { status: 404 }));
    const isText = typeof file === "string" || file instanceof Uint8Array;
    return Promise.resolve(new Response((isText ? file : JSON.stringify(file)) as BodyInit));
  };
  return openSource("https://models.example/", { fetch: get as typeof fetch });
}

const read = async (files: Files) => (await readTokenizer(sourceOf(files)))!;

const golden = (path: string) => new URL(`golden/${path}`, import.meta.url);

/** One of the published formats; its README is where the cases come from. */
interface PublishedCases {
  cases: { text: string; ids: number[]; decoded: string; decoded_with_special: string }[];
  decode_cases: { ids: number[]; decoded: string }[];
}

/** Text of ids that come one by one, the first `cut` of them before. */
function streamed(tokenizer: Tokenizer, ids: number[], cut = 0): string {
  const stream = tokenizer.stream({ before: ids.slice(0, cut) });
  return ids.slice(cut).map((id) => stream.push(id)).join("") + stream.end();
}

/** The class that the authors published for SentencePiece puts a space before a text that a special token follows. */
function withoutQuirk(text: string): string {
  const special = /(<s>|<\/s>|<unk>)/, parts = text.split(special);
  return parts.map((part, i) => {
    const isFollowed = i % 2 === 0 && i < parts.length - 1 && part !== "";
    return isFollowed ? part.slice(1) : part;
  }).join("");
}

for (
  const name of ["tnl_sentencepiece_bin", "spm_no_dummy_prefix", "tnl_gpt2_safetensors", "tnl_tiktoken_bin"]
) {
  Deno.test(`${name}: ids and texts are the published ones, whole and token by token`, async () => {
    const folder = golden(`published/${name}/`);
    const { cases, decode_cases }: PublishedCases = JSON.parse(
      await Deno.readTextFile(new URL("tokenizer_cases.json", folder)),
    );
    assert(cases.length > 50 && decode_cases.length > 5);
    const source = openSource(folder, {}), files = (await readTokenizerFiles(source))!;
    const isSentencePiece = /sentencepiece|spm/.test(name);
    // As it is, and as a converted checkpoint has it.
    const again = await Tokenizer.create(
      ...JSON.parse(JSON.stringify([files.json, files.config])) as [unknown],
    );
    for (const tokenizer of [(await readTokenizer(source))!, again]) {
      for (const { text, ids, decoded, decoded_with_special } of cases) {
        assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
        assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: false }), ids);
        assert.equal(tokenizer.decode(ids), decoded);
        const named = isSentencePiece ? withoutQuirk(decoded_with_special) : decoded_with_special;
        assert.equal(tokenizer.decode(ids, { specialTokens: true }), named, JSON.stringify(text));
        assert.equal(streamed(tokenizer, ids), decoded);
      }
      for (const { ids, decoded } of [...cases, ...decode_cases]) {
        assert.equal(tokenizer.decode(ids), decoded, `ids ${ids}`);
        for (let cut = 0; cut <= ids.length; cut++) {
          const before = tokenizer.decode(ids.slice(0, cut));
          // Half a character is completed by what follows; all else only grows.
          if (before.endsWith("\ufffd")) continue;
          assert.equal(before + streamed(tokenizer, ids, cut), decoded, `ids ${ids} cut at ${cut}`);
        }
      }
    }
  });
}

/** One of the cases in `golden/sentencepiece/`; `golden/official_sentencepiece.py` says where they come from. */
interface SentencePieceCase {
  name: string;
  texts: string[];
  ids: number[][];
  decoded: [ids: number[], text: string][];
}

Deno.test("SentencePiece: ids and texts of every kind of model are those of the reference", async () => {
  const lines = (await Deno.readTextFile(golden("sentencepiece/cases.jsonl"))).trim().split("\n");
  assert(lines.length > 10);
  for (const line of lines) {
    const { name, texts, ids, decoded }: SentencePieceCase = JSON.parse(line);
    const tokenizer = await read({
      "tokenizer.model": await Deno.readFile(golden(`sentencepiece/${name}.model`)),
    });
    for (const [i, text] of texts.entries()) {
      assert.deepEqual(tokenizer.encode(text), ids[i], `${name}: ${JSON.stringify(text)}`);
    }
    for (const [ids, text] of decoded) {
      assert.equal(tokenizer.decode(ids), text, `${name}: ids ${ids}`);
      assert.equal(streamed(tokenizer, ids), text, `${name}: ids ${ids}`);
    }
  }
});

Deno.test("where parts of the official library compute the same, they are the file", async () => {
  const parts = async (name: string) => {
    const files = await readTokenizerFiles(
      sourceOf({ "tokenizer.model": await Deno.readFile(golden(name)) }),
    );
    const { model, normalizer } = files!.json as Record<string, { type: string }>;
    return [model.type, normalizer.type];
  };
  assert.deepEqual(await parts("published/tnl_sentencepiece_bin/tokenizer.model"), ["BPE", "Sequence"]);
  assert.deepEqual(await parts("sentencepiece/bpe.model"), ["BPE", "Sequence"]);
  for (const other of ["bpe_own_pieces", "bpe_equal", "bpe_unused", "bpe_mapped", "unigram", "characters"]) {
    assert.deepEqual(await parts(`sentencepiece/${other}.model`), ["SentencePiece", "SentencePiece"], other);
  }
});

const bpeModel = await Deno.readFile(golden("sentencepiece/bpe.model"));

Deno.test("files are looked for in the order of transformers", async () => {
  const vocab = { "a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4 }, merges = "#version: 0.2\na b\n";
  const ranks = ["YQ== 0", "Yg== 1", "IA== 2", "YWI= 3"].join("\n");
  const all: Files = {
    "tokenizer.json": byteLevelJson(),
    "tokenizer.model": bpeModel,
    "vocab.json": vocab,
    "merges.txt": merges,
    "transnormer_100k.tiktoken": ranks,
  };
  const sizes: number[] = [];
  for (const name of Object.keys(all)) {
    sizes.push((await read(all)).size);
    delete all[name];
  }
  assert.deepEqual(sizes, [263, 500, 5, 14, 14], "vocab.json counts only with merges.txt");
  assert.equal(await readTokenizer(sourceOf({ ...all, "vocab.json": vocab })), undefined);
  assert.equal(await readTokenizer(sourceOf({})), undefined);
  const gpt2 = await read({ "vocab.json": vocab, "merges.txt": merges });
  assert.deepEqual(gpt2.encode("ab<|endoftext|> b"), [2, 4, 3, 1]);
  const spaced = await read({
    "vocab.json": vocab,
    "merges.txt": merges,
    "tokenizer_config.json": { add_prefix_space: true },
  });
  assert.deepEqual(spaced.encode("ab"), [3, 2]);
  const tiktoken = await read({ "tokenizer.tiktoken": ranks });
  assert.deepEqual(
    tiktoken.encode("ab<|J2PM|>b<|endofprompt|>"),
    [3, 4, 1, 24],
    "special ids follow the ranks",
  );
  assert.equal(tiktoken.config.eos_token, "<|endoftext|>");
});

Deno.test("special tokens: special_tokens_map.json, added_tokens.json and added_tokens_decoder as in transformers", async () => {
  const json = { ...byteLevelJson(), added_tokens: [] };
  const config = {
    eos_token: "<eos>",
    pad_token: { content: "a", lstrip: true },
    extra_special_tokens: ["<x>"],
  };
  const named = await read({ "tokenizer.json": json, "tokenizer_config.json": config });
  assert.deepEqual(
    named.encode("b<eos> a<x>b"),
    [98, 261, 97, 262, 98],
    "those of the vocabulary keep their ids",
  );
  assert.equal(named.decode([98, 261, 97, 262]), "b");
  assert.equal(named.specialIdOf("a"), 97);
  // The map wins over the configuration, and added tokens are special where they have a name.
  const mapped: Files = {
    "tokenizer.json": json,
    "tokenizer_config.json": config,
    "special_tokens_map.json": { eos_token: "<end>" },
    "added_tokens.json": { "<end>": 300, "<tab>": 301 },
  };
  const legacy = await read(mapped);
  assert.equal(legacy.config.eos_token, "<end>");
  assert.deepEqual(["<end>", "<tab>", "<eos>"].map((token) => legacy.idOf(token)), [300, 301, undefined]);
  assert.equal(legacy.decode([97, 300, 98, 301]), "b<tab>", "pad_token is a special one");
  const decoder = {
    261: { content: "<q>", special: true, rstrip: true },
    97: { content: "a", special: false },
  };
  const modern = await read({
    ...mapped,
    "tokenizer_config.json": { ...config, added_tokens_decoder: decoder },
  });
  assert.deepEqual(["<q>", "<end>", "<eos>"].map((token) => modern.idOf(token)), [261, undefined, 262]);
  assert.deepEqual(modern.encode("<q>  b"), [261, 98]);
  assert.equal(modern.decode([97, 261]), "a", "what the decoder says replaces the rest");
});

Deno.test("begin and end of sequence are added where the configuration says so", async () => {
  const encode = async (config: Files, text = "") => {
    const tokenizer = await read({ "tokenizer.model": bpeModel, "tokenizer_config.json": config });
    return [tokenizer.encode(text), tokenizer.encode(text, { addSpecialTokens: false })];
  };
  assert.deepEqual(await encode({}), [[], []]);
  assert.deepEqual(await encode({ add_bos_token: true, add_eos_token: true }), [[1, 2], []]);
  assert.deepEqual(await encode({ tokenizer_class: "LlamaTokenizer" }), [[1], []], "as its class does");
  assert.deepEqual(await encode({ tokenizer_class: "LlamaTokenizer", add_bos_token: false }), [[], []]);
});

Deno.test("chat templates in files", async () => {
  const json = byteLevelJson(), inJson = { chat_template: [{ name: "default", template: "json" }] };
  const names = ["default", "tool_use", "rag", "other"];
  const templates = async (files: Files) => {
    const tokenizer = await read({ "tokenizer.json": json, "tokenizer_config.json": inJson, ...files });
    return names.map((name) => tokenizer.chatTemplate(name));
  };
  assert.deepEqual(await templates({}), ["json", undefined, undefined, undefined]);
  assert.deepEqual(await templates({ "chat_template.jinja": "d" }), ["d", undefined, undefined, undefined]);
  const more = {
    "additional_chat_templates/tool_use.jinja": "t",
    "additional_chat_templates/rag.jinja": "r",
  };
  assert.deepEqual(await templates({ "chat_template.jinja": "d", ...more }), ["d", "t", "r", undefined]);

  const folder = await Deno.makeTempDir({ prefix: "levin-tokenizer-" });
  try {
    await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(json));
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, JSON.stringify(inJson));
    await Deno.mkdir(`${folder}/additional_chat_templates`);
    for (const name of ["default", "other"]) {
      await Deno.writeTextFile(`${folder}/additional_chat_templates/${name}.jinja`, name);
    }
    await Deno.writeTextFile(`${folder}/additional_chat_templates/README.md`, "nothing");
    const tokenizer = (await readTokenizer(openSource(folder, {})))!;
    assert.deepEqual(names.map((name) => tokenizer.chatTemplate(name)), [
      "default",
      undefined,
      undefined,
      "other",
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("damaged files and other kinds are refused by name", async () => {
  const vocab = { a: 0, b: 1 }, gpt2 = { "vocab.json": vocab, "merges.txt": "" };
  const denormalized = Uint8Array.of(...bpeModel, 0x2a, 3, 0x12, 1, 0x61);
  const word = Uint8Array.of(...bpeModel, 0x12, 2, 0x18, 3);
  const cases: [files: Files, message: RegExp][] = [
    [{ "tokenizer.model": new Uint8Array(0) }, /SentencePiece model with pieces/],
    [{ "tokenizer.model": bpeModel.subarray(0, bpeModel.length - 5) }, /whole SentencePiece model/],
    [{ "tokenizer.model": "version https://git-lfs" }, /SentencePiece model/],
    [{ "tokenizer.model": new Uint8Array(40).fill(255) }, /a number of more than 64 bits/],
    [{ "tokenizer.model": Uint8Array.of(0x0a, 3, 0x0a, 1, 0xff) }, /pieces in UTF-8: .*piece 0/],
    [{ "tokenizer.model": Uint8Array.of(0x0a, 3, 0x0a, 1, 0x61) }, /with an unknown piece/],
    [
      { "tokenizer.model": Uint8Array.of(...bpeModel, 0x0a, 3, 0x0a, 1, 0x61) },
      /without equal pieces: .*"a"/,
    ],
    [{ "tokenizer.model": denormalized }, /without a denormalizer_spec/],
    [{ "tokenizer.model": word }, /SentencePiece of BPE, unigrams or characters: current value is 3/],
    [
      { "tokenizer.model": bpeModel, "tokenizer_config.json": { tokenizer_class: "XLMRobertaTokenizer" } },
      /tokenizer_class of other ids: .*XLMRoberta/,
    ],
    [
      { ...gpt2, "tokenizer_config.json": { tokenizer_class: "CLIPTokenizer" } },
      /of a GPT2Tokenizer: .*CLIP/,
    ],
    [{ ...gpt2, "vocab.json": [1] }, /vocab\.json as an object/],
    [{ ...gpt2, "vocab.json": { a: "b" } }, /integers >= 0 as ids: .*"a: b"/],
    [{ ...gpt2, "merges.txt": "a b\n" }, /merges of tokens to tokens/],
    [{ ...gpt2, "special_tokens_map.json": [] }, /special_tokens_map\.json as an object/],
    [{ ...gpt2, "added_tokens.json": { "<x>": "y" } }, /added_tokens\.json with id and content/],
    [
      { ...gpt2, "tokenizer_config.json": { added_tokens_decoder: { 5: 7 } } },
      /added_tokens_decoder with id/,
    ],
    [{ "tokenizer.tiktoken": "YQ== 0\nYg== 2\n" }, /one byte string of each rank: current value is 1/],
    [{ "tokenizer.tiktoken": "YQ== 0\nYQ== 1\n" }, /one byte string of each rank/],
    [{ "tokenizer.tiktoken": "YQ== 999999999\n" }, /one byte string of each rank/],
    [{ "tokenizer.tiktoken": "*** 0\n" }, /byte strings in base64/],
    [{ "tokenizer.tiktoken": "no ranks here\n" }, /lines with a byte string/],
    [{ "tokenizer.tiktoken": `${btoa("a".repeat(1025))} 0\n` }, /at most 2097152 tokens of 1024 bytes/],
    [{ "tokenizer.tiktoken": "a".repeat(2 ** 24 + 1) }, /must have at most 16777216 bytes/],
    [{ ...gpt2, "merges.txt": " ".repeat(2 ** 24 + 1) }, /must have at most 16777216 bytes/],
    [{ "tokenizer.model": new Uint8Array(2 ** 24 + 1) }, /must have at most 16777216 bytes/],
    // A field of length 1028, in it a string of length 1025.
    [
      { "tokenizer.model": Uint8Array.of(0x0a, 0x84, 8, 0x0a, 0x81, 8, ...new Uint8Array(1025).fill(97)) },
      /pieces of at most 1024 characters: current value is "piece 0"/,
    ],
    [{ "tokenizer.json": "{" }, /tokenizer\.json must be JSON in UTF-8/],
  ];
  for (const [files, message] of cases) {
    await assert.rejects(read(files), { name: "RangeError", message }, String(message));
  }
});

Deno.test("a long text takes time in proportion to its length", async () => {
  const long = 200_000; // squared, it would take minutes
  const texts = [
    "a".repeat(long),
    " ".repeat(long),
    "▁".repeat(long),
    "ab ".repeat(long / 3),
    "<s>".repeat(long / 3),
  ];
  for (const name of ["bpe", "bpe_across_words", "bpe_mapped", "unigram", "characters"]) {
    const tokenizer = await read({
      "tokenizer.model": await Deno.readFile(golden(`sentencepiece/${name}.model`)),
    });
    for (const text of texts) {
      const ids = tokenizer.encode(text);
      assert(ids.length <= text.length + 1);
      assert(tokenizer.decode(ids).length <= text.length);
    }
  }
});
