/**
 * Checkpoints in the formats that the TNL authors publish, held to what the authors' code gives (`golden/published/`).
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Backend } from "../mod.ts";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { decodeSafetensors } from "../model/safetensors.ts";
import { convertModel } from "../train/convert.ts";
import { inFolder } from "./folder.ts";
import { assertClose, eachBackend } from "./harness.ts";
import {
  checkpoint,
  type Files,
  randomTensors,
  SERVED,
  serving,
  SMALL,
  textFile,
} from "./reference_model.ts";
import { serveFolder } from "./torch_files.ts";

const PUBLISHED = new URL("golden/published/", import.meta.url);
const HOSTILE = new URL("hostile/", PUBLISHED);

/** Folders, and the file of each that is read by ranges. */
const CHECKPOINTS: Readonly<Record<string, string | undefined>> = {
  tnl_gpt2_safetensors: undefined,
  tnl_sentencepiece_bin: "pytorch_model.bin",
  tnl_sharded_float_bin: "pytorch_model-00001-of-00003.bin",
  tnl_tiktoken_bin: "pytorch_model-00001-of-00002.bin",
};

/** What the authors' code gives for a checkpoint. */
function expectedOf(folder: URL) {
  const { tensors } = decodeSafetensors(Deno.readFileSync(new URL("expected.safetensors", folder)));
  const get = (name: string) => tensors.get(name)!;
  const bytes = (name: string) => get(name).bytes.slice().buffer;
  const ids = new Int32Array(bytes("input_ids")), [batch, seqLen] = get("input_ids").shape;
  return {
    rows: Array.from({ length: batch }, (_, b) => [...ids.subarray(b * seqLen, (b + 1) * seqLen)]),
    logits: new Float32Array(bytes("logits")),
    greedy: [...new Int32Array(bytes("greedy"))],
  };
}

async function assertExpected(model: TransNormerLLM, folder: URL): Promise<void> {
  const { rows, logits: expected, greedy } = expectedOf(folder);
  using logits = model.forward(rows);
  assertClose(await logits.data(), expected, 1e-4, "logits");
  const options = { maxTokens: greedy.length - 8, temperature: 0, eos: false };
  const tokens = await Array.fromAsync(model.generate(greedy.slice(0, 8), options));
  assert.deepEqual(tokens.map(({ token }) => token), greedy.slice(8));
}

for (const [name, ranged] of Object.entries(CHECKPOINTS)) {
  const folder = new URL(`${name}/`, PUBLISHED);

  eachBackend(`${name}: the authors' logits and tokens, from a folder and from servers`, async (backend) => {
    using local = await TransNormerLLM.load(folder, { backend });
    await assertExpected(local, folder);
    assert.equal(local.weights.lmHead, local.weights.embedTokens, "tied, and there once");
    for (const ranges of [true, false]) {
      await using server = serveFolder(folder, { ranges });
      using remote = await TransNormerLLM.load(server.url, { backend });
      assert.equal(remote.fingerprint, local.fingerprint);
      await assertExpected(remote, folder);
      const partial = [...server.answers].filter(([answer]) => answer.endsWith(" 206"));
      assert.equal(partial.length > 0, ranges && ranged !== undefined, JSON.stringify(partial));
      // The directory at the end; then from the pickle on to the last tensor.
      for (const [answer, count] of partial) assert(count <= 2, `${answer}: ${count} requests`);
    }
  });

  Deno.test(`${name}: converted, it is the same model`, async () => {
    using backend = await createBackend({ prefer: "wasm" });
    await inFolder(async (out) => {
      await convertModel(folder, `${out}/plain`, {});
      using model = await TransNormerLLM.load(`${out}/plain`, { backend });
      await assertExpected(model, folder);
      using original = await TransNormerLLM.load(folder, { backend });
      assert.equal(model.fingerprint, original.fingerprint);
      const files = [...Deno.readDirSync(`${out}/plain`)].map(({ name }) => name);
      const others = files.filter((name) => !/^(config|generation_config|introduction)\.json$/.test(name));
      const tokenizer = original.tokenizer === undefined ? [] : ["tokenizer.json", "tokenizer_config.json"];
      assert.deepEqual(others.sort(), ["model.safetensors", ...tokenizer]);
      for (const text of ["Lightning attention  is 1,234 \u00e9e\u0301 \u{1f600}\n\t</s>", ""]) {
        const ids = original.tokenizer?.encode(text);
        assert.deepEqual(model.tokenizer?.encode(text), ids);
        if (ids !== undefined) assert.equal(model.tokenizer!.decode(ids), original.tokenizer!.decode(ids));
      }
      // What is BF16 already, or is halved to it, loses no more than BF16 does.
      for (const weights of ["bf16", "f16"] as const) {
        await convertModel(folder, `${out}/${weights}`, { weights });
        using halved = await TransNormerLLM.load(`${out}/${weights}`, { backend });
        using logits = halved.forward(expectedOf(folder).rows);
        const isExact = weights === "bf16" && name !== "tnl_sharded_float_bin";
        const limit = isExact ? 1e-4 : weights === "f16" ? 0.01 : 0.05;
        assertClose(await logits.data(), expectedOf(folder).logits, limit, weights);
      }
    });
  });
}

// --------------------------------------------------------------------------------------------------- hostile files

/** Files that must be refused, and how. */
const REFUSED: Readonly<Record<string, RegExp>> = {
  big_endian: /byte order must be little: current value is "big"/,
  builtins_eval: /must name nothing but .* "__builtin__\.eval" \(tensor "extra"/,
  deflate_bomb: /neither compressed nor encrypted/,
  huge_numel: /storage must hold 20480 bytes.*"1099511627776 BF16" \(tensor "model\.embed_tokens\.weight"/,
  huge_size: /must lie within its storage of 256 elements.*tensor "model\.layers\.0\.token_mixer\.out_proj/,
  legacy_format: /must be of PyTorch 1\.6 or later/,
  missing_storage: /must be in the archive: current value is "no record data\/3" \(tensor "model\.layers\.0/,
  negative_size: /shape must be of at most 64 integers >= 0: current value is \[-16, -16\] \(tensor "model/,
  negative_stride: /strides must be integers >= 0.*\[-16, -1\] \(tensor "model/,
  not_a_zip: /must be a whole zip archive|an HTML page/, // that is what a server's text looks like
  os_system: /must name nothing but .* "posix\.system" \(tensor "extra"/,
  outside_offset:
    /must lie within its storage of 256 elements: current value is "256 from element 1.*tensor "model/,
  outside_stride: /must lie within its storage of 256 elements: current value is "271 from .*tensor "model/,
  short_storage: /storage must hold 2046 bytes.*"1024 BF16" \(tensor "model\.layers\.0\.token_mixer\.qkvu/,
  truncated: /must be a whole zip archive/,
  truncated_pickle: /the pickle must not end before 1 more bytes.*tensor "model/,
  truncated_tail: /must be a whole zip archive/,
  unknown_class: /must name nothing but .* "some_module\.Unknown" \(tensor "extra"/,
  unknown_storage: /must name nothing but .* "torch\.EvilStorage" \(tensor "model\.embed_tokens\.weight"/,
  wrong_shape: /shape of "model\.layers\.0\.token_mixer\.out_proj\.weight" must be \[16, 16\].*\[8, 32\]/,
};
const ACCEPTED: readonly string[] = ["control", "rebuilt_pickle", "zip64", "torch_1_zip"];

/** Loads a file of the hostile folder as `pytorch_model.bin`. */
async function withHostile(name: string, body: (folder: string) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    await Deno.copyFile(new URL("config.json", HOSTILE), `${folder}/config.json`);
    await Deno.copyFile(new URL(`${name}.bin`, HOSTILE), `${folder}/pytorch_model.bin`);
    await body(folder);
  });
}

Deno.test("hostile PyTorch files: all of them are judged", () => {
  const files = [...Deno.readDirSync(HOSTILE)].map(({ name }) => name).filter((name) =>
    name.endsWith(".bin")
  );
  const judged = [...Object.keys(REFUSED), ...ACCEPTED].map((name) => `${name}.bin`);
  assert.deepEqual(files.sort(), judged.sort());
});

for (const [name, message] of Object.entries(REFUSED)) {
  Deno.test(`hostile PyTorch files: ${name} is refused`, async () => {
    using backend = await createBackend({ prefer: "wasm" });
    const check = (error: Error) => {
      assert(error instanceof RangeError || error instanceof TypeError, String(error));
      assert.match(error.message, /^Cannot run (readTorch|TransNormerLLM\.load) as .*pytorch_model\.bin/);
      assert.match(error.message, message);
      return true;
    };
    await withHostile(name, async (folder) => {
      await assert.rejects(TransNormerLLM.load(folder, { backend }), check);
      for (const ranges of [true, false]) {
        await using server = serveFolder(folder, { ranges });
        await assert.rejects(TransNormerLLM.load(server.url, { backend }), check);
      }
      await assert.rejects(convertModel(folder, `${folder}/out`, {}), check);
      const left = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
      assert.deepEqual(left, ["config.json", "pytorch_model.bin"], "nothing ran, nothing is left");
    });
    assert.equal(backend.bytesInUse, 0);
  });
}

for (const name of ACCEPTED) {
  eachBackend(`hostile PyTorch files: ${name} is sound`, async (backend: Backend) => {
    await withHostile(name, async (folder) => {
      using model = await TransNormerLLM.load(folder, { backend });
      await assertExpected(model, HOSTILE);
    });
  });
}

// ---------------------------------------------------------------------------------------------------- what is asked

Deno.test("a server without range requests: the file goes to a temporary one, which is gone afterwards", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  await inFolder(async (folder) => {
    const before = Deno.env.get("TMPDIR");
    Deno.env.set("TMPDIR", folder);
    try {
      for (const name of ["tnl_sentencepiece_bin", "tnl_sharded_float_bin"]) {
        await using server = serveFolder(new URL(name, PUBLISHED), { ranges: false });
        using _model = await TransNormerLLM.load(server.url, { backend });
        assert.deepEqual([...Deno.readDirSync(folder)], []);
      }
      await Deno.remove(folder);
      await using server = serveFolder(new URL("tnl_sentencepiece_bin", PUBLISHED), { ranges: false });
      await assert.rejects(
        TransNormerLLM.load(server.url, { backend }),
        /^RangeError: Cannot run .* must answer range requests for pytorch_model\.bin, or a temporary file/,
      );
      await Deno.mkdir(folder);
    } finally {
      if (before === undefined) Deno.env.delete("TMPDIR");
      else Deno.env.set("TMPDIR", before);
    }
  });
});

Deno.test("a server that promises ranges and sends others, and one whose file changes, are found out", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  const folder = new URL("tnl_sentencepiece_bin/", PUBLISHED);
  const load = (answer: (bytes: Uint8Array<ArrayBuffer>, from: number) => Response) =>
    TransNormerLLM.load("https://models.test/a", {
      backend,
      async fetch(input, init) {
        const name = new URL(input instanceof Request ? input.url : input).pathname.slice(3);
        const bytes = await Deno.readFile(new URL(name, folder)).catch(() => undefined);
        if (bytes === undefined) return new Response("none", { status: 404 });
        const range = new Headers(init?.headers).get("range");
        if (range !== null) return answer(bytes, Number(/\d+/.exec(range)![0]));
        const headers = { "accept-ranges": "bytes", "content-length": `${bytes.length}` };
        return new Response(bytes, { headers });
      },
    });
  const part = (bytes: Uint8Array<ArrayBuffer>, from: number, range: string) =>
    new Response(bytes.subarray(from), { status: 206, headers: { "content-range": range } });
  const refused = (came: RegExp) => (error: Error) => {
    assert.match(
      error.message,
      /^Cannot run .* pytorch_model\.bin must be readable from byte \d+ of 415802: /,
    );
    assert.match(error.message, came);
    return true;
  };
  await assert.rejects(load((bytes) => new Response(bytes)), refused(/HTTP status 200/));
  await assert.rejects(load(() => new Response("gone", { status: 410 })), refused(/HTTP status 410/));
  const grown = (bytes: Uint8Array<ArrayBuffer>, from: number) =>
    part(bytes, from, `bytes ${from}-${bytes.length}/${bytes.length + 1}`);
  await assert.rejects(load(grown), refused(/range bytes \d+-415802\/415803/));
  const short = (bytes: Uint8Array<ArrayBuffer>, from: number) =>
    part(bytes.subarray(0, -1), from, `bytes ${from}-${bytes.length - 1}/${bytes.length}`);
  await assert.rejects(load(short), /the file must hold \d+ bytes from byte \d+/);
  using _model = await load((bytes, from) =>
    part(bytes, from, `bytes ${from}-${bytes.length - 1}/${bytes.length}`)
  );
});

Deno.test("loading stops when it is told to, and leaves no temporary file", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  const bin = await Deno.readFile(new URL("tnl_sentencepiece_bin/pytorch_model.bin", PUBLISHED));
  const config = await Deno.readFile(new URL("tnl_sentencepiece_bin/config.json", PUBLISHED));
  await inFolder(async (folder) => {
    const before = Deno.env.get("TMPDIR");
    Deno.env.set("TMPDIR", folder);
    try {
      const stop = new AbortController();
      let pieces = 0;
      const fetch = serving({ "config.json": config, "pytorch_model.bin": bin }, (file) => {
        if (file === "pytorch_model.bin" && ++pieces === 500) stop.abort(new Error("enough"));
      });
      await assert.rejects(
        TransNormerLLM.load(SERVED, { backend, fetch, signal: stop.signal }),
        /^Error: enough/,
      );
      assert.deepEqual([...Deno.readDirSync(folder)], []);
    } finally {
      if (before === undefined) Deno.env.delete("TMPDIR");
      else Deno.env.set("TMPDIR", before);
    }
  });
});

Deno.test("safetensors are preferred to PyTorch's files, one file to shards", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  const tensors = randomTensors(SMALL, 3);
  const files: Files = { ...checkpoint(SMALL, tensors), "pytorch_model.bin": textFile("no zip") };
  using _model = await TransNormerLLM.load(SERVED, { backend, fetch: serving(files) });
  const { "model.safetensors": _, ...rest } = files;
  await assert.rejects(TransNormerLLM.load(SERVED, { backend, fetch: serving(rest) }), /whole zip archive/);
  const { "pytorch_model.bin": __, ...none } = rest;
  await assert.rejects(
    TransNormerLLM.load(SERVED, { backend, fetch: serving(none) }),
    /must have model\.safetensors or .* or pytorch_model\.bin or pytorch_model\.bin\.index\.json/,
  );
});

Deno.test("an index of PyTorch's shards names shards that are there", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  const load = (weight_map: unknown) => {
    const files = {
      "config.json": textFile(SMALL),
      "pytorch_model.bin.index.json": textFile({ weight_map }),
    };
    return TransNormerLLM.load(SERVED, { backend, fetch: serving(files) });
  };
  const map = Object.fromEntries([...randomTensors(SMALL, 1).keys()].map((name) => [name, "a.bin"]));
  await assert.rejects(load(map), /every shard of the index must exist: current value is "a\.bin"/);
  await assert.rejects(load({ ...map, x: "../a.bin" }), /must name \.bin files beside it/);
  await assert.rejects(load({ ...map, x: "a.safetensors" }), /must name \.bin files beside it/);
});

Deno.test("TransNormerLLM3's gate, and models of other kinds, are refused in a sentence", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  const load = (config: unknown, tensors = randomTensors(SMALL, 1)) => {
    const files = { ...checkpoint(SMALL, tensors), "config.json": textFile(config) };
    return TransNormerLLM.load(SERVED, { backend, fetch: serving(files) });
  };
  const gated = new Map([...randomTensors(SMALL, 1)].filter(([name]) => !name.includes("qkvu_proj")));
  await assert.rejects(
    load({ ...SMALL, gate_dim: 16 }, gated),
    /^RangeError: .* low-rank gate \(gate_dim\), as TransNormerLLM3 does: .* does not guess: current value is 16/,
  );
  await assert.rejects(load({ ...SMALL, gate_dim: "16" }), /gate_dim must be a number/);
  using _model = await load({ ...SMALL, gate_dim: 16 }); // which has the full projection
  await assert.rejects(load(SMALL, gated), /must hold "model\.layers\.0\.token_mixer\.qkvu_proj\.weight"/);
  await assert.rejects(
    load({ ...SMALL, model_type: "llama" }),
    /model_type must be "transnormer": current value is "llama"/,
  );
});
