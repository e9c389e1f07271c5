/** Sessions of many clients in a bounded store. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { createStorage } from "unstorage";
import { Census } from "../serve/census.ts";
import { checkLimits } from "../serve/limits.ts";
import { assertError, clock, serve, type Server } from "./serve_setup.ts";

const COMPLETIONS = "/v1/completions";
const as = (key: string) => ({ authorization: `Bearer ${key}` });

const turn = (server: Server, session: string, key?: string) =>
  server.ask(COMPLETIONS, { prompt: [1], max_tokens: 1, session }, key === undefined ? {} : as(key));

const exists = async (server: Server, session: string, key?: string) =>
  (await server.send(`/v1/sessions/${session}`, undefined, key === undefined ? {} : as(key))).status === 200;

Deno.test("beyond the limits, the sessions that were not used for longest go, and it is counted", async () => {
  for (const limits of [{ sessions: 3 }, { sessionsBytes: 0 }]) {
    const probe = await (async () => {
      await using server = await serve();
      await turn(server, "a");
      return await server.metric("levin_sessions_bytes");
    })();
    assert(probe > 1000);
    const storage = createStorage();
    const bounded = "sessions" in limits ? limits : { sessionsBytes: 3 * probe + probe / 2 };
    await using server = await serve({ storage, limits: bounded });
    for (const id of ["a", "b", "c", "a", "d"]) await turn(server, id);
    assert.deepEqual(
      await Promise.all(["a", "b", "c", "d"].map((id) => exists(server, id))),
      [true, false, true, true],
    );
    for (let i = 0; i < 20; i++) await turn(server, `flood ${i}`);
    assert.equal(await server.metric("levin_sessions"), 3);
    assert(await server.metric("levin_sessions_bytes") <= 3.5 * probe);
    assert.equal(await server.metric("levin_sessions_evicted_total"), 21);
    const names = new Set((await storage.getKeys("sessions")).map((key) => key.split(":")[1]));
    assert.equal(names.size, 3);
  }
});

Deno.test("a key that floods the store loses its own sessions, not those of others", async () => {
  await using server = await serve({ apiKeys: ["greedy", "other"], limits: { sessions: 8, keyShare: 50 } });
  await turn(server, "mine", "other");
  for (let i = 0; i < 30; i++) await turn(server, `flood ${i}`, "greedy");
  assert(await exists(server, "mine", "other"));
  assert.equal(await server.metric("levin_sessions"), 5);
});

Deno.test("what earlier processes stored counts, whatever its order", async () => {
  const storage = createStorage();
  {
    await using server = await serve({ storage });
    for (const id of ["a", "b", "c", "d"]) await turn(server, id);
  }
  await using server = await serve({ storage, limits: { sessions: 3 } });
  await server.handler.sweep();
  assert.equal(await server.metric("levin_sessions"), 3);
  assert(!await exists(server, "a") && await exists(server, "d"));
});

Deno.test("memory is bounded by default, and a session that is in use stays", async () => {
  assert.equal(checkLimits({}, 1, true).sessionsBytes, 2 ** 27);
  assert.equal(checkLimits({}, 1, false).sessionsBytes, 2 ** 33);
  await using server = await serve({ limits: { sessions: 1 } });
  await Promise.all(["a", "b", "c"].map((id) => turn(server, id)));
  await turn(server, "d");
  assert.equal(await server.metric("levin_sessions"), 1);
  assert(await exists(server, "d"));
  await assertError(await server.send("/v1/sessions/a"), 404, "session_not_found");
});

Deno.test("a census never holds more than it may, but for what is busy", () => {
  const limits = checkLimits({ sessions: 5, sessionsBytes: 100, keyShare: 60 });
  const steps = fc.array(fc.record({
    key: fc.constantFrom(..."abcdefgh"),
    bytes: fc.integer({ min: 0, max: 60 }),
    expires: fc.integer({ min: 1, max: 1000 }),
    owner: fc.constantFrom("x", "y", "z"),
  }));
  fc.assert(fc.property(steps, fc.subarray([..."abcdefgh"]), (steps, busy) => {
    const census = new Census(limits);
    const now = Date.now();
    const known = new Map<string, { owner: string; bytes: number }>();
    for (const { key, bytes, expires, owner } of steps) {
      known.delete(key);
      known.set(key, { owner, bytes });
      census.add(key, { owner, bytes, expires: now + 10_000 + expires });
      for (let out; (out = census.surplus((key) => busy.includes(key))) !== undefined;) {
        assert(!busy.includes(out.key) && known.has(out.key));
        census.delete(out.key);
        known.delete(out.key);
      }
      assert.equal(census.size, known.size);
      assert.equal(census.bytes, [...known.values()].reduce((sum, { bytes }) => sum + bytes, 0));
      const idle = [...known].filter(([key]) => !busy.includes(key));
      assert(idle.length === 0 || census.size <= 5 && census.bytes <= 100);
    }
  }));
});

Deno.test("to delete, evict or forget one session, nobody lists the store", async () => {
  using time = clock();
  const storage = createStorage(), { getKeys } = storage;
  let listed = 0;
  storage.getKeys = (...args) => {
    listed++;
    return getKeys(...args);
  };
  await using server = await serve({ storage, limits: { sessions: 20, sessionSeconds: 60 } });
  await turn(server, "first");
  const before = listed; // what a server does at its start
  for (let i = 0; i < 30; i++) await turn(server, `${i}`); // ten are evicted
  const gone = await server.handler(new Request("http://localhost/v1/sessions/29", { method: "DELETE" }));
  assert(gone.ok && !await exists(server, "29"));
  time.forward(61);
  assert(!await exists(server, "28"));
  await turn(server, "28");
  assert.equal(listed, before);
  await server.handler.sweep();
  assert(listed > before);
});

/** A body that comes when a test says so. */
function slowBody() {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const stream = new ReadableStream<Uint8Array>({ start: (it) => void (controller = it) });
  return {
    stream,
    push: (text: string) => controller.enqueue(new TextEncoder().encode(text)),
    end: () => controller.close(),
  };
}

Deno.test("the bodies of all requests have so much room, of which a key has its share", async () => {
  const limits = { bodyBytes: 10_000, bodiesBytes: 16_000, keyShare: 75 };
  await using server = await serve({ apiKeys: ["greedy", "other"], limits });
  const send = (key: string) => {
    const body = slowBody();
    const response = server.handler(
      new Request(`http://localhost${COMPLETIONS}`, { method: "POST", headers: as(key), body: body.stream }),
    );
    return { ...body, response };
  };
  const text = `{"prompt":"a","max_tokens":1}`;
  /** Sends most of a body; it is read when another request, sent after it, has its answer. */
  const begin = async (key: string, bytes: number) => {
    const request = send(key);
    request.push(text.slice(0, -1) + " ".repeat(bytes - text.length));
    await turn(server, "between", "other");
    return request;
  };
  const end = async (request: ReturnType<typeof send>) => {
    request.push("}");
    request.end();
    const response = await request.response;
    assert.equal(response.status, 200, await response.text());
  };
  const first = await begin("greedy", 9000);
  const second = send("greedy");
  second.push(" ".repeat(4000)); // 13,000 of 12,000
  const refused = await second.response;
  assert.equal(refused.headers.get("retry-after"), "1");
  await assertError(refused, 429, "too_many_bodies");
  const other = await begin("other", 6000);
  const third = send("greedy");
  third.push(" ".repeat(2000)); // 11,000 of 12,000, and 17,000 of 16,000
  await assertError(await third.response, 429, "too_many_bodies");
  for (const request of [first, other]) await end(request);
  // All room is there again, also what the refused had taken.
  for (const key of ["greedy", "other"]) await end(await begin(key, 9900));
  // A client that goes gives it back, and a body that is too large takes none.
  const gone = await begin("greedy", 9000);
  gone.end();
  await assertError(await gone.response, 400, "invalid_json");
  const large = send("greedy");
  large.push(" ".repeat(10_001));
  await assertError(await large.response, 413, "body_too_large");
  await end(await begin("greedy", 9900));
});

Deno.test("a body that does not come in time is not waited for", async () => {
  await using server = await serve({ limits: { bodySeconds: 1 } });
  const body = slowBody();
  body.push('{"prompt":"');
  const request = new Request(`http://localhost${COMPLETIONS}`, { method: "POST", body: body.stream });
  await assertError(await server.handler(request), 408, "body_timeout");
});
