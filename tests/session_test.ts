import assert from "node:assert/strict";
import type { Backend, Tensor } from "../mod.ts";
import { type GenerateOptions, TransNormerLLM } from "../model/mod.ts";
import { PREFILL_TOKENS } from "../model/session.ts";
import { assertSameBits, eachBackend } from "./harness.ts";
import {
  byteLevelJson,
  checkpoint,
  type ConfigJson,
  randomTensors,
  SERVED,
  serving,
  SMALL,
  textFile,
} from "./reference_model.ts";

/** As many ids as {@linkcode byteLevelJson} has tokens; 261 is its end. */
const TEXT: ConfigJson = { ...SMALL, vocab_size: 263, linear_use_lrpe_list: [1, 1] };

function load(backend: Backend, config: ConfigJson = SMALL, seed = 1, tokenizer = false) {
  const files = checkpoint(config, randomTensors(config, seed));
  if (tokenizer) files["tokenizer.json"] = textFile(byteLevelJson());
  return TransNormerLLM.load(SERVED, { backend, fetch: serving(files) });
}

async function row(tensor: Tensor): Promise<Float32Array> {
  using logits = tensor;
  return await logits.data();
}

function generated(model: TransNormerLLM, prompt: string | number[], options: GenerateOptions = {}) {
  return Array.fromAsync(model.generate(prompt, options));
}

eachBackend("interleaved sessions are as sessions alone", async (backend) => {
  using model = await load(backend);
  const prompts = [[1, 2, 3], [9, 8, 7, 6, 5, 4], [22]];
  const steps = [4, 0, 17, 22, 22, 3];
  const alone: Float32Array[][] = [];
  for (const prompt of prompts) {
    using session = model.session();
    const rows = [await row(session.prefill(prompt))];
    for (const id of steps) rows.push(await row(session.step(id)));
    alone.push(rows);
  }
  const sessions = prompts.map(() => model.session());
  for (const [s, session] of sessions.entries()) {
    assertSameBits(await row(session.prefill(prompts[s])), alone[s][0], `session ${s} after its prompt`);
  }
  for (const [i, id] of steps.entries()) {
    model.forward([[i, i]]).dispose(); // other work in between
    for (const [s, session] of sessions.entries()) {
      assertSameBits(await row(session.step(id)), alone[s][i + 1], `session ${s} after step ${i}`);
      assert.equal(session.position, prompts[s].length + i + 1);
    }
  }
  for (const session of sessions) session.dispose();
});

eachBackend("the state has the same size after any number of tokens", async (backend) => {
  using model = await load(backend);
  using session = model.session();
  const empty = session.stateBytes;
  assert.equal(empty, 4 * 3 * 6 * (12 + 6)); // heads · valueDim · (headDim with LRPE + headDim without)
  session.prefill(Array.from({ length: 2000 }, (_, t) => t % 23)).dispose();
  const inUse = backend.bytesInUse;
  for (let i = 0; i < 200; i++) session.step(i % 23).dispose();
  assert.equal(session.stateBytes, empty);
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend("a snapshot goes on bit for bit", async (backend) => {
  using model = await load(backend);
  using session = model.session();
  session.prefill([3, 1, 4, 1, 5, 9, 2, 6]).dispose();
  const taking = session.snapshot(); // what happens next is not in it
  const expected = [
    await row(session.step(5)),
    await row(session.prefill([3, 5, 8])),
    await row(session.step(9)),
  ];
  const bytes = await taking;
  for (const copy of [bytes, new Uint8Array([...new Uint8Array(3), ...bytes]).subarray(3)]) {
    using restored = model.restore(copy);
    assert.equal(restored.position, 8);
    assert.deepEqual(await restored.snapshot(), bytes);
    assertSameBits(await row(restored.step(5)), expected[0]);
    assertSameBits(await row(restored.prefill([3, 5, 8])), expected[1]);
    assertSameBits(await row(restored.step(9)), expected[2]);
  }
  using fresh = model.session();
  using restoredFresh = model.restore(await fresh.snapshot());
  assert.equal(restoredFresh.position, 0);
  assertSameBits(await row(restoredFresh.prefill([1, 2])), await row(fresh.prefill([1, 2])));

  using reloaded = await load(backend);
  using elsewhere = reloaded.restore(bytes);
  assertSameBits(await row(elsewhere.step(5)), expected[0], "in another instance of the model");
});

eachBackend("a snapshot that is damaged or another model's is refused", async (backend) => {
  using model = await load(backend);
  using otherWeights = await load(backend, SMALL, 2);
  using otherConfig = await load(backend, { ...SMALL, linear_act_fun: "relu" });
  using session = model.session();
  session.prefill([1, 2, 3]).dispose();
  const bytes = await session.snapshot();
  const before = backend.bytesInUse;
  const refuse = (bytes: unknown, message: RegExp, by = model, name = "RangeError") => {
    assert.throws(() => by.restore(bytes as Uint8Array), (error: Error) => {
      assert.equal(error.name, name);
      assert.match(error.message, message);
      assert.match(error.message, /^Cannot run TransNormerLLM\.restore as /);
      return true;
    });
  };
  refuse(
    bytes,
    /must be of this model: its fingerprint is [0-9a-f]{32}: current value is "[0-9a-f]{32}"/,
    otherWeights,
  );
  refuse(bytes, /must be of this model/, otherConfig);
  refuse(new Uint8Array(0), /must be a snapshot of a session/);
  refuse(bytes.subarray(0, 15), /must be a snapshot of a session/);
  refuse(bytes.buffer, /bytes must be a Uint8Array/, model, "TypeError");
  refuse("bytes", /bytes must be a Uint8Array/, model, "TypeError");
  for (let at = 0; at < bytes.length; at += at < 300 ? 1 : 97) {
    const damaged = bytes.slice();
    damaged[at] ^= 1 << at % 8;
    refuse(damaged, at < 8 ? /must be a snapshot/ : at < 12 ? /version must be 1/ : /must be whole/);
    refuse(bytes.slice(0, at), /./);
  }
  assert.equal(backend.bytesInUse, before);
});

eachBackend("what a session refuses leaves it where it stood", async (backend) => {
  using model = await load(backend);
  using session = model.session();
  session.prefill([1, 2]).dispose();
  const before = await session.snapshot(), inUse = backend.bytesInUse;
  assert.throws(() => session.prefill([]), {
    name: "RangeError",
    message: /ids must hold at least one token/,
  });
  assert.throws(() => session.prefill([1, 23]), {
    message: "Cannot run Session.prefill as ids must be integers from 0 to 22: current value is 23 (index 1)",
  });
  assert.throws(() => session.prefill("12" as never), TypeError);
  assert.throws(() => session.prefill([1], { logits: "some" as never }), /logits must be "last" or "all"/);
  assert.throws(() => session.step(-1), { name: "RangeError", message: /current value is -1/ });
  assert.throws(() => session.step(undefined as never), RangeError);
  assert.equal(session.position, 2);
  assert.equal(backend.bytesInUse, inUse);
  assert.deepEqual(await session.snapshot(), before);
  session.dispose();
  assert.throws(() => session.step(1), { name: "BackendError", reason: "disposed" });
  assert.throws(() => session.prefill([1]), { name: "BackendError", reason: "disposed" });
  await assert.rejects(session.snapshot(), { name: "BackendError", reason: "disposed" });
  assert.equal(session.stateBytes, 0);
});

/** Makes the backend's n-th allocation from now fail. */
function failAt(backend: Backend, n: number): Disposable {
  const { empty } = backend;
  backend.empty = (shape, dtype) => {
    if (--n === 0) throw new Error("out of memory, for the test");
    return empty.call(backend, shape, dtype);
  };
  return { [Symbol.dispose]: () => void (backend.empty = empty) };
}

eachBackend("a failure anywhere in a pass leaves no partial state", async (backend) => {
  using model = await load(backend);
  using session = model.session();
  session.prefill([1, 2]).dispose();
  const before = await session.snapshot(), inUse = backend.bytesInUse;
  const ids = Array.from({ length: PREFILL_TOKENS[backend.name] + 200 }, (_, t) => t % 23); // two passes
  let failures = 0;
  for (let n = 1;; n++) {
    using _failing = failAt(backend, n);
    try {
      session.prefill(ids).dispose();
      break;
    } catch (error) {
      assert.match((error as Error).message, /for the test/);
      failures++;
    }
    assert.equal(backend.bytesInUse, inUse, `allocation ${n}`);
    assert.equal(session.position, 2);
    assert.deepEqual(await session.snapshot(), before);
  }
  assert(failures > 40, `${failures} allocations failed`);
  assert.equal(session.position, 2 + ids.length);

  for (let n = 1; n < 8; n++) {
    using broken = model.restore(before);
    {
      using _failing = failAt(backend, n);
      assert.throws(() => broken.step(1), /for the test/);
    }
    assert.equal(backend.bytesInUse, inUse, "a session that failed within a step is over");
    assert.throws(() => broken.step(1), { name: "BackendError", reason: "disposed" });
  }
  {
    using _failing = failAt(backend, 9);
    assert.throws(() => model.forward([[1, 2]]), /for the test/);
  }
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend("logits that nobody disposes end with the session", async (backend) => {
  using model = await load(backend);
  const inUse = backend.bytesInUse;
  const session = model.session();
  session.prefill([1, 2, 3]);
  session.step(4);
  session.prefill([5], { logits: "all" });
  session.dispose();
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend("one token is one readback", async (backend) => {
  using model = await load(backend);
  let reads = 0;
  const { read } = backend;
  backend.read = (tensor) => (reads++, read.call(backend, tensor));
  const tokens = await generated(model, [1, 2, 3], { maxTokens: 12, seed: 4 });
  backend.read = read;
  assert.equal(reads, tokens.length);
});

eachBackend("generation is what sampling from a session gives", async (backend) => {
  using model = await load(backend);
  const tokens = await generated(model, [5, 6], { maxTokens: 10, temperature: 0 });
  assert.deepEqual(tokens.map(({ finish }) => finish), [...new Array(9).fill(undefined), "length"]);
  using session = model.session();
  let logits = await row(session.prefill([5, 6]));
  for (const { token, logprob } of tokens) {
    assert.equal(token, logits.indexOf(Math.max(...logits)));
    const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
    assert(Math.abs(logprob - (logits[token] - total)) < 1e-5);
    logits = await row(session.step(token));
  }
  assert.deepEqual(await generated(model, [5, 6], { maxTokens: 0 }), []);
});

eachBackend("the same seed generates the same, also side by side", async (backend) => {
  using model = await load(backend);
  const options = { maxTokens: 20, temperature: 1.2, topP: 0.95, seed: 11 };
  const [a, b, c] = await Promise.all([
    generated(model, [5, 6], options),
    generated(model, [5, 6], options),
    generated(model, [5, 6], { ...options, seed: 12 }),
  ]);
  assert.deepEqual(a, b);
  assert.notDeepEqual(a, c);
});

eachBackend("generation ends at an end-of-sequence token", async (backend) => {
  using plain = await load(backend);
  const tokens = (await generated(plain, [5, 6], { maxTokens: 30, seed: 2 })).map(({ token }) => token);
  const eos = tokens[7], first = tokens.indexOf(eos);
  for (const eos_token_id of [eos, [eos, 999]]) {
    using model = await load(backend, { ...SMALL, eos_token_id });
    const ended = await generated(model, [5, 6], { maxTokens: 30, seed: 2 });
    assert.deepEqual(ended.map(({ token }) => token), tokens.slice(0, first + 1));
    assert.equal(ended.at(-1)!.finish, "eos");
  }
  using none = await load(backend, { ...SMALL, eos_token_id: null });
  assert.equal((await generated(none, [5, 6], { maxTokens: 30, seed: 2 })).length, 30);
});

eachBackend("text in, text out, up to a stop string", async (backend) => {
  using model = await load(backend, TEXT, 3, true);
  const options = { maxTokens: 60, seed: 5 };
  const all = await generated(model, "hello", options);
  const text = all.map(({ text }) => text).join("");
  assert.equal(text, model.tokenizer!.decode(all.map(({ token }) => token)), "nothing lost, nothing twice");
  const fromIds = await generated(model, model.tokenizer!.encode("hello"), options);
  assert.deepEqual(fromIds, all);
  for (const [from, length] of [[10, 1], [12, 2], [7, 5]]) {
    const stop = [...text].slice(from, from + length).join("");
    for (const stops of [stop, [stop], ["never comes", stop]]) {
      const stopped = await generated(model, "hello", { ...options, stop: stops });
      assert.equal(stopped.map(({ text }) => text).join(""), text.slice(0, text.indexOf(stop)));
      assert.equal(stopped.at(-1)!.finish, "stop");
      assert.deepEqual(
        stopped.map(({ token }) => token),
        all.slice(0, stopped.length).map(({ token }) => token),
      );
    }
  }
  const held = await generated(model, "hello", { ...options, stop: text.slice(-3) + "no" });
  assert.equal(held.map(({ text }) => text).join(""), text, "text held back comes at the end");
  assert.deepEqual(await generated(model, "hello", { ...options, stop: [] }), all);
});

eachBackend("likelihood of text", async (backend) => {
  using model = await load(backend, TEXT, 3, true);
  const { tokenizer } = model;
  const split = await model.loglikelihood("he said", " hello");
  assert.deepEqual(
    split,
    await model.loglikelihood(tokenizer!.encode("he said"), tokenizer!.encode(" hello")),
  );
  assert.deepEqual(await model.loglikelihood("he said ", "hello"), split, "the space goes with the word");
  assert.equal(await model.perplexity("hello you"), await model.perplexity(tokenizer!.encode("hello you")));
  await assert.rejects(model.loglikelihood("", "a"), /context must hold at least one token/);
  await assert.rejects(model.loglikelihood("a", ""), /continuation must hold at least one token/);
});

eachBackend("generation refuses bad input, and the model goes on", async (backend) => {
  using model = await load(backend);
  const inUse = backend.bytesInUse;
  const cases: [prompt: unknown, options: unknown, name: string, message: RegExp][] = [
    [[], {}, "RangeError", /prompt must hold at least one token/],
    [[23], {}, "RangeError", /prompt must be integers from 0 to 22: current value is 23/],
    [[0.5], {}, "RangeError", /current value is 0\.5/],
    ["text", {}, "TypeError", /prompt must be token ids for a model without a tokenizer/],
    [undefined, {}, "TypeError", /prompt must be an array of token ids/],
    [[1], { maxTokens: -1 }, "RangeError", /maxTokens must be an integer >= 0/],
    [[1], { maxTokens: NaN }, "RangeError", /maxTokens/],
    [[1], { maxTokens: "5" }, "TypeError", /maxTokens must be a number/],
    [[1], { temperature: -1 }, "RangeError", /temperature/],
    [[1], { stop: "x" }, "TypeError", /stop strings need a model with a tokenizer/],
    [[1], { stop: [1] }, "TypeError", /stop must be a string or strings/],
    [[1], { stop: "" }, "RangeError", /stop strings must not be empty/],
  ];
  for (const [prompt, options, name, message] of cases) {
    await assert.rejects(generated(model, prompt as never, options as never), (error: Error) => {
      assert.equal(error.name, name, error.message);
      assert.match(error.message, message);
      assert.match(error.message, /^Cannot run TransNormerLLM\.generate as /);
      return true;
    });
  }
  assert.equal(backend.bytesInUse, inUse);
  using withText = await load(backend, TEXT, 3, true);
  await assert.rejects(generated(withText, ""), /prompt must hold at least one token/);
  assert.equal((await generated(model, [1], { maxTokens: 2 })).length, 2);
});

eachBackend("logits that are NaN end generation with an error", async (backend) => {
  const tensors = randomTensors(SMALL, 1);
  tensors.get("lm_head.weight")!.data[40] = NaN;
  using model = await TransNormerLLM.load(SERVED, { backend, fetch: serving(checkpoint(SMALL, tensors)) });
  const inUse = backend.bytesInUse;
  for (const temperature of [0, 1]) {
    await assert.rejects(generated(model, [1], { temperature }), {
      name: "RangeError",
      message:
        "Cannot run TransNormerLLM.generate as logits must be numbers below Infinity: current value is NaN (token 3)",
    });
  }
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend("generation can be stopped, and leaves nothing behind", async (backend) => {
  using model = await load(backend);
  const inUse = backend.bytesInUse;
  const reason = new Error("enough");
  await assert.rejects(generated(model, [1], { signal: AbortSignal.abort(reason) }), reason);

  const controller = new AbortController();
  let count = 0;
  await assert.rejects(async () => {
    for await (const _ of model.generate([1], { maxTokens: Infinity, signal: controller.signal })) {
      if (++count === 5) controller.abort(reason);
    }
  }, reason);
  assert.equal(count, 5);

  const timer = new AbortController();
  setTimeout(() => timer.abort(reason), 20);
  await assert.rejects(generated(model, [1], { maxTokens: Infinity, signal: timer.signal }), reason);

  for await (const _ of model.generate([1], { maxTokens: Infinity })) if (++count === 8) break;
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend("turns of a session are one text: prompts and answers, one after another", async (backend) => {
  using model = await load(backend, TEXT, 3, true);
  const inUse = backend.bytesInUse;
  {
    using session = model.session();
    const read: number[] = [];
    for (const [turn, prompt] of ["he said", " hello", "and"].entries()) {
      const options = { maxTokens: 5 + turn, temperature: 0 };
      const ids = model.tokenizer!.encode(prompt);
      const answer = await Array.fromAsync(session.generate(prompt, options));
      // As one prompt of all that came before. Sums of a long prefill round otherwise than those of steps.
      const whole = await generated(model, [...read, ...ids], options);
      assert.deepEqual(answer.map(({ token }) => token), whole.map(({ token }) => token));
      assert.deepEqual(answer.map(({ text }) => text), whole.map(({ text }) => text));
      read.push(...ids, ...answer.map(({ token }) => token));
      assert.equal(session.position, read.length);
    }
    const continued = await Array.fromAsync(session.generate("", { maxTokens: 3, temperature: 0 }));
    const whole = await generated(model, read, { maxTokens: 3, temperature: 0 });
    assert.deepEqual(continued.map(({ token }) => token), whole.map(({ token }) => token));
    session.step(1).dispose();
    await assert.rejects(Array.fromAsync(session.generate("")), /prompt must hold at least one token/);
  }
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend("a session has read every token that it yielded, however the loop ends", async (backend) => {
  using model = await load(backend);
  const inUse = backend.bytesInUse;
  const expected = (await generated(model, [5, 6], { maxTokens: 6, seed: 1 })).map(({ token }) => token);
  const next = await row(model.session().prefill([5, 6, ...expected]));
  const check = async (run: (session: ReturnType<typeof model.session>) => Promise<void>) => {
    using session = model.session();
    await run(session);
    const count = session.position - 2;
    assert(count > 0 && count <= 6);
    // The state is that of prompt and answer: steps from here give what the whole text gives.
    let logits: Float32Array | undefined;
    for (const id of expected.slice(count)) logits = await row(session.step(id));
    if (logits !== undefined) {
      assert.equal(logits.indexOf(Math.max(...logits)), next.indexOf(Math.max(...next)));
    }
  };
  await check(async (session) => {
    assert.equal((await Array.fromAsync(session.generate([5, 6], { maxTokens: 6, seed: 1 }))).length, 6);
    assert.equal(session.position, 8);
  });
  await check(async (session) => {
    let count = 0;
    for await (const _ of session.generate([5, 6], { maxTokens: 6, seed: 1 })) if (++count === 3) break;
    assert.equal(session.position, 5);
  });
  await check(async (session) => {
    const stop = new AbortController();
    await assert.rejects(async () => {
      for await (const _ of session.generate([5, 6], { maxTokens: 6, seed: 1, signal: stop.signal })) {
        stop.abort();
      }
    }, { name: "AbortError" });
    assert.equal(session.position, 3);
  });
  for (const session of model.sessions) session.dispose();
  {
    using session = model.session(), other = model.session();
    await assert.rejects(async () => {
      for await (const _ of session.generate([1], { maxTokens: 5 })) session.step(2);
    }, /only the loop may read on/);
    await assert.rejects(async () => {
      for await (const _ of other.generate([1], { maxTokens: 5 })) other.dispose();
    }, { name: "BackendError", reason: "disposed" });
  }
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend("an end-of-sequence token is read too, and maxTokens 0 only reads", async (backend) => {
  using plain = await load(backend);
  const tokens = (await generated(plain, [5, 6], { maxTokens: 12, seed: 2 })).map(({ token }) => token);
  using model = await load(backend, { ...SMALL, eos_token_id: tokens[4] });
  using session = model.session();
  const answer = await Array.fromAsync(session.generate([5, 6], { maxTokens: 12, seed: 2 }));
  assert.equal(answer.at(-1)!.finish, "eos");
  assert.equal(session.position, 2 + answer.length);
  assert.deepEqual(await Array.fromAsync(session.generate([7, 8, 9], { maxTokens: 0 })), []);
  assert.equal(session.position, 2 + answer.length + 3);
});

eachBackend("a fork and its origin continue on their own", async (backend) => {
  using model = await load(backend);
  const inUse = backend.bytesInUse;
  {
    using session = model.session();
    session.prefill([1, 2, 3, 4]).dispose();
    using fork = session.fork();
    assert.equal(fork.position, 4);
    assert.deepEqual(await fork.snapshot(), await session.snapshot());
    using a = session.step(5), b = fork.step(6);
    using alone = model.session();
    alone.prefill([1, 2, 3, 4]).dispose();
    using c = alone.step(6);
    assertSameBits(await b.data(), await c.data());
    assert.notDeepEqual(await a.data(), await b.data());
    session.dispose();
    assert.throws(() => session.fork(), { name: "BackendError", reason: "disposed" });
    fork.step(7).dispose();
  }
  assert.equal(backend.bytesInUse, inUse);
});

eachBackend(
  "a fork of a session continues an answer without a prompt, as the session would",
  async (backend) => {
    using model = await load(backend);
    const inUse = backend.bytesInUse;
    {
      using session = model.session();
      await Array.fromAsync(session.generate([5, 6], { maxTokens: 4, seed: 2 }));
      using fork = session.fork();
      const continued = await Array.fromAsync(fork.generate([], { maxTokens: 4, seed: 3 }));
      assert.deepEqual(await Array.fromAsync(session.generate([], { maxTokens: 4, seed: 3 })), continued);
      assert.equal(continued.length, 4);
      // Forked before anything was generated, it needs a prompt as the session does.
      using fresh = model.session();
      fresh.prefill([1, 2]).dispose();
      using other = fresh.fork();
      await assert.rejects(Array.fromAsync(other.generate([])), RangeError);
    }
    assert.equal(backend.bytesInUse, inUse);
  },
);

eachBackend("a long prompt lets the event loop turn between its pieces", async (backend) => {
  using model = await load(backend);
  using session = model.session();
  const stop = new AbortController(), reason = new Error("enough");
  const ids = Array.from({ length: 100_000 }, (_, t) => t % 23);
  setTimeout(() => stop.abort(reason), 0);
  const options = { signal: stop.signal, prefillTokens: 100 };
  await assert.rejects(Array.fromAsync(session.generate(ids, options)), reason);
  assert(session.position > 0 && session.position < ids.length && session.position % 100 === 0);
  await assert.rejects(Array.fromAsync(session.generate([1], { prefillTokens: 0 })), /prefillTokens must be/);
});

/** A vocabulary of words that begin with a space, in SentencePiece's way. */
const WORDS = ["<unk>", "▁The", "▁state", "▁of", "▁the", "▁Union", "▁is", "▁cat", "▁sat", "s", "▁", "<end>"];

/** A model that says the next word of the list after each, with probability 1. */
function chanting(backend: Backend, decoder: unknown): Promise<TransNormerLLM> {
  const size = WORDS.length;
  const config: ConfigJson = { ...SMALL, vocab_size: size, decoder_embed_dim: size, eos_token_id: null };
  const tensors = randomTensors(config, 1);
  for (const [name, { data }] of tensors) if (!name.includes("theta")) data.fill(0);
  for (let id = 0; id < size; id++) {
    tensors.get("model.embed_tokens.weight")!.data[id * size + id] = 1;
    tensors.get("lm_head.weight")!.data[((id + 1) % size) * size + id] = 10;
  }
  const tokenizer = {
    version: "1.0",
    added_tokens: [{ id: size - 1, content: "<end>", special: true }],
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
    decoder,
    model: { type: "Unigram", unk_id: 0, vocab: WORDS.slice(0, -1).map((word, id) => [word, -1 - id / 100]) },
  };
  const files = { ...checkpoint(config, tensors), "tokenizer.json": textFile(tokenizer) };
  return TransNormerLLM.load(SERVED, { backend, fetch: serving(files) });
}

const wordDecoders = [
  { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  {
    type: "Sequence",
    decoders: [
      { type: "Replace", pattern: { String: "▁" }, content: " " },
      { type: "Fuse" },
      { type: "Strip", content: " ", start: 1, stop: 0 },
    ],
  },
];

eachBackend(
  "an answer's text is that of prompt and answer less that of the prompt, over all turns",
  async (backend) => {
    for (const decoder of wordDecoders) {
      using model = await chanting(backend, decoder);
      const { tokenizer } = model;
      const text = (parts: { text: string }[]) => parts.map(({ text }) => text).join("");
      const options = { maxTokens: 2, temperature: 0 };
      assert.equal(text(await generated(model, "The state of the", options)), " Union is");
      assert.equal(text(await generated(model, [1, 2, 3, 4], options)), " Union is");
      assert.equal(text(await generated(model, "The state of the", { ...options, stop: " is" })), " Union");
      assert.equal(text(await generated(model, [11, 0], options)), " The state", "an unknown word is text");

      // Turns of one token, with everything that a session may go through between them.
      using first = model.session();
      const whole: number[] = [];
      let said = "";
      const take = async (session: typeof first, prompt: number[], count: number) => {
        for await (const { token, text } of session.generate(prompt, { ...options, maxTokens: count })) {
          whole.push(...prompt.splice(0), token);
          said += text;
          assert.equal(said, tokenizer!.decode(whole).slice(tokenizer!.decode([4]).length));
        }
      };
      await take(first, [4], 1);
      await take(first, [], 1);
      await take(first, [], 1);
      assert.equal(said, " Union is cat");
      using restored = model.restore(await first.snapshot());
      assert.deepEqual(restored.recent, [4, 5, 6, 7]);
      using batch = model.batch(2);
      const slot = batch.join(restored);
      batch.step([slot], [8]).dispose(); // " sat"
      using left = batch.leave(slot);
      assert.deepEqual(left.recent, [4, 5, 6, 7, 8]);
      using fork = left.fork();
      const next = await Array.fromAsync(fork.generate([4], options)); // the
      assert.equal(text(next), " Union is");
      for (let i = 0; i < 20; i++) fork.step(11).dispose(); // special tokens push no text out
      assert.deepEqual(fork.recent, [4, 5, 6, 7, 8, 4, 5, 6]);
    }
  },
);

eachBackend("a stop string that is the name of a special token ends at its id", async (backend) => {
  using model = await chanting(backend, wordDecoders[0]);
  const all = await generated(model, [8], { maxTokens: 6, temperature: 0 });
  assert.deepEqual(all.map(({ token }) => token), [9, 10, 11, 0, 1, 2]);
  const ended = await generated(model, [8], { maxTokens: 6, temperature: 0, stop: ["never", "<end>"] });
  assert.deepEqual(ended.map(({ token, text, finish }) => [token, text, finish]), [
    [9, "s", undefined],
    [10, " ", undefined],
    [11, "", "stop"],
  ]);
});

eachBackend("a snapshot has the same size whatever was read", async (backend) => {
  using model = await chanting(backend, wordDecoders[0]);
  using session = model.session();
  const empty = (await session.snapshot()).length;
  for (let i = 0; i < 300; i++) session.step(i % 11).dispose();
  assert.equal((await session.snapshot()).length, empty);
});
