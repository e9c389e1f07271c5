/** Many keys, one server: nobody takes all of it. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { ApiError } from "../serve/errors.ts";
import { FairQueue } from "../serve/fairQueue.ts";
import { Allowance } from "../serve/rates.ts";
import { assertError, events, holdSteps, monotonicClock, serve, until } from "./serve_setup.ts";

const COMPLETIONS = "/v1/completions";
const as = (key: string) => ({ authorization: `Bearer ${key}` });

Deno.test("a fair queue serves owners in turns, each first come, first served", () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.constantFrom("a", "b", "c"), fc.nat())), (items) => {
    const queue = new FairQueue<[string, number]>();
    for (const [owner, item] of items) queue.push(owner, [owner, item]);
    assert.equal(queue.size, items.length);
    const taken: [string, number][] = [];
    for (let item; (item = queue.shift()) !== undefined;) taken.push(item);
    for (const owner of ["a", "b", "c"]) {
      const of = ([other]: [string, number]) => other === owner;
      assert.deepEqual(taken.filter(of), items.filter(of));
      // While others have items, nobody is served twice.
      const places = taken.flatMap((item, i) => of(item) ? [i] : []);
      for (const [i, place] of places.entries()) assert(i === 0 || place - places[i - 1] <= 3);
    }
  }));
});

Deno.test("when a key is told to wait, the same request is taken after that many seconds, and not before", () => {
  const perMinute = fc.integer({ min: 1, max: 10_000 }), amounts = fc.array(fc.nat(5000));
  // Clocks are not at whole milliseconds.
  const begin = fc.double({ min: 0, max: 1e9, noNaN: true });
  const property = fc.property(perMinute, amounts, begin, (perMinute, amounts, begin) => {
    let now = begin, used = 0;
    const allowance = new Allowance(perMinute, "tokens", () => now);
    const wait = (milliseconds: number) => now += milliseconds;
    for (const amount of amounts) {
      try {
        allowance.take("a", amount);
        used += amount;
      } catch (error) {
        assert(error instanceof ApiError);
        if (error.status === 400) {
          assert(amount > perMinute);
          continue;
        }
        assert.equal(error.status, 429);
        const seconds = error.retryAfter!;
        assert(seconds >= 1 && seconds <= 60);
        if (seconds > 1) {
          wait(1000 * (seconds - 1) - 1);
          assert.throws(() => allowance.take("a", amount));
          wait(1001);
        } else wait(1000);
        allowance.take("a", amount);
        used += amount;
      }
      allowance.take("b", 0);
      assert(used <= perMinute * (1 + (now - begin + 1) / 60_000));
    }
  });
  // Counted in fractions of a token, 10.999 of 11 were there after the time that was told.
  fc.assert(property, { examples: [[11, [2, 9, 11], 0]] });
});

Deno.test("requests and tokens of a key per minute are limited, those of others are not", async () => {
  using time = monotonicClock();
  await using server = await serve({
    apiKeys: ["one", "two"],
    limits: { keyRequestsPerMinute: 3, keyTokensPerMinute: 100 },
  });
  const body = { prompt: [1, 2], max_tokens: 40, temperature: 0 };
  await server.ask(COMPLETIONS, body, as("one"));
  await server.ask(COMPLETIONS, body, as("one"));
  const tokens = await server.send(COMPLETIONS, body, as("one"));
  assert(Number(tokens.headers.get("retry-after")) >= 1);
  assert.match((await assertError(tokens, 429, "rate_limit_exceeded")).message, /100 tokens per minute/);
  const requests = await server.send(COMPLETIONS, body, as("one"));
  assert.match((await assertError(requests, 429, "rate_limit_exceeded")).message, /3 requests per minute/);
  await assertError(await server.send(COMPLETIONS, { ...body, max_tokens: 99 }, as("two")), 400);
  await server.ask(COMPLETIONS, body, as("two"));
  time.forward(60);
  await server.ask(COMPLETIONS, body, as("one"));
});

Deno.test("a key that asks for everything gets its share, and leaves room for others", async () => {
  await using server = await serve({
    apiKeys: ["greedy", "other"],
    limits: { batch: 4, queue: 8, maxTokens: 10_000 },
  });
  const steps = holdSteps(server.model);
  const long = { prompt: "a", max_tokens: 10_000, stream: true };
  const stop = new AbortController();
  const greedy = await Promise.all(
    Array.from({ length: 20 }, () => server.send(COMPLETIONS, long, as("greedy"))),
  );
  const taken = greedy.filter(({ status }) => status === 200);
  assert.equal(taken.length, 3 + 6); // three quarters of the batch and of the queue
  for (const response of greedy) {
    if (response.status === 200) continue;
    assert(Number(response.headers.get("retry-after")) >= 1);
    await assertError(response, 429, "queue_full");
  }
  // Requests that come while a step is held begin after it.
  await until(async () => {
    steps.allow(1);
    return await server.metric("levin_writing") === 3;
  });
  // The other key finds a free place although nine requests are before it.
  const other = server.ask(COMPLETIONS, { prompt: "b", max_tokens: 3 }, as("other"));
  steps.allow();
  assert.equal((await other).usage.completion_tokens, 3);
  stop.abort();
  for (const response of taken) await response.body!.cancel();
});

Deno.test("a large request waits for its places while small ones pass, but not for ever", async () => {
  await using server = await serve({ apiKeys: ["small", "large"], limits: { batch: 4, keyShare: 100 } });
  const steps = holdSteps(server.model);
  const order: string[] = [];
  const note = async (name: string, answer: Promise<unknown>) => {
    await answer;
    order.push(name);
  };
  const first = server.ask(COMPLETIONS, { prompt: "a", max_tokens: 100 }, as("small"));
  await until(async () => await server.metric("levin_writing") === 1);
  const large = note("large", server.ask(COMPLETIONS, { prompt: "b", max_tokens: 2, n: 4 }, as("large")));
  await until(async () => await server.metric("levin_waiting") === 1);
  const small = Array.from(
    { length: 30 },
    (_, i) => note(`small ${i}`, server.ask(COMPLETIONS, { prompt: "c", max_tokens: 2 }, as("small"))),
  );
  steps.allow();
  await Promise.all([first, large, ...small]);
  const place = order.indexOf("large");
  assert(place >= 1 && place <= 8, `${order}`);
});

Deno.test("a client that reads nothing is ended, and its place is free", async () => {
  await using server = await serve({ limits: { batch: 1, stallSeconds: 1, maxTokens: 100_000 } });
  const mute = await server.send(COMPLETIONS, { prompt: "a", max_tokens: 100_000, stream: true });
  const { usage } = await server.ask(COMPLETIONS, { prompt: "b", max_tokens: 2 });
  assert.equal(usage.completion_tokens, 2);
  let last = "";
  for await (const event of events(mute)) last = event;
  assert.equal(JSON.parse(last).error.code, "client_stalled");
});
