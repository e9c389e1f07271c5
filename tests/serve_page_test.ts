/** What the server has for its page, and for others: forks of sessions, chat templates, what a model says of itself. */
import assert from "node:assert/strict";
import { createHandler } from "../serve/mod.ts";
import { CONTINUE } from "./playground_setup.ts";
import { assertError, serve, TEXT, textFiles } from "./serve_setup.ts";

Deno.test("a fork of a session and the session continue without each other", async () => {
  await using server = await serve({ apiKeys: ["a", "b"] });
  const ask = (session: string, prompt: string) =>
    server.ask("/v1/completions", { prompt, session, max_tokens: 6, temperature: 0 });
  const begun = await ask("one", "Once upon");
  const { id, tokens, state_bytes } = await server.ask("/v1/sessions/one/fork", { id: "two" });
  assert.deepEqual({ id, tokens, state_bytes }, { ...begun.session, id: "two" });
  const fork = await ask("two", " a time");
  await ask("one", " another");
  // The other one has not moved in the meantime: it gives what it would have given first.
  await server.ask("/v1/sessions/two/fork", { id: "three" });
  const { choices: [{ text }] } = await ask("one", " and on");
  await using alone = await serve();
  const askAlone = (prompt: string) =>
    alone.ask("/v1/completions", { prompt, session: "one", max_tokens: 6, temperature: 0 });
  await askAlone("Once upon");
  await askAlone(" another");
  assert.equal((await askAlone(" and on")).choices[0].text, text);
  await alone.ask("/v1/completions", { prompt: "Once upon", session: "two", max_tokens: 6, temperature: 0 });
  const { choices } = await alone.ask("/v1/completions", {
    prompt: " a time",
    session: "two",
    max_tokens: 6,
    temperature: 0,
  });
  assert.equal(choices[0].text, fork.choices[0].text);
  // Without a prompt too: the last token of an answer goes with the fork.
  const [continued, again] = [await ask("two", ""), await ask("three", "")];
  assert.equal(continued.choices[0].text, again.choices[0].text);
});

Deno.test("forks that cannot be are refused", async () => {
  await using server = await serve({ apiKeys: ["a", "b"] });
  const fork = (from: string, id: unknown, headers = {}) =>
    server.send(`/v1/sessions/${from}/fork`, { id }, headers);
  for (const session of ["one", "two"]) {
    await server.ask("/v1/completions", { prompt: "Once", session, max_tokens: 1 });
  }
  await assertError(await fork("none", "three"), 404, "session_not_found");
  await assertError(await fork("one", "two"), 409, "session_exists");
  await assertError(await fork("one", "one"), 409, "session_busy");
  for (const id of [undefined, "", 7, "x".repeat(257)]) await assertError(await fork("one", id), 400);
  // A session of another key is none.
  await assertError(await fork("one", "three", { authorization: "Bearer b" }), 404, "session_not_found");
  assert.equal((await server.ask("/v1/sessions/two")).tokens, (await server.ask("/v1/sessions/one")).tokens);
});

Deno.test("a chat template that the host gives takes the place of the model's", async () => {
  const body = { messages: [{ role: "user", content: "Hi" }, { role: "assistant", content: "Yes?" }] };
  const idsOf = async (server: Awaited<ReturnType<typeof serve>>) =>
    (await server.ask("/tokenize", body)).tokens as number[];
  await using own = await serve();
  await using given = await serve({ chatTemplate: CONTINUE });
  const { tokenizer } = given.model;
  assert.equal(tokenizer!.decode(await idsOf(given), { specialTokens: true }), "Hi\n\nYes?\n\n");
  assert.notDeepEqual(await idsOf(own), await idsOf(given));
  const answer = await given.ask("/v1/chat/completions", { ...body, max_tokens: 4, temperature: 0 });
  const { choices: [{ text }] } = await given.ask("/v1/completions", {
    prompt: tokenizer!.encode("Hi\n\nYes?\n\n", { addSpecialTokens: false }),
    max_tokens: 4,
    temperature: 0,
  });
  assert.equal(answer.choices[0].message.content, text);
  const cardOf = async (server: Awaited<ReturnType<typeof serve>>) =>
    (await server.ask("/v1/models")).data[0];
  assert.equal((await cardOf(given)).chat_template, CONTINUE);
  assert.equal((await cardOf(own)).chat_template, own.model.tokenizer!.chatTemplate());
  await using none = await serve({}, TEXT, 1, { "tokenizer_config.json": new TextEncoder().encode("{}") });
  assert.equal((await cardOf(none)).chat_template, null);

  const { model } = given;
  assert.throws(() => createHandler({ model, chatTemplate: 7 as never }), TypeError);
  assert.throws(() => createHandler({ model, chatTemplate: "{% for %}" }), /Jinja template/);
});

Deno.test("a checkpoint says what its model is, to those who ask for the model", async () => {
  const folder = await Deno.makeTempDir();
  const log: unknown[] = [], { error } = console;
  try {
    for (const [name, bytes] of Object.entries(textFiles(TEXT))) {
      await Deno.writeFile(`${folder}/${name}`, bytes);
    }
    const card = async () => {
      await using server = await serve({ checkpoint: folder });
      return (await server.ask("/v1/models")).data[0];
    };
    const { about, examples, max_tokens } = await card();
    assert.deepEqual([about, examples, max_tokens], [undefined, undefined, 4096]);
    const introduction = { about: "A random model.", examples: ["One", "Two", "Three"] };
    await Deno.writeTextFile(`${folder}/introduction.json`, JSON.stringify(introduction));
    const card2 = await card();
    assert.deepEqual({ about: card2.about, examples: card2.examples }, introduction);
    // What cannot be read costs only itself, and the host learns of it.
    console.error = (...args) => log.push(...args);
    for (const wrong of ["{", '{"about": 7}', '{"examples": ["1", "2", "3", "4"]}']) {
      await Deno.writeTextFile(`${folder}/introduction.json`, wrong);
      assert.deepEqual([(await card()).about, log.length], [undefined, 1], wrong);
      log.length = 0;
    }
  } finally {
    console.error = error;
    await Deno.remove(folder, { recursive: true });
  }
});
