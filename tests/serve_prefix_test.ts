import assert from "node:assert/strict";
import { serve } from "./serve_setup.ts";

const COMPLETIONS = "/v1/completions";
const LIMITS = { prefill: 16 };
/** What a hundred prompts begin with: six pieces and a bit. */
const SYSTEM = Array.from({ length: 100 }, (_, n) => (7 * n) % 256);
const KNOWN = 96;

Deno.test("what prompts begin with is read twice and no more, and answers have the same bits", async () => {
  await using server = await serve({ limits: LIMITS });
  await using plain = await serve({ limits: { ...LIMITS, prefixBytes: 1 } });
  const read = () => server.metric("levin_prompt_tokens_total");
  for (let n = 0; n < 5; n++) {
    const prompt = [...SYSTEM, n, 3, 5];
    const before = await read();
    for (const session of [undefined, `s${n}`]) {
      const body = { prompt, max_tokens: 5, logprobs: 5, session };
      const answer = await server.ask(COMPLETIONS, { ...body, temperature: 0 });
      const expected = await plain.ask(COMPLETIONS, { ...body, temperature: 0 });
      assert.deepEqual(answer.choices, expected.choices);
      assert.deepEqual(answer.usage, expected.usage);
      assert.deepEqual(answer.session, expected.session);
    }
    // The second prompt finds that it was there before, the third one begins from it.
    assert.equal(await read() - before, n === 0 ? 2 * prompt.length : 2 * (prompt.length - KNOWN));
  }
  assert.equal(await server.metric("levin_prefix_hits_total"), 8);
  assert.equal(await server.metric("levin_prefix_tokens_total"), 8 * KNOWN);
  assert.equal(await plain.metric("levin_prefix_hits_total"), 0);
  assert.equal(await plain.metric("levin_prefix_bytes"), 0);

  // Sessions continue from where they are, and log-probabilities of a prompt are those of all of it.
  const session = { prompt: SYSTEM, max_tokens: 2, temperature: 0, session: "s0" };
  assert.deepEqual(
    (await server.ask(COMPLETIONS, session)).choices,
    (await plain.ask(COMPLETIONS, session)).choices,
  );
  const echo = { prompt: [...SYSTEM, 1], max_tokens: 1, temperature: 0, echo: true, logprobs: 1 };
  assert.deepEqual(
    (await server.ask(COMPLETIONS, echo)).choices,
    (await plain.ask(COMPLETIONS, echo)).choices,
  );
  assert.equal(await server.metric("levin_prefix_hits_total"), 8);
});

Deno.test("one owner's beginnings are not another's, and what is kept stays in its bounds", async () => {
  const size = await (async () => {
    await using server = await serve({ limits: LIMITS });
    for (let n = 0; n < 2; n++) await server.ask(COMPLETIONS, { prompt: [...SYSTEM, n], max_tokens: 1 });
    return await server.metric("levin_prefix_bytes");
  })();
  assert(size > 4 * KNOWN);
  const limits = { ...LIMITS, prefixBytes: 4 * size, keyShare: 50 };
  await using server = await serve({ apiKeys: ["a", "b"], limits });
  const hits = () => server.metric("levin_prefix_hits_total");
  const ask = (key: string, prompt: number[]) =>
    server.ask(COMPLETIONS, { prompt, max_tokens: 1 }, { authorization: `Bearer ${key}` });
  const other = (n: number) => SYSTEM.map((id, i) => i === 0 ? n : id);

  for (let n = 0; n < 2; n++) await ask("a", [...SYSTEM, n]);
  assert.equal(await hits(), 0);
  await ask("b", [...SYSTEM, 3]);
  await ask("b", [...SYSTEM, 4]);
  assert.equal(await hits(), 0, "b has not seen it before");
  await ask("b", [...SYSTEM, 5]);
  assert.equal(await hits(), 1);
  // b asks for ever new things: half of the room is its own.
  for (let n = 1; n < 20; n++) {
    for (let time = 0; time < 2; time++) await ask("b", other(n));
    assert(await server.metric("levin_prefix_bytes") <= 3 * size);
  }
  assert.equal(await server.metric("levin_prefix_bytes"), 3 * size);
  assert.equal(await hits(), 1);
  await ask("a", [...SYSTEM, 6]);
  assert.equal(await hits(), 2, "a's is still there");
  await ask("b", [...SYSTEM, 7]);
  assert.equal(await hits(), 2, "b's own made room");
});
