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

Deno.test("what a tokenizer adds to prompts can be left out", async () => {
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
