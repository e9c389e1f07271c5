import assert from "node:assert/strict";
import fc from "fast-check";
import { Tokenizer } from "../model/mod.ts";
import { byteLevelJson } from "./reference_model.ts";

/** SentencePiece's way: words begin with ▁, unknown characters fall back to bytes. */
function byteFallbackJson(): Record<string, unknown> {
  const pieces = [
    "<unk>",
    ...Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`),
  ];
  for (const piece of ["▁", "a", "b", "c", "▁a", "bc"]) pieces.push(piece);
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: {
      type: "Sequence",
      normalizers: [{ type: "Prepend", prepend: "▁" }, {
        type: "Replace",
        pattern: { String: " " },
        content: "▁",
      }],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: [["▁", "a"], ["b", "c"]],
      unk_token: "<unk>",
      byte_fallback: true,
      fuse_unk: true,
    },
  };
}

/** What a stream gives token by token. */
function streamed(tokenizer: Tokenizer, ids: number[]): string[] {
  const stream = tokenizer.stream();
  return [...ids.map((id) => stream.push(id)), stream.end()];
}

Deno.test("byte level: every text comes back, whole and token by token", async () => {
  const tokenizer = await Tokenizer.create(byteLevelJson());
  assert.equal(tokenizer.size, 263);
  assert.deepEqual(tokenizer.encode("hello€"), [259, 260, 0xac]);
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 30 }), (text) => {
      const ids = tokenizer.encode(text);
      const expected = text.toWellFormed();
      assert.equal(tokenizer.decode(ids), expected);
      const parts = streamed(tokenizer, ids);
      assert.equal(parts.join(""), expected);
      for (const part of parts) {
        assert(part.isWellFormed() && (expected.includes("\ufffd") || !part.includes("\ufffd")));
      }
    }),
    { numRuns: 300 },
  );
});

Deno.test("byte level: a character leaves when it is whole", async () => {
  const tokenizer = await Tokenizer.create(byteLevelJson());
  assert.deepEqual(streamed(tokenizer, [0x61, 0xe2, 0x82, 0xac, 0x62]), ["a", "", "", "€", "b", ""]);
  assert.deepEqual(streamed(tokenizer, [260, 0xac]), ["", "€", ""]);
  assert.deepEqual(streamed(tokenizer, [0xf0, 0x9f, 0x98, 0x80, 0xf0]), ["", "", "", "😀", "", "\ufffd"]);
  assert.deepEqual(streamed(tokenizer, [0xef, 0xbb, 0xbf, 0x61]).join(""), "\ufeffa");
});

Deno.test("byte level: any ids decode as the bytes they are", async () => {
  const tokenizer = await Tokenizer.create(byteLevelJson());
  fc.assert(
    fc.property(fc.array(fc.nat(255), { maxLength: 30 }), (bytes) => {
      const expected = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
      assert.equal(tokenizer.decode(bytes), expected);
    }),
    { numRuns: 500 },
  );
});

Deno.test("special tokens give no text, added tokens give theirs, ids without a token give none", async () => {
  const tokenizer = await Tokenizer.create(byteLevelJson());
  assert.deepEqual(tokenizer.encode("a<|end|><tab>b"), [0x61, 261, 262, 0x62]);
  assert.equal(tokenizer.decode([0x61, 261, 262, 0x62, 5000]), "a<tab>b");
  assert.equal(tokenizer.decode([]), "");
  assert.equal(tokenizer.decode([0xe2, 262]), "\ufffd<tab>");
  assert.equal(tokenizer.idOf("<|end|>"), 261);
  assert.equal(tokenizer.tokenOf(259), "hello");
  assert.deepEqual(tokenizer.encode(""), []);
});

Deno.test("byte fallback: spaces and split characters, as the whole text has them", async () => {
  const tokenizer = await Tokenizer.create(byteFallbackJson());
  for (const text of ["a", "a abc", "bc €a b", "€", "€€ € a", "c  a", "日本 a"]) {
    const ids = tokenizer.encode(text);
    assert.equal(tokenizer.decode(ids), text);
    assert(streamed(tokenizer, ids).every((part) => !part.includes("\ufffd")), text);
  }
});

Deno.test("what a tokenizer adds to prompts can be omitted", async () => {
  const json = byteLevelJson();
  json.post_processor = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<|end|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: { "<|end|>": { id: "<|end|>", ids: [261], tokens: ["<|end|>"] } },
  };
  const tokenizer = await Tokenizer.create(json);
  assert.deepEqual(tokenizer.encode("a"), [261, 0x61]);
  assert.deepEqual(tokenizer.encode("a", { addSpecialTokens: false }), [0x61]);
});

Deno.test("what is no tokenizer", async () => {
  await assert.rejects(Tokenizer.create(null), {
    name: "TypeError",
    message: /tokenizer\.json must hold an object/,
  });
  await assert.rejects(Tokenizer.create([]), { name: "TypeError" });
  await assert.rejects(Tokenizer.create({}), { name: "RangeError", message: /must describe a tokenizer/ });
  await assert.rejects(Tokenizer.create({ ...byteLevelJson(), model: { type: "none" } }), RangeError);
  await assert.rejects(Tokenizer.create({ ...byteLevelJson(), decoder: { type: "none" } }), RangeError);
  const tokenizer = await Tokenizer.create(byteLevelJson());
  assert.throws(() => tokenizer.encode(7 as never), { name: "TypeError", message: /text must be a string/ });
  const { model, ...rest } = byteLevelJson() as { model: Record<string, unknown> };
  const narrow = { ...rest, model: { ...model, vocab: { a: 0 }, merges: [], unk_token: "<unk>" } };
  const tokenizerWithoutUnknown = await Tokenizer.create(narrow);
  assert.throws(() => tokenizerWithoutUnknown.encode("ab"), {
    name: "RangeError",
    message: /every part of text must have a token: current value is "<unk>" \(token 1\)/,
  });
});

Deno.test("special tokens give their names where asked for, and every id its bytes", async () => {
  const config = { chat_template: "{{ messages }}", eos_token: "<|end|>" };
  const tokenizer = await Tokenizer.create(byteLevelJson(), config);
  assert.deepEqual(tokenizer.config, config);
  assert.equal(tokenizer.decode([0x61, 261, 262, 0x62], { specialTokens: true }), "a<|end|><tab>b");
  assert.deepEqual([...tokenizer.bytesOf(0xe2)], [0xe2]);
  assert.deepEqual([...tokenizer.bytesOf(260)], [0xe2, 0x82]);
  assert.equal(new TextDecoder().decode(tokenizer.bytesOf(261)), "<|end|>");
  assert.equal(new TextDecoder().decode(tokenizer.bytesOf(262)), "<tab>");
  assert.equal(tokenizer.bytesOf(5000).length, 0);
});

/** One of the cases in `golden/tokenizers.jsonl`; `golden/official_tokenizers.py` says where they come from. */
interface GoldenCase {
  json: { added_tokens: { id: number; special: boolean }[] };
  texts: string[];
  ids: number[][];
  plain: number[][];
  decoded: [ids: number[], text: string][];
}

const goldenCases: GoldenCase[] = Deno.readTextFileSync(new URL("golden/tokenizers.jsonl", import.meta.url))
  .trim().split("\n").map((line) => JSON.parse(line));

Deno.test("ids and texts are those of the official library", async () => {
  assert(goldenCases.length > 60);
  for (const [i, { json, texts, ids, plain, decoded }] of goldenCases.entries()) {
    const tokenizer = await Tokenizer.create(json);
    for (const [j, text] of texts.entries()) {
      const what = `case ${i}, ${JSON.stringify(text)}`;
      assert.deepEqual(tokenizer.encode(text), ids[j], what);
      assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: false }), plain[j], what);
    }
    for (const [ids, text] of decoded) assert.equal(tokenizer.decode(ids), text, `case ${i}, ids ${ids}`);
  }
});

Deno.test("a text that continues another is the whole less what stood before", async () => {
  for (const { json, decoded } of goldenCases) {
    const tokenizer = await Tokenizer.create(json);
    for (const [ids, text] of decoded) {
      for (let cut = 0; cut <= ids.length; cut++) {
        const before = tokenizer.decode(ids.slice(0, cut));
        const tail = tokenizer.stream({ before: ids.slice(0, cut) });
        const after = ids.slice(cut).map((id) => tail.push(id)).join("") + tail.end();
        // Half a character is completed by what follows; all else only grows.
        if (before.endsWith("\ufffd")) continue;
        assert.equal(before + after, text, `ids ${ids} cut at ${cut}`);
      }
    }
  }
});

Deno.test("what a decoder holds back of a prompt does not come again", async () => {
  const json = {
    ...wordsJson({ type: "BPEDecoder", suffix: "</w>" }),
    model: { type: "WordLevel", vocab: { "the</w>": 0, "un": 1, "ion</w>": 2 }, unk_token: "the</w>" },
    added_tokens: [],
  };
  const words = await Tokenizer.create(json);
  assert.equal(words.decode([0, 1, 2, 0]), "the union the");
  const tail = words.stream({ before: [0] });
  assert.deepEqual([1, 2, 0].map((id) => tail.push(id)).join("") + tail.end(), " union the");
  const inside = words.stream({ before: [0, 1] });
  assert.equal(inside.push(2) + inside.end(), "ion");

  const cleaned = await Tokenizer.create(byteLevelJson(), { clean_up_tokenization_spaces: true });
  const bytes = (text: string) => [...new TextEncoder().encode(text)];
  for (
    const [before, after, expected] of [["a ", "b", "b"], ["a", " , b", ", b"], ["a ", ".", "."], [
      "it",
      " 's",
      "'s",
    ]]
  ) {
    const stream = cleaned.stream({ before: bytes(before) });
    assert.equal(bytes(after).map((id) => stream.push(id)).join("") + stream.end(), expected);
  }
});

/** Words that begin with ▁, no characters: what two ways of decoding make of them. */
function wordsJson(decoder: unknown): Record<string, unknown> {
  const words = [
    "<unk>",
    "▁The",
    "▁state",
    "▁of",
    "▁the",
    "▁Union",
    "▁is",
    "s",
    "▁",
    "<0xE2>",
    "<0x82>",
    "<0xAC>",
  ];
  return {
    version: "1.0",
    added_tokens: [
      { id: 12, content: "<|end|>", special: true },
      { id: 13, content: "▁▁▁▁", special: false },
      { id: 14, content: "<b▁r>", special: true },
      { id: 15, content: "##x", special: false },
    ],
    normalizer: null,
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
    post_processor: null,
    decoder,
    model: { type: "Unigram", unk_id: 0, vocab: words.map((word, id) => [word, -id]) },
  };
}

const wordDecoders = [
  { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  {
    type: "Sequence",
    decoders: [
      { type: "Replace", pattern: { String: "▁" }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
      { type: "Strip", content: " ", start: 1, stop: 0 },
    ],
  },
];

Deno.test("the first word of an answer keeps its space", async () => {
  for (const decoder of wordDecoders) {
    const tokenizer = await Tokenizer.create(wordsJson(decoder));
    const prompt = [1, 2, 3, 4], answer = [5, 6];
    assert.equal(tokenizer.decode(prompt), "The state of the");
    assert.equal(tokenizer.decode(answer), "Union is");
    const tail = (before: number[], ids: number[]) => {
      const stream = tokenizer.stream({ before });
      return ids.map((id) => stream.push(id)).join("") + stream.end();
    };
    assert.equal(tail(prompt, answer), " Union is");
    assert.equal(tail([12], answer), "Union is", "a special token is no text");
    assert.equal(tail([12, 4, 12], answer), " Union is");
    assert.equal(tail([99], answer), "Union is", "an id without a token neither");
    assert.equal(tokenizer.decode([12, 1], { specialTokens: true }), "<|end|> The");
    const named = tokenizer.stream({ before: [12], specialTokens: true });
    assert.equal(named.push(1) + named.end(), " The", "but its name is");
    if (decoder.type === "Sequence") {
      assert.equal(tail([4, 9, 10], [11, 6]), "€ is", "half a character is completed");
    }
    assert.equal(new TextDecoder().decode(tokenizer.bytesOf(5)), " Union");
  }
});

Deno.test("only special added tokens are literal", async () => {
  for (const decoder of wordDecoders) {
    const tokenizer = await Tokenizer.create(wordsJson(decoder));
    assert.equal(tokenizer.decode([1, 13, 7]), "The    s");
    assert.equal(tokenizer.decode([1, 14, 7], { specialTokens: true }), "The<b▁r>s");
    assert.equal(tokenizer.decode([1, 14, 7]), "Thes");
    assert.equal(new TextDecoder().decode(tokenizer.bytesOf(13)), "    ");
    assert.equal(new TextDecoder().decode(tokenizer.bytesOf(14)), "<b▁r>");
    assert.equal(tokenizer.specialIdOf("<|end|>"), 12);
    assert.equal(tokenizer.specialIdOf("▁▁▁▁"), undefined);
    assert.equal(tokenizer.specialIdOf("nothing"), undefined);
  }
  const pieces = await Tokenizer.create(wordsJson({ type: "WordPiece", prefix: "##", cleanup: false }));
  assert.equal(pieces.decode([7, 15, 7, 12]), "sx s");
});

Deno.test("byte fallback: each byte that is no UTF-8 is a separate mark", async () => {
  const tokenizer = await Tokenizer.create(byteFallbackJson());
  const bytes = (...values: number[]) => tokenizer.decode(values.map((byte) => byte + 1));
  assert.equal(bytes(0xe2, 0x82), "\ufffd\ufffd");
  assert.equal(bytes(0xe2, 0x82, 0xac, 0xe2, 0x41), "€\ufffdA");
  assert.equal(bytes(0xef, 0xbf, 0xbd), "\ufffd");
  assert.equal(bytes(0xf0, 0x9f, 0x98, 0x80), "😀");
  assert.equal(bytes(0xed, 0xa0, 0x80), "\ufffd\ufffd\ufffd", "half of a surrogate pair");
  assert.equal(bytes(0xff, 0xc0, 0x80), "\ufffd\ufffd\ufffd");
  assert.equal(bytes(0xef, 0xbb, 0xbf), "\ufeff");
});

Deno.test("cleaning up spaces: over the borders of tokens, and of the whole", async () => {
  const json = byteLevelJson();
  const tokenizer = await Tokenizer.create(json, { clean_up_tokenization_spaces: true });
  for (
    const [text, cleaned] of [
      ["a , b", "a, b"],
      ["do n't !", "don't!"],
      ["it 's", "it's"],
      ["a ' b", "a'b"],
      ["x  .", "x ."],
    ]
  ) {
    const ids = [...new TextEncoder().encode(text)];
    assert.equal(tokenizer.decode(ids), cleaned);
  }
  assert.equal((await Tokenizer.create(json)).decode([...new TextEncoder().encode("a , b")]), "a , b");
});

Deno.test("features that are not computed are refused by name", async () => {
  const base = byteLevelJson() as { model: Record<string, unknown> };
  const cases: [change: Record<string, unknown>, message: RegExp][] = [
    [{ normalizer: { type: "Nmt" } }, /without this normalizer: current value is "Nmt"/],
    [
      { pre_tokenizer: { type: "UnicodeScripts" } },
      /without this pre_tokenizer: current value is "UnicodeScripts"/,
    ],
    [
      { pre_tokenizer: { type: "Punctuation", behavior: "Scattered" } },
      /known behavior: current value is "Scattered"/,
    ],
    [{ pre_tokenizer: { type: "Metaspace", prepend_scheme: "often" } }, /known prepend_scheme: .*"often"/],
    [{ post_processor: { type: "Magic" } }, /without this post_processor: current value is "Magic"/],
    [{ decoder: { type: "CTC" } }, /without this decoder: current value is "CTC"/],
    [
      { decoder: { type: "Sequence", decoders: [{ type: "Fuse" }, { type: "ByteFallback" }] } },
      /behind Fuse/,
    ],
    [{ model: { ...base.model, dropout: 0.1 } }, /without dropout: current value is 0\.1/],
    [{ model: { ...base.model, merges: [["a", "nothing"]] } }, /BPE with merges of tokens to tokens/],
    [{ model: { type: "Unigram", vocab: [["a"]], unk_id: 0 } }, /Unigram with scores/],
    [{ model: { ...base.model, vocab: { a: -1 } } }, /integers >= 0 as ids: current value is "a: -1"/],
    [{ model: { type: "Later", vocab: {} } }, /with a known model: current value is "Later"/],
    [{ added_tokens: [{ content: "x" }] }, /added_tokens with id and content/],
    [
      {
        pre_tokenizer: { type: "Metaspace", prepend_scheme: "first" },
        normalizer: { type: "Strip", strip_left: true, strip_right: true },
      },
      /Metaspace of prepend_scheme "first" without this normalizer/,
    ],
    ...[{ String: "ab" }, { Regex: "\\s+" }].map((pattern): [Record<string, unknown>, RegExp] => [
      {
        pre_tokenizer: { type: "Metaspace", prepend_scheme: "first" },
        normalizer: { type: "Replace", pattern, content: "x" },
      },
      /Metaspace of prepend_scheme "first" without this normalizer/,
    ]),
  ];
  for (const [change, message] of cases) {
    await assert.rejects(Tokenizer.create({ ...base, ...change }), { name: "RangeError", message });
  }
});

Deno.test("chat templates by name", async () => {
  const json = byteLevelJson();
  const named = [{ name: "default", template: "d" }, { name: "tool_use", template: "t" }];
  const several = await Tokenizer.create(json, { chat_template: named });
  assert.deepEqual(["default", "tool_use", "rag"].map((name) => several.chatTemplate(name)), [
    "d",
    "t",
    undefined,
  ]);
  assert.equal(several.chatTemplate(), "d");
  const one = await Tokenizer.create(json, { chat_template: "x" });
  assert.deepEqual([one.chatTemplate(), one.chatTemplate("tool_use")], ["x", undefined]);
  assert.equal((await Tokenizer.create(json)).chatTemplate(), undefined);
  assert.equal((await Tokenizer.create(json, { chat_template: [7, null] })).chatTemplate(), undefined);
});

Deno.test("a chat becomes text by the template of its kind", async () => {
  const speaker = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}";
  const config = {
    eos_token: { content: "<|end|>" },
    pad_token: "<tab>",
    chat_template: [
      { name: "default", template: `${speaker}{% if add_generation_prompt %}<assistant>{% endif %}` },
      { name: "tool_use", template: "{{ tools | length }}{{ pad_token }}{{ bos_token }}" },
    ],
  };
  const tokenizer = await Tokenizer.create(byteLevelJson(), config);
  const messages = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Yes?" }];
  assert.equal(tokenizer.applyChatTemplate(messages), "<user>Hi<|end|><assistant>Yes?<|end|>");
  const prompted = tokenizer.applyChatTemplate(messages.slice(0, 1), { addGenerationPrompt: true });
  assert.equal(prompted, "<user>Hi<|end|><assistant>");
  assert.equal(tokenizer.applyChatTemplate(messages, { tools: [{}, {}] }), "2<tab>");
  const template = "{% if tools is none %}none{% endif %}{{ messages[0].extra }}";
  assert.equal(tokenizer.applyChatTemplate([{ role: "user", extra: 7 }], { template }), "none7");

  const bare = await Tokenizer.create(byteLevelJson());
  const refusal = (chat_template: string) => ({ template: chat_template });
  const cases: [call: () => string, error: { name: string; message: RegExp }][] = [
    [() => bare.applyChatTemplate(messages), { name: "RangeError", message: /must bring a chat template/ }],
    [() => tokenizer.applyChatTemplate([]), { name: "RangeError", message: /at least one message/ }],
    [() => tokenizer.applyChatTemplate("Hi" as never), {
      name: "TypeError",
      message: /an array of messages/,
    }],
    [() => tokenizer.applyChatTemplate([{} as never]), {
      name: "TypeError",
      message: /with a role: .*message 0/,
    }],
    [
      () => bare.applyChatTemplate(messages, refusal("{{ raise_exception('only questions') }}")),
      { name: "RangeError", message: /\["user", "assistant"\] \(only questions\)/ },
    ],
    [
      () => bare.applyChatTemplate(messages, refusal("{% for %}")),
      { name: "RangeError", message: /such as the chat template takes/ },
    ],
  ];
  for (const [call, error] of cases) assert.throws(call, error);
});
