import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { createStorage, type Storage } from "unstorage";
import memory from "unstorage/drivers/memory";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { Checksum } from "../model/checksum.ts";
import { createHandler } from "../serve/mod.ts";
import { checkLimits } from "../serve/limits.ts";
import { Metrics } from "../serve/metrics.ts";
import { Sessions } from "../serve/sessions.ts";
import { byteLevelJson, textFile } from "./reference_model.ts";
import {
  assertError,
  clock,
  events,
  holdSteps,
  hostileBodies,
  interceptSteps,
  serve,
  TEXT,
  until,
  wordsFile,
} from "./serve_setup.ts";

const COMPLETIONS = "/v1/completions";
const GREEDY = { temperature: 0, max_tokens: 12 };

async function generated(
  model: TransNormerLLM,
  prompt: string | number[],
  options: { maxTokens: number; stop?: string },
) {
  const tokens = await Array.fromAsync(model.generate(prompt, { temperature: 0, ...options }));
  return { text: tokens.map(({ text }) => text).join(""), tokens };
}

Deno.test("a completion is what the model generates", async () => {
  await using server = await serve();
  const { model, ask } = server;
  for (const prompt of ["hello", "a", "The quick brown fox ".repeat(20)]) {
    const expected = await generated(model, prompt, { maxTokens: 12 });
    const answer = await ask(COMPLETIONS, { model: "levin", prompt, ...GREEDY, unknown_field: { a: [1] } });
    assert.equal(answer.object, "text_completion");
    assert.equal(answer.model, "levin");
    assert.match(answer.id, /^cmpl-/);
    assert.deepEqual(answer.choices, [{
      index: 0,
      text: expected.text,
      logprobs: null,
      finish_reason: expected.tokens.at(-1)!.finish === "length" ? "length" : "stop",
    }]);
    const [read, written] = [model.tokenizer!.encode(prompt).length, expected.tokens.length];
    assert.deepEqual(answer.usage, {
      prompt_tokens: read,
      completion_tokens: written,
      total_tokens: read + written,
    });
  }
});

Deno.test("prompts of every kind, several choices, seeds", async () => {
  await using server = await serve();
  const { model, ask } = server;
  const ids = model.tokenizer!.encode("hello"), other = [1, 2, 3];
  const text = async (prompt: string | number[]) => (await generated(model, prompt, { maxTokens: 12 })).text;
  const texts = async (body: unknown) => {
    const { choices } = await ask(COMPLETIONS, body);
    // deno-lint-ignore no-explicit-any -- see Server.ask
    return choices.map(({ index, text }: any, i: number) => (assert.equal(index, i), text));
  };
  assert.deepEqual(await texts({ prompt: ids, ...GREEDY }), [await text("hello")]);
  assert.deepEqual(await texts({ prompt: ["hello", "b"], ...GREEDY }), [
    await text("hello"),
    await text("b"),
  ]);
  assert.deepEqual(await texts({ prompt: [ids, other], ...GREEDY }), [
    await text("hello"),
    await text(other),
  ]);
  assert.deepEqual(
    await texts({ prompt: [ids, other], n: 2, ...GREEDY }),
    [await text("hello"), await text("hello"), await text(other), await text(other)],
  );
  const sampled = {
    prompt: "hello",
    n: 3,
    temperature: 1,
    top_p: 0.95,
    top_k: 200,
    min_p: 0.001,
    seed: 7,
    max_tokens: 12,
  };
  const once = await texts(sampled);
  assert.deepEqual(await texts(sampled), once);
  assert.equal(new Set(once).size, 3, "choices of one seed differ");
  assert.notDeepEqual(await texts({ ...sampled, seed: 8 }), once);
  assert.deepEqual(await texts({ ...sampled, n: 1 }), [once[0]]);
});

Deno.test("stop strings end an answer and are not part of it", async () => {
  await using server = await serve();
  const { text } = await generated(server.model, "hello", { maxTokens: 12 });
  const stop = [...text][4];
  const before = text.slice(0, text.indexOf(stop));
  for (const value of [stop, [stop], ["never", stop, ""], ["", stop, "x".repeat(256)]]) {
    const { choices: [choice] } = await server.ask(COMPLETIONS, { prompt: "hello", ...GREEDY, stop: value });
    assert.equal(choice.text, before);
    assert.equal(choice.finish_reason, "stop");
  }
  for (const none of [null, [], "", Array.from({ length: 64 }, (_, i) => `never ${i}`)]) {
    const { choices: [choice] } = await server.ask(COMPLETIONS, { prompt: "hello", ...GREEDY, stop: none });
    assert.equal(choice.text, text);
  }
});

Deno.test("an end-of-sequence token ends an answer, counts, and is no text", async () => {
  const greedy = await (async () => {
    await using server = await serve();
    return (await generated(server.model, "hello", { maxTokens: 12 })).tokens.map(({ token }) => token);
  })();
  await using server = await serve({}, { ...TEXT, eos_token_id: greedy[3] });
  const end = greedy.indexOf(greedy[3]);
  const answer = await server.ask(COMPLETIONS, { prompt: "hello", ...GREEDY, logprobs: 1 });
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.completion_tokens, end + 1);
  assert.equal(answer.choices[0].logprobs.tokens.length, end + 1);
  assert.equal(answer.choices[0].text, server.model.tokenizer!.decode(greedy.slice(0, end)));
});

Deno.test("log-probabilities are the log-softmax of the model's logits, of prompt and answer", async () => {
  await using server = await serve();
  const { model, ask } = server;
  const prompt = model.tokenizer!.encode("Well, hello there. ".repeat(20)); // several pieces of a prefill
  assert(prompt.length > 2 * 96);
  const { choices: [choice] } = await ask(COMPLETIONS, { prompt, ...GREEDY, echo: true, logprobs: 3 });
  const { tokens } = await generated(model, prompt, { maxTokens: 12 });
  const ids = [...prompt, ...tokens.map(({ token }) => token)];
  const { logprobs } = choice;
  for (const values of Object.values(logprobs) as unknown[][]) assert.equal(values.length, ids.length);
  assert.equal(logprobs.token_logprobs[0], null);
  assert.equal(logprobs.top_logprobs[0], null);
  using logits = model.forward([ids]);
  const data = await logits.data(), vocab = TEXT.vocab_size;
  for (let t = 1; t < ids.length; t++) {
    const row = [...data.subarray((t - 1) * vocab, t * vocab)];
    const normalizer = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
    const error = Math.abs(logprobs.token_logprobs[t] - (row[ids[t]] - normalizer));
    assert(error < 1e-4, `token ${t} is off by ${error}`);
    const top = Object.values(logprobs.top_logprobs[t]) as number[];
    assert(top.length === 3 || top.length === 4);
    const best = row.toSorted((a, b) => b - a).slice(0, 3).map((x) => x - normalizer);
    top.sort((a, b) => b - a); // names that are numbers come first in an object
    best.forEach((value, i) => assert(Math.abs(top[i] - value) < 1e-4));
    assert.equal(
      logprobs.token_logprobs[t] === Math.max(...top),
      ids[t] === row.indexOf(Math.max(...row)),
      `token ${t}: as likely as the likeliest exactly when it is the greedy one`,
    );
  }
  assert.equal(choice.text.slice(0, model.tokenizer!.decode(prompt).length), model.tokenizer!.decode(prompt));
  const last = ids.length - 1;
  assert(logprobs.text_offset[last] <= choice.text.length);

  const only = await ask(COMPLETIONS, { prompt, max_tokens: 0, echo: true, logprobs: 1 });
  assert.equal(only.choices[0].logprobs.tokens.length, prompt.length);
  assert.equal(only.choices[0].finish_reason, "length");
  assert.equal(only.choices[0].text, model.tokenizer!.decode(prompt));
  const nothing = await ask(COMPLETIONS, { prompt, max_tokens: 0 });
  assert.equal(nothing.choices[0].text, "");
  assert.equal(nothing.usage.completion_tokens, 0);
});

Deno.test("offsets are places in the text, also where the tokenizer adds a token that is none of it", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  using model = await TransNormerLLM.load("models/sotu", { backend });
  const handler = createHandler({ model });
  const text = "The state of the Union";
  for (const prompt of [text, `<|begin|>${text}`, model.tokenizer!.encode(text)]) {
    const response = await handler(
      new Request(`http://localhost${COMPLETIONS}`, {
        method: "POST",
        body: JSON.stringify({ prompt, ...GREEDY, echo: true, logprobs: 1 }),
      }),
    );
    const { text, logprobs: { tokens, text_offset } } = (await response.json()).choices[0];
    assert.equal(tokens[0], "<|begin|>");
    assert.equal(text_offset[0], 0);
    tokens.forEach((token: string, i: number) => {
      if (token !== "<|begin|>") assert.equal(text.slice(text_offset[i]).slice(0, token.length), token);
    });
  }
  await handler.close();
});

Deno.test("an answer keeps the space of its first word, after a prompt and after each turn of a session", async () => {
  await using server = await serve({}, TEXT, 2, wordsFile());
  const { model, ask } = server;
  const tokenizer = model.tokenizer!;
  const prompt = "the state of the", ids = tokenizer.encode(prompt);
  const tokens = (await Array.fromAsync(model.generate(ids, { temperature: 0, maxTokens: 12 })))
    .map(({ token }) => token);
  const whole = tokenizer.decode([...ids, ...tokens]), answer = whole.slice(prompt.length);
  assert.match(answer, /^ w\d+.* w\d+/, "the first word of the answer, and others, begin with a space");

  for (const given of [prompt, ids]) {
    const [alone, echoed] = [
      (await ask(COMPLETIONS, { prompt: given, ...GREEDY })).choices[0],
      (await ask(COMPLETIONS, { prompt: given, ...GREEDY, echo: true, logprobs: 3 })).choices[0],
    ];
    assert.equal(alone.text, answer);
    assert.equal(echoed.text, whole);
    const { text_offset, tokens: names, top_logprobs } = echoed.logprobs;
    assert.equal(names.join("").trimStart(), whole);
    for (let t = 1; t < names.length; t++) {
      assert.equal(whole.slice(text_offset[t], text_offset[t] + names[t].length), names[t]);
      assert(Object.keys(top_logprobs[t]).length >= 3, "no two tokens have one name");
    }
  }

  const turns = [];
  for (let turn = 0; turn < tokens.length; turn++) {
    const body = { prompt: turn === 0 ? prompt : "", max_tokens: 1, temperature: 0, session: "s" };
    turns.push((await ask(COMPLETIONS, body)).choices[0].text);
  }
  assert.equal(turns.join(""), answer);
});

Deno.test("offsets are places in a text that begins with spaces", async () => {
  await using server = await serve({}, TEXT, 2, wordsFile());
  const prompt = " the cat", body = { prompt, max_tokens: 0, echo: true, logprobs: 0 };
  const { text, logprobs } = (await server.ask(COMPLETIONS, body)).choices[0];
  assert.equal(text, prompt);
  logprobs.tokens.forEach((name: string, t: number) => {
    const place = prompt.slice(logprobs.text_offset[t]).trimStart();
    assert(place.startsWith(name.trimStart()), `${name} is not at ${logprobs.text_offset[t]}`);
  });
});

Deno.test("a stop string that is the name of a special token stops by its id", async () => {
  const greedy = await (async () => {
    await using server = await serve();
    return (await generated(server.model, "hello", { maxTokens: 12 })).tokens.map(({ token }) => token);
  })();
  const json = byteLevelJson();
  const [special] = json.added_tokens as { id: number; content: string; special: boolean }[];
  json.added_tokens = [{ ...special, id: greedy[3], content: "<|turn|>" }];
  await using server = await serve({}, TEXT, 1, { "tokenizer.json": textFile(json) });
  const end = greedy.indexOf(greedy[3]);
  for (const stop of ["<|turn|>", ["never", "<|turn|>"]]) {
    const answer = await server.ask(COMPLETIONS, { prompt: "hello", ...GREEDY, stop, session: `${stop}` });
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.choices[0].text, server.model.tokenizer!.decode(greedy.slice(0, end)));
    assert.equal(answer.usage.completion_tokens, end + 1);
    assert.equal(answer.session.tokens, server.model.tokenizer!.encode("hello").length + end);
  }
  const { usage } = await server.ask(COMPLETIONS, { prompt: "hello", ...GREEDY });
  assert.equal(usage.completion_tokens, 12, "nothing else stops there");
  const body = { prompt: "hello", max_tokens: end + 1, temperature: 0, session: "length" };
  const { choices: [choice], session } = await server.ask(COMPLETIONS, body);
  assert.equal(choice.finish_reason, "length");
  const read = server.model.tokenizer!.encode("hello").length;
  assert.equal(session.tokens, read + end + 1, "a special token that stops nothing is one like any other");
});

Deno.test("generation_config.json says how to sample and where to end, unless the request does", async () => {
  const greedy = await (async () => {
    await using server = await serve();
    return (await generated(server.model, "hello", { maxTokens: 12 })).tokens.map(({ token }) => token);
  })();
  const json = { eos_token_id: [greedy[5], 262], temperature: 1.5, top_k: 1 };
  await using server = await serve({}, TEXT, 1, { "generation_config.json": textFile(json) });
  const end = greedy.indexOf(greedy[5]);
  for (const body of [{}, { top_k: null, temperature: null }]) { // with one candidate the likeliest is drawn
    const { choices: [choice], usage } = await server.ask(COMPLETIONS, {
      prompt: "hello",
      ...body,
      max_tokens: 12,
    });
    assert.equal(choice.text, server.model.tokenizer!.decode(greedy.slice(0, end)));
    assert.equal(choice.finish_reason, "stop");
    assert.equal(usage.completion_tokens, end + 1);
  }
  const drawn = { prompt: "hello", max_tokens: 1, n: 40, seed: 3, top_k: -1, logprobs: 0 };
  const { choices } = await server.ask(COMPLETIONS, drawn);
  // deno-lint-ignore no-explicit-any -- see Server.ask
  assert(new Set(choices.map((choice: any) => choice.logprobs.tokens[0])).size > 5, "-1 asks for all tokens");
});

Deno.test("a stream is the whole answer in pieces", async () => {
  await using server = await serve();
  for (
    const extra of [{}, { echo: true }, { logprobs: 2, echo: true }, { stop: "e" }, { session: "s" }, {
      n: 3,
      seed: 1,
      temperature: 1,
    }]
  ) {
    const body = { prompt: "hello", ...GREEDY, ...extra };
    const whole = await server.ask(COMPLETIONS, "session" in extra ? { ...body, session: "t" } : body);
    const chunks = [];
    let done = false;
    for await (
      const data of events(
        await server.send(COMPLETIONS, { ...body, stream: true, stream_options: { include_usage: true } }),
      )
    ) {
      assert(!done, "nothing comes after [DONE]");
      if (data === "[DONE]") done = true;
      else chunks.push(JSON.parse(data));
    }
    assert(done);
    const { choices: none, usage } = chunks.pop();
    assert.deepEqual(none, []);
    assert.deepEqual(usage, whole.usage);
    for (const chunk of chunks) assert.equal(chunk.usage, null);
    for (const choice of whole.choices) {
      // deno-lint-ignore no-explicit-any -- see Server.ask
      const own: any[] = chunks.map(({ choices }) => choices[0]).filter(({ index }) =>
        index === choice.index
      );
      assert.equal(own.map(({ text }) => text).join(""), choice.text);
      assert.deepEqual(own.map(({ finish_reason }) => finish_reason).filter((reason) => reason !== null), [
        choice.finish_reason,
      ]);
      if (choice.logprobs) {
        assert.deepEqual(
          own.flatMap(({ logprobs }) => logprobs.token_logprobs),
          choice.logprobs.token_logprobs,
        );
      }
    }
  }
});

Deno.test("what a request gets does not depend on who else is there", async () => {
  await using server = await serve({ limits: { batch: 12 } });
  const bodies = Array.from({ length: 40 }, (_, i) => ({
    prompt: `${i} `.repeat(1 + i * 7 % 90),
    max_tokens: 5 + i % 30,
    logprobs: i % 3 === 0 ? 1 : undefined,
    echo: i % 5 === 0,
    n: 1 + i % 2,
    temperature: i % 4 === 0 ? 1 : 0,
    seed: i,
  }));
  const alone = [];
  for (const body of bodies) alone.push((await server.ask(COMPLETIONS, body)).choices);
  const together = await Promise.all(bodies.map(async (body, i) => {
    for (let turn = 0; turn < 3 * i; turn++) await setImmediate(); // while others are at different stages
    return (await server.ask(COMPLETIONS, body)).choices;
  }));
  assert.deepEqual(together, alone);
  const [steps, answers] = [
    await server.metric("levin_batch_size_count"),
    await server.metric("levin_batch_size_sum"),
  ];
  assert(answers / steps > 1.3, `steps had ${answers / steps} answers on average`);
});

Deno.test("a long prompt does not keep the others waiting", async () => {
  await using server = await serve();
  const long = server.ask(COMPLETIONS, { prompt: "x".repeat(20000), max_tokens: 1 });
  let isRead = false;
  long.then(() => isRead = true);
  await until(async () => await server.metric("levin_reading") === 1);
  // The prompt has more than 200 pieces, and between two of them the answer gets a token.
  const body = { prompt: "a", max_tokens: 100, temperature: 0, logprobs: 0, stream: true };
  assert.equal((await Array.fromAsync(events(await server.send(COMPLETIONS, body)))).length, 100 + 1);
  assert(!isRead, "the whole answer came while the long prompt was read");
  await long;
});

Deno.test("a full queue answers 429 and when to come back", async () => {
  await using server = await serve({ limits: { batch: 2, queue: 2 } });
  const steps = holdSteps(server.model);
  const body = { prompt: "a", max_tokens: 60, temperature: 0 };
  const taken = [1, 2, 3, 4].map(() => server.send(COMPLETIONS, body));
  await until(async () => await server.metric("levin_waiting") === 2);
  for (const stream of [false, true]) { // a stream is refused before it begins
    const response = await server.send(COMPLETIONS, { ...body, stream });
    assert(Number(response.headers.get("retry-after")) >= 1);
    assert.equal((await assertError(response, 429, "queue_full")).type, "rate_limit_error");
  }
  steps.allow();
  for (const response of await Promise.all(taken)) assert.equal((await response.json()).choices.length, 1);
});

Deno.test("limits of tokens, choices and bodies", async () => {
  await using server = await serve({
    limits: {
      maxTokens: 50,
      requestTokens: 100,
      totalTokens: 120,
      characters: 1000,
      choices: 4,
      bodyBytes: 2000,
      batch: 4,
    },
  });
  const error = async (body: unknown, status: number, param?: string) => {
    const { param: found } = await assertError(await server.send(COMPLETIONS, body), status);
    if (param !== undefined) assert.equal(found, param);
  };
  await error({ prompt: "a", max_tokens: 51 }, 400, "max_tokens");
  const long = { prompt: ["x".repeat(500), "x".repeat(501)], max_tokens: 1 };
  await assertError(await server.send(COMPLETIONS, long), 400, "text_too_long");
  await assertError(await server.send("/tokenize", { prompt: "x".repeat(1001) }), 400, "text_too_long");
  await error({ prompt: "x".repeat(90), max_tokens: 11 }, 400, "prompt");
  await error({ prompt: ["a", "b", "c"], n: 2 }, 400, "n");
  await error({ prompt: "a", n: 5 }, 400, "n");
  await error({ prompt: "x".repeat(2000) }, 413);
  const steps = holdSteps(server.model);
  const body = { prompt: "x".repeat(40), max_tokens: 45 };
  const first = server.send(COMPLETIONS, body);
  await until(async () => await server.metric("levin_writing") === 1);
  await assertError(await server.send(COMPLETIONS, body), 429, "too_many_tokens");
  steps.allow();
  assert.equal((await (await first).json()).choices.length, 1);
});

Deno.test("a client that goes stops the work within a step", async () => {
  await using server = await serve();
  const steps = holdSteps(server.model);
  const body = { prompt: "a", max_tokens: 1000, temperature: 0, logprobs: 0 }; // a chunk for each token
  const isWriting = async () => await server.metric("levin_writing") === 1;
  const written = () => server.metric("levin_completion_tokens_total");
  const reader = (await server.send(COMPLETIONS, { ...body, stream: true })).body!.getReader();
  await reader.read();
  await until(isWriting);
  await reader.cancel(); // within the first step
  steps.allow(1);
  await until(async () => !await isWriting());
  assert.equal(await written(), 2, "one token is the prompt's, one the step's");

  const stop = new AbortController();
  const gone = server.handler(
    new Request(`http://localhost${COMPLETIONS}`, {
      method: "POST",
      body: JSON.stringify(body),
      signal: stop.signal,
    }),
  );
  await until(isWriting);
  stop.abort();
  steps.allow(1);
  await assertError(await gone, 499, "client_gone");
  assert.equal(await isWriting(), false);
  assert.equal(await written(), 4);
});

Deno.test("an answer pauses while its client does not read, and keeps nobody else waiting", async () => {
  await using server = await serve({ limits: { batch: 2 } });
  const body = { prompt: "hello", max_tokens: 1000, temperature: 0, logprobs: 0 };
  const written = () => server.metric("levin_completion_tokens_total");
  const response = await server.send(COMPLETIONS, { ...body, stream: true });
  await until(async () => await written() >= 64);
  const other = await server.ask(COMPLETIONS, { ...body, max_tokens: 300 });
  const ahead = await written() - 300;
  assert(ahead < 80, `${ahead} tokens were written for a client that reads nothing`);
  // When it reads, it gets all of it.
  const chunks = (await Array.fromAsync(events(response))).slice(0, -1).map((data) => JSON.parse(data));
  const expected = await server.ask(COMPLETIONS, body);
  assert.equal(chunks.map(({ choices: [choice] }) => choice.text).join(""), expected.choices[0].text);
  assert.equal(chunks.length, 1000);
  assert(expected.choices[0].text.startsWith(other.choices[0].text.replace(/\ufffd$/, "")));

  // Clients that never read give their slots back when they go, and take no processor time until then.
  const unread = await Promise.all([1, 2].map(() => server.send(COMPLETIONS, { ...body, stream: true })));
  const start = await written();
  await until(async () => await written() >= start + 128);
  const waiting = server.ask(COMPLETIONS, { ...body, max_tokens: 5 });
  await until(async () => await server.metric("levin_waiting") === 1);
  for (let turn = 0; turn < 200; turn++) await setImmediate();
  assert(await written() < start + 2 * 80);
  await unread[0].body!.cancel();
  assert.equal((await waiting).choices[0].logprobs.tokens.length, 5);
  await unread[1].body!.cancel();
  await until(async () => await server.metric("levin_writing") === 0);
});

Deno.test("a client that does not read is given up when its time is over", async () => {
  await using server = await serve({ limits: { seconds: 1 } });
  const body = { prompt: "a", max_tokens: 1000, temperature: 0, logprobs: 0, stream: true };
  const response = await server.send(COMPLETIONS, body);
  await until(async () => await server.metric("levin_writing") === 1);
  await until(async () => await server.metric("levin_writing") === 0);
  const last = JSON.parse((await Array.fromAsync(events(response))).at(-1)!);
  assert.equal(last.error.code, "timeout");
});

Deno.test("a request that takes too long is ended, whole and streamed", async () => {
  await using server = await serve({ limits: { seconds: 1, maxTokens: 10 ** 6 } });
  const body = { prompt: "a", max_tokens: 10 ** 6, temperature: 0 };
  const [whole, stream] = await Promise.all([
    server.send(COMPLETIONS, body),
    (async () => Array.fromAsync(events(await server.send(COMPLETIONS, { ...body, stream: true }))))(),
  ]);
  await assertError(whole, 504, "timeout");
  assert.equal(JSON.parse(stream.at(-1)!).error.code, "timeout");
  assert.equal(await server.metric("levin_writing"), 0);
});

Deno.test("a failure ends the requests of its step, and the server continues", async () => {
  await using server = await serve();
  let steps = 0;
  interceptSteps(server.model, (read) => {
    if (++steps === 20) return Promise.reject(new Error("secret of the inside"));
    return read();
  });
  const logged: unknown[] = [];
  const log = console.error;
  console.error = (...args) => logged.push(...args);
  try {
    const responses = await Promise.all(
      [1, 2].map(() => server.send(COMPLETIONS, { prompt: "a", max_tokens: 30 })),
    );
    for (const response of responses) {
      assert.doesNotMatch((await assertError(response, 500, "internal_error")).message, /secret/);
    }
  } finally {
    console.error = log;
  }
  assert.deepEqual(
    logged.map(String),
    ["Error: secret of the inside", "Error: secret of the inside"],
    "the host's log has the cause of each, once",
  );
  assert.equal((await server.ask(COMPLETIONS, { prompt: "a", max_tokens: 3 })).choices.length, 1);
});

// ---------------------------------------------------------------------------------------------------------- sessions

Deno.test("a session continues as if all of it were one prompt, and reads nothing twice", async () => {
  await using server = await serve();
  const { model, ask } = server;
  const session = "my session";
  let history: number[] = [];
  for (const prompt of ["hello ", "and then ", "", "so"]) {
    const before = await server.metric("levin_prompt_tokens_total");
    const answer = await ask(COMPLETIONS, { prompt, ...GREEDY, session });
    const read = await server.metric("levin_prompt_tokens_total") - before;
    assert(read <= prompt.length + 1, `${read} tokens were read for ${JSON.stringify(prompt)}`);
    const expected = await generated(model, [...history, ...model.tokenizer!.encode(prompt)], {
      maxTokens: 12,
    });
    assert.equal(answer.choices[0].text, expected.text, JSON.stringify(prompt));
    history = [...history, ...model.tokenizer!.encode(prompt), ...expected.tokens.map(({ token }) => token)];
    assert.equal(answer.session.tokens, history.length);
    assert.equal(answer.session.id, session);
  }
  // max_tokens 0 only reads, with and without something to read.
  await ask(COMPLETIONS, { prompt: "abc", max_tokens: 0, session });
  await ask(COMPLETIONS, { prompt: "", max_tokens: 0, session });
  history.push(...model.tokenizer!.encode("abc"));
  const expected = await generated(model, history, { maxTokens: 12 });
  assert.equal((await ask(COMPLETIONS, { prompt: "", ...GREEDY, session })).choices[0].text, expected.text);

  const info = await ask("/v1/sessions/my%20session");
  assert.equal(info.tokens, history.length + expected.tokens.length);
  assert.equal(info.state_bytes, 4 * 3 * 16 * (32 + 16));
  assert(Date.parse(info.expires) > Date.now());
});

Deno.test("a session may be used by one request at a time", async () => {
  await using server = await serve();
  const steps = holdSteps(server.model);
  const body = { prompt: "a", max_tokens: 400, temperature: 0, session: "one" };
  const first = server.send(COMPLETIONS, body);
  await until(async () => await server.metric("levin_writing") === 1);
  await assertError(await server.send(COMPLETIONS, body), 409, "session_busy");
  await assertError(await server.send("/v1/sessions/one"), 409, "session_busy");
  const other = server.send(COMPLETIONS, { ...body, session: "two" });
  steps.allow(800);
  assert.equal((await (await first).json()).session.tokens, 401);
  assert.equal((await (await other).json()).session.tokens, 401);
  // Streams hold it until their end, broken ones too.
  const stream = await server.send(COMPLETIONS, { ...body, stream: true });
  await assertError(await server.send(COMPLETIONS, body), 409, "session_busy");
  await stream.body!.cancel();
  steps.allow();
  await until(async () => (await server.send("/v1/sessions/one")).status === 200);
  // A request that was broken off leaves the session as it was before.
  assert.equal((await server.ask(COMPLETIONS, { ...body, max_tokens: 1 })).session.tokens, 403);
});

Deno.test("an answer that is told to stop ends with its next token, which the session keeps", async () => {
  await using server = await serve();
  const steps = holdSteps(server.model);
  const body = { prompt: "a", max_tokens: 400, temperature: 0, session: "s" };
  const stop = () => server.ask("/v1/sessions/s/stop", {});
  assert.deepEqual(await stop(), { id: "s", stopped: false });
  const answer = server.ask(COMPLETIONS, body);
  await until(async () => await server.metric("levin_writing") === 1);
  assert.deepEqual(await stop(), { id: "s", stopped: true });
  steps.allow();
  const { choices: [choice], session, usage } = await answer;
  assert.equal(choice.finish_reason, "stop");
  assert.equal(usage.completion_tokens, 2);
  assert.equal(session.tokens, 1 + 2);
  assert.deepEqual(await stop(), { id: "s", stopped: false });
});

Deno.test("many requests on many sessions together are each in order", async () => {
  await using server = await serve();
  const run = async (session: string, i: number) => {
    const texts = [];
    for (let turn = 0; turn < 4; turn++) {
      texts.push(
        (await server.ask(COMPLETIONS, { prompt: `${i} ${turn}`, ...GREEDY, session })).choices[0].text,
      );
    }
    return texts;
  };
  const alone = [];
  for (let i = 0; i < 8; i++) alone.push(await run(`alone ${i}`, i));
  assert.deepEqual(await Promise.all(alone.map((_, i) => run(`together ${i}`, i))), alone);
});

Deno.test("sessions belong to the key that made them", async () => {
  await using server = await serve({ apiKeys: ["key of a", "key of b"] });
  const b = { authorization: "Bearer key of b" };
  const body = { prompt: "a", ...GREEDY, session: "s" };
  assert.equal((await server.ask(COMPLETIONS, body)).session.tokens, 13);
  await assertError(await server.send("/v1/sessions/s", undefined, b), 404, "session_not_found");
  assert.equal((await server.ask(COMPLETIONS, body, b)).session.tokens, 13);
  assert.equal((await server.ask("/v1/sessions/s")).tokens, 13);
  const remove = (headers: Record<string, string>) =>
    server.handler(new Request("http://localhost/v1/sessions/s", { method: "DELETE", headers }));
  assert.deepEqual(await (await remove(b)).json(), { id: "s", deleted: true });
  await assertError(await remove(b), 404);
  assert.equal((await server.ask("/v1/sessions/s")).tokens, 13);
});

/** A store that refuses large values and takes notes. */
function strictStore(limit: number): {
  storage: Storage;
  keys: () => string[];
  values: Map<string, Uint8Array>;
  /** Bytes that were read and written so far. */
  traffic: () => number;
} {
  const driver = memory();
  const values = new Map<string, Uint8Array>();
  let traffic = 0;
  const storage = createStorage({
    driver: {
      ...driver,
      setItemRaw(key: string, value: Uint8Array) {
        assert(value instanceof Uint8Array && value.buffer.byteLength <= limit, `${key} is too large`);
        traffic += value.length;
        values.delete(key); // the latest write is the last
        values.set(key, value);
      },
      getItemRaw(key: string) {
        const value = values.get(key) ?? null;
        traffic += value?.length ?? 0;
        return value;
      },
      removeItem: (key: string) => void values.delete(key),
      getKeys: () => [...values.keys()],
    },
  });
  return { storage, keys: () => [...values.keys()], values, traffic: () => traffic };
}

Deno.test("sessions stay below a store's limit of a value, and outlive their process", async () => {
  const { storage, keys } = strictStore(1000);
  const limits = { valueBytes: 1000 };
  const body = { prompt: "", ...GREEDY, session: "s" };
  const expected = await (async () => {
    await using server = await serve();
    await server.ask(COMPLETIONS, { ...body, prompt: "hello" });
    await server.ask(COMPLETIONS, body);
    return (await server.ask(COMPLETIONS, body)).choices[0].text;
  })();
  for (const prompt of ["hello", ""]) {
    await using server = await serve({ storage, limits });
    await server.ask(COMPLETIONS, { ...body, prompt });
  }
  await using server = await serve({ storage, limits });
  assert.equal((await server.ask(COMPLETIONS, body)).choices[0].text, expected);
  const count = keys().length;
  assert(
    count > 10 && keys().every((key) => /^sessions:[0-9a-f]{64}:([ab]|[0-9a-z]+-[0-9a-f]{8}:\d+)$/.test(key)),
    keys().join(),
  );
  for (let i = 0; i < 5; i++) await server.ask(COMPLETIONS, body);
  assert.equal(keys().length, count, "sessions do not grow in the store");
});

Deno.test("a write that breaks off anywhere leaves the session as it was", async () => {
  const { storage, values } = strictStore(1000);
  await using server = await serve({ storage, limits: { valueBytes: 1000 } });
  const body = { prompt: "", ...GREEDY, session: "s" };
  await server.ask(COMPLETIONS, { ...body, prompt: "hello" });
  await server.ask(COMPLETIONS, body);
  const before = new Map(values);
  const { choices: [expected] } = await server.ask(COMPLETIONS, body);
  const written = [...values].filter(([key, value]) => before.get(key) !== value);
  assert(written.length > 5);
  for (let count = 0; count <= written.length; count++) {
    for (const torn of [0, 0.5]) {
      // The first `count` values have arrived, the next is torn; the last of them is the head.
      values.clear();
      for (const [key, value] of before) values.set(key, value);
      for (const [key, value] of written.slice(0, count)) values.set(key, value);
      const next = written[count];
      if (next !== undefined) values.set(next[0], next[1].slice(0, torn * next[1].length));
      const answer = await server.ask(COMPLETIONS, body);
      if (count < written.length) {
        assert.equal(answer.choices[0].text, expected.text, `${count} values and ${torn}`);
      } else assert.equal(answer.session.tokens, 1 + 4 * 12, "a whole write counts");
    }
  }
});

Deno.test("sessions that expired are forgotten, also in the store", async () => {
  using time = clock();
  const { storage, keys } = strictStore(10 ** 6);
  await using server = await serve({ storage, limits: { sessionSeconds: 60 } });
  const body = { prompt: "a", max_tokens: 3, temperature: 0, session: "s" };
  await server.ask(COMPLETIONS, body);
  time.forward(59);
  assert.equal((await server.ask(COMPLETIONS, body)).session.tokens, 8);
  time.forward(61);
  await assertError(await server.send("/v1/sessions/s"), 404);
  assert.equal((await server.ask(COMPLETIONS, { ...body, session: "t" })).session.tokens, 4);
  assert.equal(new Set(keys().map((key) => key.split(":")[1])).size, 1, "the store forgot it");
  assert.equal((await server.ask(COMPLETIONS, body)).session.tokens, 4, "it begins anew");
  time.forward(61);
  await server.handler.sweep();
  assert.deepEqual(keys(), []);
});

Deno.test("what another process did to a session is noticed", async () => {
  const { storage, values } = strictStore(10 ** 6);
  await using server = await serve({ storage });
  const body = { prompt: "a", max_tokens: 30, session: "s" };
  await server.ask(COMPLETIONS, body);
  await server.ask(COMPLETIONS, body);
  const steps = holdSteps(server.model);
  const elsewhere = createHandler({ model: server.model, storage });
  const post = () =>
    elsewhere(new Request(`http://localhost${COMPLETIONS}`, { method: "POST", body: JSON.stringify(body) }));
  const late = post();
  const isWriting = async () => {
    const metrics = await (await elsewhere(new Request("http://localhost/metrics"))).text();
    return metrics.includes("levin_writing 1");
  };
  await until(isWriting);
  assert.equal((await server.ask(COMPLETIONS, { ...body, max_tokens: 1 })).session.tokens, 64);
  steps.allow();
  await assertError(await late, 409, "session_conflict");
  assert.equal((await (await post()).json()).session.tokens, 64 + 31, "it continues from what was stored");
  await elsewhere.close();

  await using stranger = await serve({ storage }, TEXT, 2);
  await assertError(await stranger.send(COMPLETIONS, body), 409, "session_incompatible");
  for (const [key, value] of values) {
    if (/\d$/.test(key)) {
      values.set(
        key,
        value.map((byte) => byte ^ 1),
      );
    }
  }
  await assertError(await server.send(COMPLETIONS, body), 503, "session_damaged");
});

Deno.test("bad records in the store stop nobody, and are put away when two sweeps have seen them", async () => {
  const { storage, values, keys } = strictStore(10 ** 6);
  await using server = await serve({ storage });
  const body = { prompt: "a", ...GREEDY, session: "s" };
  await server.ask(COMPLETIONS, body);
  const [name, bytes] = [...values].find(([key]) => /:[ab]$/.test(key))!;
  const head = JSON.parse(new TextDecoder().decode(bytes).slice(8));
  const sealed = (text: string) => new Checksum().text(text).hex() + text;
  const bad = [
    "00000000",
    "",
    "x",
    sealed("null"),
    sealed("{}"),
    sealed('{"a":'),
    ...[
      { format: 2 },
      { version: 1e300 },
      { version: 0 },
      { version: "1" },
      { write: "../../x" },
      { write: null },
      { chunkBytes: 0 },
      { chunkBytes: -1 },
      { bytes: 3e6, chunkBytes: 1 },
      { bytes: -1 },
      { bytes: 1e300 },
      { pending: Array.from({ length: 5000 }, () => 1) },
      { pending: ["a"] },
      { pending: [-1] },
      { tokens: 1.5 },
      { expires: 1e300 },
      { expires: null },
      { checksum: 7 },
    ].map((fields) => sealed(JSON.stringify({ ...head, ...fields }))),
  ];
  const other = name.replace(/.$/, (letter) => letter === "a" ? "b" : "a");
  for (const text of bad) {
    for (const [key] of values) values.delete(key);
    for (const key of [name, other]) values.set(key, new TextEncoder().encode(text));
    await assertError(await server.send("/v1/sessions/s"), 404, "session_not_found");
    const before = await server.metric("levin_quarantined_total");
    await server.handler.sweep();
    assert.equal(keys().filter((key) => key.startsWith("sessions:")).length, 2, "they may still be written");
    await server.handler.sweep();
    assert.deepEqual(keys().sort(), [`quarantine:${name}`, `quarantine:${other}`].sort(), text.slice(0, 80));
    assert.equal(await server.metric("levin_quarantined_total") - before, 2);
    for (const key of [name, other]) values.set(key, new TextEncoder().encode(text));
    assert.equal((await server.ask(COMPLETIONS, body)).session.tokens, 13, "it begins anew");
    assert.equal((await server.ask(COMPLETIONS, body)).session.tokens, 26);
  }
  // A head that says more than is there takes no memory for it, and a damaged session can be deleted.
  values.clear();
  const vast = sealed(JSON.stringify({ ...head, bytes: 2 ** 40, chunkBytes: 2 ** 30 }));
  values.set(name, new TextEncoder().encode(vast));
  await assertError(await server.send(COMPLETIONS, body), 503, "session_damaged");
  const remove = () => server.handler(new Request("http://localhost/v1/sessions/s", { method: "DELETE" }));
  assert.equal((await remove()).status, 200);
  assert.deepEqual(keys(), []);
});

Deno.test("a store that fails keeps nobody's other sessions from being swept", async () => {
  using time = clock();
  const { storage, keys } = strictStore(10 ** 6);
  const getItemRaw = storage.getItemRaw.bind(storage);
  let broken: string | undefined = "";
  storage.getItemRaw = ((key: string) => {
    if (broken !== undefined && key.startsWith(broken)) {
      return Promise.reject(new Error("the disk is broken"));
    }
    return getItemRaw(key);
  }) as typeof storage.getItemRaw;
  broken = undefined;
  await using server = await serve({ storage, limits: { sessionSeconds: 60 } });
  for (const session of ["s", "t"]) await server.ask(COMPLETIONS, { prompt: "a", ...GREEDY, session });
  time.forward(61);
  const [first] = keys().map((key) => key.split(":").slice(0, 2).join(":"));
  broken = first;
  const log = console.error;
  const logged = new Set<string>();
  console.error = (error: Error) => logged.add(error.message);
  try {
    await server.handler.sweep();
    storage.getKeys = () => Promise.reject(new Error("the disk is gone"));
    await server.handler.sweep();
  } finally {
    console.error = log;
  }
  assert.deepEqual([...logged], ["the disk is broken", "the disk is gone"]);
  assert(keys().length > 0 && keys().every((key) => key.startsWith(first)), "the other one was swept");
});

Deno.test("a session whose state is NaN says so until it is deleted", async () => {
  const { storage } = strictStore(10 ** 6);
  await using server = await serve({ storage });
  const { model } = server;
  using session = model.session();
  session.prefill([1, 2, 3]).dispose();
  model.backend.write(session.states[0], new Float32Array(session.states[0].size).fill(NaN));
  {
    using lease = await new Sessions(storage, checkLimits({ valueBytes: 10 ** 6, sessionSeconds: 60 }))
      .open(
        "everybody",
        "s",
      );
    await lease.save({ snapshot: await session.snapshot(), pending: [], tokens: 3 });
  }
  for (const stream of [false, true]) {
    const response = await server.send(COMPLETIONS, { prompt: "a", max_tokens: 2, session: "s", stream });
    if (stream) {
      assert.equal(JSON.parse((await Array.fromAsync(events(response)))[0]).error.code, "session_damaged");
    } else await assertError(response, 409, "session_damaged");
  }
  const remove = new Request("http://localhost/v1/sessions/s", { method: "DELETE" });
  assert.equal((await server.handler(remove)).status, 200);
  assert.equal((await server.ask(COMPLETIONS, { prompt: "a", ...GREEDY, session: "s" })).session.tokens, 13);
});

Deno.test("sealed sessions are continued by servers with the secret, under their own name, and by no others", async () => {
  const { storage, values } = strictStore(10 ** 6);
  const body = { prompt: "a", ...GREEDY, session: "s" };
  await using server = await serve({ storage, sessionSecret: "one" });
  assert.equal((await server.ask(COMPLETIONS, body)).session.tokens, 13);
  const written = [...values];
  await using same = await serve({ storage, sessionSecret: "one" });
  assert.equal((await same.ask("/v1/sessions/s")).tokens, 13);
  for (const sessionSecret of ["two", undefined]) {
    await using other = await serve({ storage, sessionSecret });
    await assertError(await other.send("/v1/sessions/s"), 404);
  }
  // The records of a session, put where another's would be.
  await server.ask(COMPLETIONS, { ...body, session: "t" });
  const keyOf = (key: string) => key.split(":")[1];
  const own = keyOf(written[0][0]);
  const others = [...values.keys()].find((key) => keyOf(key) !== own)!;
  for (const [key] of [...values]) if (keyOf(key) !== own) values.delete(key);
  for (const [key, value] of written) values.set(key.replace(own, keyOf(others)), value);
  await assertError(await server.send("/v1/sessions/t"), 404);
  // A snapshot with a checksum that fits, but not written by the server.
  const [chunk, bytes] = written.find(([key]) => key.endsWith(":0"))!;
  values.set(chunk, withSameChecksum(bytes));
  assert.equal((await server.ask("/v1/sessions/s")).tokens, 13);
  await assertError(await server.send(COMPLETIONS, body), 503, "session_damaged");
  for (const sessionSecret of ["", 7]) {
    assert.throws(
      () => createHandler({ model: server.model, sessionSecret: sessionSecret as string }),
      TypeError,
    );
  }
});

/** Other bytes with the same CRC-32: its polynomial is added to them. */
function withSameChecksum(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const forged = Uint8Array.from(bytes);
  // Bit n of the polynomial x^32 + … + 1, lowest power last; CRC-32 takes bits from the lowest of each byte.
  for (const power of [32, 26, 23, 22, 16, 12, 11, 10, 8, 7, 5, 4, 2, 1, 0]) {
    const bit = 800 + 32 - power;
    forged[bit >> 3] ^= 1 << (bit & 7);
  }
  assert.equal(new Checksum().bytes(forged).hex(), new Checksum().bytes(bytes).hex());
  return forged;
}

Deno.test("what a turn reads and stores does not depend on the length of the history", async () => {
  const { storage, traffic } = strictStore(10 ** 6);
  await using server = await serve({ storage, limits: { requestTokens: 2 ** 21 } });
  const costs = [];
  for (const length of [1000, 32000]) {
    const session = `history of ${length}`;
    const prompt = Array.from({ length }, (_, t) => t * t % 251);
    await server.ask(COMPLETIONS, { prompt, max_tokens: 0, session });
    const turn = { prompt: "next", max_tokens: 8, temperature: 0, session };
    await server.ask(COMPLETIONS, turn);
    const [tokens, bytes] = [await server.metric("levin_prompt_tokens_total"), traffic()];
    const answer = await server.ask(COMPLETIONS, turn);
    assert.equal(answer.session.tokens, length + 2 * 12);
    costs.push({
      tokens: await server.metric("levin_prompt_tokens_total") - tokens,
      kilobytes: Math.round((traffic() - bytes) / 1000), // numbers of a head differ in their digits
    });
  }
  assert.equal(costs[0].tokens, 5);
  assert(costs[0].kilobytes > 0);
  assert.deepEqual(costs[1], costs[0]);
});

// -------------------------------------------------------------------------------------------- keys, bodies, the rest

Deno.test("keys open the door, and nothing else does", async () => {
  const keys = ["first key", "second key"];
  await using server = await serve({ apiKeys: keys });
  for (const path of ["/v1/models", "/metrics", "/tokenizer_info", "/v1/sessions/x", "/nowhere"]) {
    for (
      const header of [
        undefined,
        "Bearer",
        "Bearer ",
        "Bearer first",
        "Bearer first key2",
        "first key",
        "Basic first key",
      ]
    ) {
      const request = new Request(`http://localhost${path}`, {
        headers: header === undefined ? {} : { authorization: header },
      });
      const response = await server.handler(request);
      assert.equal(response.headers.get("www-authenticate"), "Bearer");
      const { type, message } = await assertError(response, 401, "invalid_api_key");
      assert.equal(type, "authentication_error");
      assert.doesNotMatch(message, /first/);
    }
  }
  for (const key of keys) {
    assert.equal(
      (await server.send("/v1/models", undefined, { authorization: `Bearer ${key}` })).status,
      200,
    );
  }
  for (const path of ["/health", "/ready"]) {
    assert.equal((await server.handler(new Request(`http://localhost${path}`))).status, 200);
  }
  for (const apiKeys of [[], [""], [7], "key", ["first key "], ["\tfirst key"]]) {
    assert.throws(
      () => createHandler({ model: server.model, apiKeys: apiKeys as string[] }),
      (error: Error) => {
        return error.name === "TypeError" && !/first key/.test(error.message);
      },
    );
  }
});

Deno.test("a model whose name has slashes is found, escaped or not", async () => {
  const name = "owner/a model 100%";
  await using server = await serve({ name });
  for (const path of [encodeURIComponent(name), "owner/a%20model%20100%25", encodeURI(name)]) {
    assert.equal((await server.ask(`/v1/models/${path}`)).id, name);
  }
  assert.equal((await server.ask("/v1/models")).data[0].id, name);
  for (const other of ["owner", "owner/", "a%20model", "owner%2Fother", "owner/a%20model%20100%25/more"]) {
    await assertError(await server.send(`/v1/models/${other}`), 404, "model_not_found");
  }
  assert.equal((await server.ask(COMPLETIONS, { model: name, prompt: "a", max_tokens: 1 })).model, name);
});

Deno.test("pages of other origins are let in only where configured", async () => {
  const headers = { origin: "https://a.example" };
  const preflight = new Request(`http://localhost${COMPLETIONS}`, {
    method: "OPTIONS",
    headers: {
      ...headers,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization,content-type,x-stainless-os,x-of-tomorrow",
    },
  });
  await using closed = await serve();
  assert.equal(
    (await closed.send("/v1/models", undefined, headers)).headers.get("access-control-allow-origin"),
    null,
  );
  assert.equal((await closed.handler(preflight.clone())).headers.get("access-control-allow-origin"), null);
  await using open = await serve({ cors: ["https://a.example"], apiKeys: ["k"] });
  assert.equal(
    (await open.send("/v1/models", undefined, headers)).headers.get("access-control-allow-origin"),
    "https://a.example",
  );
  const response = await open.handler(preflight);
  assert.equal(response.status, 204);
  assert.equal(response.headers.get("access-control-allow-origin"), "https://a.example");
  const asked = preflight.headers.get("access-control-request-headers");
  assert.equal(response.headers.get("access-control-allow-headers"), asked);
  // Pages may read errors too, and when to come back.
  const refused = await open.send("/v1/models", undefined, { ...headers, authorization: "Bearer wrong" });
  assert.equal(refused.status, 401);
  assert.equal(refused.headers.get("access-control-allow-origin"), "https://a.example");
  assert.equal(refused.headers.get("access-control-expose-headers"), "Retry-After");
  await using all = await serve({ cors: ["*"], apiKeys: ["k"] });
  assert.equal(
    (await all.send("/v1/models", undefined, headers)).headers.get("access-control-allow-origin"),
    "*",
  );
  const other = await open.send("/v1/models", undefined, { origin: "https://b.example" });
  assert.equal(other.headers.get("access-control-allow-origin"), null);
});

Deno.test("without keys, pages of other origins and other names of the machine are refused", async () => {
  const body = { prompt: "a", max_tokens: 1 };
  const json = { "content-type": "application/json" };
  const from = (origin: string, more = {}) => ({ ...json, origin, ...more });
  await using server = await serve({ cors: ["https://a.example"], hosts: ["Levin.example"] });
  const steps = () => server.metric("levin_completion_tokens_total");
  for (const origin of ["https://b.example", "http://localhost:8001", "https://a.example.evil", "null"]) {
    await assertError(await server.send(COMPLETIONS, body, from(origin)), 403, "origin_not_allowed");
  }
  // A page without permission can send only what forms send; a page with it has to say what it sends.
  for (
    const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
  ) {
    const headers = from("https://a.example", { "content-type": type });
    await assertError(await server.send(COMPLETIONS, body, headers), 415, "unsupported_media_type");
  }
  assert.equal(await steps(), 0, "nothing was computed");
  const welcome = [
    from("https://a.example"),
    from("http://localhost"),
    from("https://behind.a.proxy", { "sec-fetch-site": "same-origin" }),
    from("http://localhost", { "content-type": "application/json; charset=utf-8" }),
    {},
  ];
  for (const headers of welcome) await server.ask(COMPLETIONS, body, headers);
  assert.equal(await steps(), welcome.length);

  const get = (url: string) => server.handler(new Request(url));
  for (const url of ["http://evil.example/v1/models", "http://levin.example.evil:8000/v1/models"]) {
    await assertError(await get(url), 403, "host_not_allowed");
  }
  for (const host of ["localhost", "a.localhost:1", "127.0.0.1:8000", "[::1]:8000", "levin.example:8000"]) {
    assert.equal((await get(`http://${host}/v1/models`)).status, 200, host);
  }
  // A page must open wherever a link leads; health is for the host.
  assert.equal((await get("http://evil.example/health")).status, 200);
  await using open = await serve();
  assert.equal((await open.handler(new Request("http://edge.example/v1/models"))).status, 200);
  // A key says enough.
  await using keyed = await serve({ apiKeys: ["k"] });
  await keyed.ask(COMPLETIONS, body, from("app://editor"));
  for (const hosts of [["a:80"], ["http://a"], [""], [7]]) {
    assert.throws(
      () => createHandler({ model: open.model, hosts: hosts as string[] }),
      /hosts must be names/,
    );
  }
});

Deno.test("hostile bodies get a 4xx in OpenAI's shape", async () => {
  await using server = await serve({ limits: { bodyBytes: 10 ** 6 } });
  const bodies = [
    ...hostileBodies({ vocabSize: TEXT.vocab_size, bodyBytes: 10 ** 6 }),
    ...["", ["a", ""]].map((prompt) => JSON.stringify({ prompt })), // this tokenizer begins a text with nothing
  ];
  const clientError = (status: number) => status >= 400 && status < 500;
  for (const body of bodies) {
    for (const path of [COMPLETIONS, "/v1/chat/completions", "/tokenize", "/detokenize"]) {
      const response = await server.send(path, body);
      if (path !== COMPLETIONS && response.status === 200) await response.body?.cancel(); // not every field is theirs
      else await assertError(response, clientError);
    }
  }
  await assertError(await server.send("/nowhere", {}), 404, "not_found");
  await assertError(await server.send(COMPLETIONS), 405, "method_not_allowed");
  await assertError(await server.send("/v1/models/another"), 404, "model_not_found");
  assert.equal(await server.metric("levin_writing"), 0);
  assert.equal((await server.ask(COMPLETIONS, { prompt: "a", max_tokens: 2 })).usage.completion_tokens, 2);
});

Deno.test("work is counted before it is done", async () => {
  await using server = await serve({ limits: { requestTokens: 10_000, scores: 10_000, bodyBytes: 10 ** 7 } });
  const many = <T>(count: number, value: T) => Array.from({ length: count }, () => value);
  const refused = async (path: string, body: unknown, param: string | null) => {
    const error = await assertError(await server.send(path, body), 400);
    assert.equal(error.param, param);
    assert(error.message.length < 300, error.message);
  };
  const ids = many(9_999, 1);
  const message = { role: "user", content: "Hi" };
  for (
    const body of [
      { prompt: many(129, "a") },
      { prompt: [...ids, -1] },
      { prompt: [...ids, "a"] },
      { prompt: many(2, many(6_000, 1)) },
      { prompt: many(6_000, 1), n: 2, max_tokens: 1 }, // each choice has the prompt
    ]
  ) await refused(COMPLETIONS, body, "prompt");
  await refused(COMPLETIONS, { prompt: many(3_000, 1), max_tokens: 0, echo: true, logprobs: 4 }, "logprobs");
  await refused(COMPLETIONS, { prompt: "a", max_tokens: 500, logprobs: 20 }, "logprobs");
  await refused("/v1/chat/completions", { messages: many(5000, message) }, "messages");
  await refused("/v1/chat/completions", { messages: many(5000, 7) }, "messages");
  await refused("/v1/chat/completions", { messages: many(4000, 7) }, "messages.0");
  await refused("/v1/chat/completions", { messages: [message], tools: many(5000, {}) }, "tools");
  await refused("/detokenize", { tokens: [...ids, "a"] }, "tokens");
  // More than any request needs is refused while it comes, before it is parsed.
  for (const value of ["", [1], {}, 1, -1, { a: 1 }]) {
    await refused(COMPLETIONS, { prompt: many(10 ** 6, value) }, null);
    await refused("/v1/chat/completions", { messages: many(10 ** 6, value) }, null);
    await refused("/detokenize", { tokens: many(10 ** 6, value) }, null);
  }
  await refused(COMPLETIONS, { prompt: "a", best_of: 2 }, "best_of");
  await refused(COMPLETIONS, { prompt: "a", n: 2, best_of: 1 }, "best_of");
  await refused(COMPLETIONS, { prompt: "a", best_of: 10 ** 9 }, "best_of");
  for (const stop of [many(65, "x"), many(5000, 7), "x".repeat(257), ["x".repeat(257)]]) {
    const error = await assertError(await server.send(COMPLETIONS, { prompt: "a", stop }), 400);
    assert.match(error.param!, /^stop/);
  }
  assert.equal(await server.metric("levin_prompt_tokens_total"), 0);
  const { choices } = await server.ask(COMPLETIONS, {
    prompt: ids,
    max_tokens: 1,
    stop: many(64, "x".repeat(256)),
    best_of: 1,
  });
  assert.equal(choices.length, 1);
});

Deno.test("answers are neither kept nor taken for anything but what they are", async () => {
  await using server = await serve();
  for (const path of ["/v1/models", "/metrics", "/health", "/nowhere", "/"]) {
    const { headers, body } = await server.send(path);
    await body?.cancel();
    assert.equal(headers.get("x-content-type-options"), "nosniff", path);
    assert.equal(headers.get("cache-control"), path === "/" ? "no-cache" : "no-store", path);
  }
  for (const stream of [false, true]) {
    const response = await server.send(COMPLETIONS, { prompt: "a", max_tokens: 1, stream });
    assert.equal(response.headers.get("cache-control"), "no-store");
    assert.equal(response.headers.get("connection"), null);
    await response.text();
  }
});

Deno.test("any JSON at all gets an answer or a 4xx", async () => {
  await using server = await serve({ limits: { maxTokens: 4 } });
  const field = fc.constantFrom(
    "prompt",
    "max_tokens",
    "temperature",
    "stop",
    "n",
    "logprobs",
    "echo",
    "messages",
    "session",
    "seed",
    "top_k",
  );
  const value = fc.oneof(fc.jsonValue(), fc.string(), fc.array(fc.nat(300)), fc.integer(), fc.double());
  await fc.assert(
    fc.asyncProperty(fc.dictionary(field, value), fc.boolean(), async (body, isChat) => {
      const response = await server.send(isChat ? "/v1/chat/completions" : COMPLETIONS, body);
      if (response.status === 200) await response.body?.cancel();
      else await assertError(response, (status) => status >= 400 && status < 500);
    }),
    { numRuns: 300 },
  );
});

Deno.test("a load that dies without a word fails its requests", async () => {
  const handler = createHandler({ model: new Promise(() => {}), limits: { seconds: 1 } });
  const post = (path: string, body: unknown) =>
    handler(new Request(`http://localhost${path}`, { method: "POST", body: JSON.stringify(body) }));
  const answers = await Promise.all([
    handler(new Request("http://localhost/v1/models")),
    post("/v1/completions", { prompt: "x" }),
    post("/tokenize", { prompt: "x" }),
  ]);
  for (const answer of answers) await assertError(answer, 503, "model_loading");
  await handler.close();
});

Deno.test("ready when the model is, and not before", async () => {
  await using server = await serve();
  const loading = Promise.withResolvers<TransNormerLLM>();
  const handler = createHandler({ model: loading.promise });
  const get = async (path: string) => (await handler(new Request(`http://localhost${path}`))).status;
  assert.deepEqual([await get("/health"), await get("/ready")], [200, 503]);
  const early = handler(new Request("http://localhost/v1/models"));
  loading.resolve(server.model);
  assert.equal((await early).status, 200);
  assert.deepEqual([await get("/health"), await get("/ready")], [200, 200]);
  await handler.close();

  const log = console.error;
  console.error = () => {};
  try {
    const broken = createHandler({ model: Promise.reject(new Error("no such file")) });
    await assertError(await broken(new Request("http://localhost/v1/models")), 503, "model_not_loaded");
    assert.equal((await broken(new Request("http://localhost/ready"))).status, 503);
  } finally {
    console.error = log;
  }
});

Deno.test("options that are wrong are refused immediately", async () => {
  await using server = await serve();
  const { model } = server;
  assert.throws(() => createHandler({ model: undefined as never }), /model must be a TransNormerLLM/);
  assert.throws(
    () => createHandler({ model, limits: { batch: 0 } }),
    /limits\.batch must be an integer >= 1: current value is 0/,
  );
  assert.throws(
    () => createHandler({ model, limits: { size: 1 } as never }),
    /limits must be some of batch, queue/,
  );
});

Deno.test("a thousand requests leave nothing behind", async () => {
  await using server = await serve();
  const { backend } = server.model;
  const request = (i: number) =>
    server.ask(COMPLETIONS, { prompt: `${i}`, max_tokens: 2, session: `${i % 5}`, temperature: 0 });
  for (let i = 0; i < 10; i++) await request(i);
  const [inUse, reserved] = [backend.bytesInUse, await server.metric("levin_backend_bytes")];
  for (let i = 0; i < 1000; i++) await request(i);
  assert.equal(backend.bytesInUse, inUse);
  assert.equal(await server.metric("levin_backend_bytes"), reserved);
});

Deno.test("metrics count what happened", async () => {
  await using server = await serve();
  await server.ask(COMPLETIONS, { prompt: "abc", max_tokens: 5, n: 2, temperature: 0 });
  await server.send(COMPLETIONS, "{");
  const text = await (await server.send("/metrics")).text();
  for (const line of text.trim().split("\n")) {
    assert.match(line, /^(# (HELP|TYPE) levin_\w+ .+|levin_\w+(\{(\w+="[^"]*",?)+\})? [\d.e+-]+)$/);
  }
  assert.match(text, /^levin_requests_total\{route="\/v1\/completions",status="200"\} 1$/m);
  assert.match(text, /^levin_requests_total\{route="\/v1\/completions",status="400"\} 1$/m);
  assert.equal(await server.metric("levin_prompt_tokens_total"), 3);
  assert.equal(await server.metric("levin_completion_tokens_total"), 10);
  assert.equal(await server.metric("levin_time_to_first_token_seconds_count"), 2);
  assert.equal(await server.metric("levin_time_per_token_seconds_count"), 8);
  assert.equal(await server.metric("levin_batch_size_count"), 4);
  assert.equal(await server.metric("levin_batch_size_sum"), 8);
  assert(await server.metric("levin_state_bytes") > 0);
});

Deno.test("seconds of computing are counted once, whatever is enqueued together, and not of what fails", async () => {
  const metrics = new Metrics(), start = performance.now();
  const ends = [1, 2, 3].map(() => Promise.withResolvers<void>());
  const counted = ends.map(({ promise }, i) =>
    metrics.compute("write", start, promise, Array(i + 1).fill(5))
  );
  for (const [i, end] of ends.entries()) {
    await setImmediate();
    if (i === 1) end.reject(new Error("lost"));
    else end.resolve();
    await counted[i];
  }
  const elapsed = (performance.now() - start) / 1000;
  const seconds = Number(/write",context="1K"\} (.*)$/m.exec(metrics.render())![1]);
  assert(seconds > 0 && seconds <= elapsed + 1e-9, `${seconds} of ${elapsed} seconds`);
});

Deno.test("metrics tell contexts apart by what a sequence holds, with its earlier turns", async () => {
  await using server = await serve();
  const named = (name: string) => async (context: string) =>
    await server.metric(`levin_${name}{context="${context}"}`);
  const [read, written] = [named("prompt_tokens_total"), named("completion_tokens_total")];
  const first = named("time_to_first_token_seconds_count"), next = named("time_per_token_seconds_count");
  const computed = (work: string, context: string) =>
    server.metric(`levin_compute_seconds_total{work="${work}",context="${context}"}`);
  const all = async (context: string) => [
    ...await Promise.all([read, written, first, next].map((count) => count(context))),
    ...(await Promise.all(["read", "write"].map((work) => computed(work, context)))).map((s) => s > 0),
  ];
  for (const context of ["1K", "8K", "64K", "512K", "more"]) {
    assert.deepEqual(await all(context), [0, 0, 0, 0, false, false], "known before the first request");
  }
  // 1,022 tokens and the third that is written make 1,025: the fourth is written in another context.
  const request = { prompt: "x".repeat(1022), max_tokens: 4, temperature: 0, session: "long" };
  await server.ask(COMPLETIONS, request);
  assert.deepEqual(await all("1K"), [1022, 3, 1, 2, true, true]);
  assert.deepEqual(await all("8K"), [0, 1, 0, 1, false, true]);
  // The next turn begins where the first ended: its few tokens stand in a long context.
  await server.ask(COMPLETIONS, { ...request, prompt: "y", max_tokens: 1 });
  assert.deepEqual(await all("8K"), [2, 2, 1, 1, true, true]);
  assert.deepEqual(await all("1K"), [1022, 3, 1, 2, true, true]);
  assert.deepEqual(await all("64K"), [0, 0, 0, 0, false, false]);
});

Deno.test("a wrong method gets 405 and the right ones, on every route", async () => {
  await using server = await serve();
  const methods = {
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/v1/sessions/mine/stop": "POST",
    "/v1/sessions/mine": "GET, HEAD, DELETE",
    "/v1/models": "GET, HEAD",
    "/v1/models/levin": "GET, HEAD",
    "/tokenizer_info": "GET, HEAD",
    "/health": "GET, HEAD",
    "/ready": "GET, HEAD",
    "/metrics": "GET, HEAD",
    "/": "GET, HEAD",
  };
  for (const [path, allowed] of Object.entries(methods)) {
    for (const method of ["GET", "POST", "PUT", "DELETE"]) {
      if (allowed.split(", ").includes(method)) continue;
      const response = await server.handler(new Request(`http://localhost${path}`, { method }));
      assert.equal(response.headers.get("allow"), allowed, `${method} ${path}`);
      await assertError(response, 405, "method_not_allowed");
    }
  }
});

Deno.test("clients of the Responses API learn what to use", async () => {
  await using server = await serve();
  for (const path of ["/v1/responses", "/v1/responses/resp_1"]) {
    const { message } = await assertError(await server.send(path, {}), 404, "unsupported_endpoint");
    assert.match(message, /use \/v1\/chat\/completions/);
  }
});
