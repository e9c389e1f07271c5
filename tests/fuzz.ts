/**
 * Random JSON, random stores, random files and random HTTP for server and loader. The suite takes a few seconds of it,
 * `deno task attack` a minute. fast-check prints the seed of what fails.
 *
 * @module
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { createStorage } from "unstorage";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { SERVED, serving } from "./reference_model.ts";
import { assertError, serve, type Server, textFiles } from "./serve_setup.ts";

/** Holds a property for so many seconds, with a seed that is printed. */
async function holds<T>(
  seconds: number,
  arbitrary: fc.Arbitrary<T>,
  check: (value: T) => Promise<void>,
): Promise<void> {
  const seed = crypto.getRandomValues(new Int32Array(1))[0];
  console.log(`seed ${seed}`);
  let last: Promise<void> | undefined;
  await fc.assert(fc.asyncProperty(arbitrary, (value) => last = check(value)), {
    ...{ seed, numRuns: 10 ** 9, interruptAfterTimeLimit: 1000 * seconds, markInterruptAsFailure: false },
  });
  await last; // fast-check does not wait for the run that it interrupts
}

const json = fc.jsonValue({ maxDepth: 4 });

/** Requests whose fields are right, wrong or missing. */
const body = fc.oneof(
  json,
  fc.record({
    prompt: fc.oneof(fc.string(), fc.array(fc.nat(300)), fc.array(fc.string()), json),
    messages: fc.oneof(
      fc.array(fc.record({ role: fc.string(), content: fc.oneof(fc.string(), json) })),
      json,
    ),
    max_tokens: fc.oneof(fc.nat(3), json),
    temperature: fc.oneof(fc.double({ min: 0, max: 2 }), json),
    n: fc.oneof(fc.integer({ min: 1, max: 3 }), json),
    stop: fc.oneof(fc.string(), fc.array(fc.string()), json),
    logprobs: fc.oneof(fc.nat(3), fc.boolean(), json),
    echo: fc.oneof(fc.boolean(), json),
    session: fc.oneof(fc.string(), json),
    stream: fc.boolean(),
    tokens: fc.oneof(fc.array(fc.nat(300)), json),
    id: fc.oneof(fc.string(), json),
    tools: json,
  }, { requiredKeys: [] }),
);
const path = fc.constantFrom(
  "/v1/completions",
  "/v1/chat/completions",
  "/tokenize",
  "/detokenize",
  "/v1/sessions/s/fork",
  "/v1/sessions/s/stop",
);

/** The handler answers anything with an answer or a 4xx in OpenAI's shape, and lives. */
export async function fuzzBodies(seconds: number): Promise<void> {
  await using server = await serve({ limits: { maxTokens: 3, sessions: 8 } });
  await holds(
    seconds,
    fc.tuple(path, body),
    async ([path, body]) => {
      const response = await server.send(path, JSON.stringify(body) ?? "null");
      if (response.status === 200) await response.text();
      else await assertError(response, (status) => status >= 400 && status < 500);
    },
  );
  await lives(server);
}

async function lives(server: Server): Promise<void> {
  assert.equal(
    (await server.ask("/v1/completions", { prompt: "a", max_tokens: 2 })).usage.completion_tokens,
    2,
  );
}

/** Whatever a store holds, a session of it is continued, begun anew or refused, and sweeps end. */
export async function fuzzStores(seconds: number): Promise<void> {
  const storage = createStorage();
  await using server = await serve({ storage, limits: { valueBytes: 2000 } });
  const turn = async () =>
    await server.send("/v1/completions", { prompt: [1], max_tokens: 1, temperature: 0, session: "s" });
  const value = fc.oneof(
    fc.uint8Array({ maxLength: 3000 }),
    fc.string(),
    json.map((value) => JSON.stringify(value)),
  );
  const damage = fc.array(
    fc.record({
      which: fc.nat(),
      how: fc.oneof(
        fc.record({ replace: value }),
        fc.record({ flip: fc.nat() }),
        fc.record({ cut: fc.nat() }),
        fc.constant({ remove: true }),
        fc.record({ swap: fc.nat() }),
      ),
    }),
    { minLength: 1, maxLength: 4 },
  );
  await holds(
    seconds,
    fc.tuple(
      damage,
      fc.array(fc.tuple(fc.stringMatching(/^[a-z0-9:]{1,20}x$/), value), { maxLength: 2 }),
    ),
    async ([damage, strange]) => {
      await turn();
      const keys = await storage.getKeys("sessions");
      for (const { which, how } of damage) {
        const key = keys[which % keys.length];
        const bytes = await storage.getItemRaw(key) as Uint8Array | string | null;
        if ("remove" in how) await storage.removeItem(key);
        else if ("replace" in how) await storage.setItemRaw(key, how.replace);
        else if ("swap" in how) {
          await storage.setItemRaw(
            key,
            await storage.getItemRaw(keys[how.swap % keys.length]),
          );
        } else if (bytes instanceof Uint8Array && bytes.length > 0) {
          const copy = bytes.slice(0, "cut" in how ? how.cut % bytes.length : undefined);
          if ("flip" in how) copy[how.flip % copy.length] ^= 1 << how.flip % 8;
          await storage.setItemRaw(key, copy);
        }
      }
      for (const [name, value] of strange) await storage.setItemRaw(`sessions:${name}`, value);
      const response = await turn();
      if (response.status === 200) await response.text();
      else await assertError(response, (status) => [409, 503].includes(status));
      await server.handler.sweep();
      await storage.clear();
    },
  );
  await lives(server);
}

/** Whatever the files of a checkpoint hold, they load, or are refused with an error of the library. */
export async function fuzzFiles(seconds: number): Promise<void> {
  using backend = await createBackend({ prefer: "wasm" });
  const files = textFiles();
  const names = Object.keys(files);
  const damage = fc.record({
    name: fc.constantFrom(...names),
    how: fc.oneof(
      fc.record({
        replace: fc.oneof(
          fc.uint8Array({ maxLength: 500 }),
          fc.json().map((text) => new TextEncoder().encode(text)),
        ),
      }),
      fc.record({ at: fc.nat(), byte: fc.nat(255) }),
      fc.record({ cut: fc.nat() }),
      fc.record({ field: fc.nat(), value: json }),
    ),
  });
  await holds(
    seconds,
    fc.array(damage, { minLength: 1, maxLength: 3 }),
    async (damages) => {
      const damaged = { ...files };
      for (const { name, how } of damages) {
        const bytes = damaged[name].slice();
        if ("replace" in how) damaged[name] = Uint8Array.from(how.replace);
        else if ("cut" in how) damaged[name] = bytes.slice(0, how.cut % (bytes.length + 1));
        else if ("at" in how) {
          if (bytes.length > 0) bytes[how.at % bytes.length] = how.byte;
          damaged[name] = bytes;
        } else damaged[name] = withField(bytes, how.field, how.value);
      }
      try {
        using _model = await TransNormerLLM.load(SERVED, { backend, fetch: serving(damaged) });
      } catch (error) {
        assert(error instanceof RangeError || error instanceof TypeError, Deno.inspect(error));
        assert.match(error.message, /^Cannot run /, Deno.inspect(error));
      }
      assert.equal(backend.bytesInUse, 0);
    },
  );
}

/** A JSON file with one of its fields, at any depth, of another value. */
function withField(bytes: Uint8Array<ArrayBuffer>, which: number, value: unknown): Uint8Array<ArrayBuffer> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return bytes;
  }
  const places: [Record<string, unknown>, string][] = [];
  const walk = (node: unknown) => {
    if (typeof node !== "object" || node === null || places.length > 2000) return;
    for (const key of Object.keys(node)) {
      places.push([node as Record<string, unknown>, key]);
      walk((node as Record<string, unknown>)[key]);
    }
  };
  walk(parsed);
  if (places.length === 0) return bytes;
  const [node, key] = places[which % places.length];
  node[key] = value;
  return new TextEncoder().encode(JSON.stringify(parsed));
}

const line = fc.oneof(
  fc.constantFrom(
    "GET / HTTP/1.1",
    "POST /v1/completions HTTP/1.1",
    "HEAD /model/config.json HTTP/1.1",
    "CONNECT a:1 HTTP/1.1",
    "TRACE / HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "PRI * HTTP/2.0",
    "GET http://a/ HTTP/1.0",
    "GET //// HTTP/1.1",
    "Host: 127.0.0.1",
    "Host: []",
    "Host: a b",
    "Content-Length: 5",
    "Content-Length: -5",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "",
    "",
    "ffffffffffffffff",
    "5",
    "hello",
    "0",
  ),
  fc.string(),
);

/** Whatever bytes come to its port, a server answers the next client. */
export async function fuzzHttp(url: string, seconds: number): Promise<void> {
  const { hostname, port } = new URL(url);
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 2000 }),
    fc.array(line, { maxLength: 12 }).map((lines) =>
      new TextEncoder().encode(lines.join("\r\n") + "\r\n\r\n")
    ),
  );
  await holds(
    seconds,
    fc.array(bytes, { minLength: 1, maxLength: 8 }),
    async (connections) => {
      await Promise.all(connections.map(async (bytes) => {
        const connection = await Deno.connect({ hostname, port: Number(port) });
        try {
          await connection.write(bytes);
          const first = new Uint8Array(100);
          const late = new Promise<null>((resolve) => setTimeout(resolve, 20, null));
          await Promise.race([connection.read(first), late]);
        } catch (error) {
          assert(!(error instanceof Deno.errors.ConnectionRefused), `${error}`);
        } finally {
          connection.close();
        }
      }));
      const response = await fetch(`${url}/health`, { signal: AbortSignal.timeout(10_000) });
      assert.deepEqual([response.status, await response.json()], [200, { status: "ok" }]);
    },
  );
}
