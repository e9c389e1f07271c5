import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { createStorage } from "unstorage";
import type { TransNormerLLM } from "../model/mod.ts";
import { createHandler, openStore, type SessionStore } from "../serve/mod.ts";
import { memoryStore } from "../serve/stores/memory.ts";
import { listening } from "./listening.ts";
import { assertError, serve, textFiles } from "./serve_setup.ts";
import { chaos } from "./store_chaos.ts";
import { conforms } from "./store_conformance.ts";
import { SHARED_STORES } from "./store_servers.ts";

Deno.test("a store of sessions compares and sets: memory", async () => {
  const store = await openStore("memory:");
  await conforms(store, store);
});

for (const { name, present, start } of SHARED_STORES) {
  Deno.test({
    name: `a store of sessions compares and sets: ${name}`,
    ignore: !present,
    async fn() {
      await using place = await start();
      const [a, b] = [await openStore(place.url), await openStore(place.url)];
      await conforms(a, b);
      await a.close();
      await b.close();
    },
  });
}

Deno.test("servers that are killed, over one store with a bad network, lose no acknowledged turn", async (t) => {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, bytes] of Object.entries(textFiles())) await Deno.writeFile(`${folder}/${name}`, bytes);
    await using reference = await serve({ limits: { sessionsBytes: 2 ** 30 } });
    for (const { name, present, start } of SHARED_STORES) {
      await t.step({
        name,
        ignore: !present,
        async fn() {
          await using store = await start();
          const report = await chaos(folder, reference, store, {
            servers: 4,
            clients: 16,
            sessions: 40,
            turnsPerKill: 100,
            isOver: ({ turns, kills }) => turns >= 300 && kills >= 2,
          });
          assert.deepEqual(report.lost, []);
          assert(report.conflicts > 0, "requests of one session met");
        },
      });
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

const COMPLETIONS = "/v1/completions";
/** A turn of two tokens. */
const TURN = { prompt: [5], max_tokens: 1, temperature: 0, session: "s" };

/** A store in memory in which a test decides what becomes of each write of a head. */
function scripted(): SessionStore & {
  /** What becomes of the next writes of heads, one after another; then all succeed. */
  readonly script: ((write: () => Promise<boolean>) => Promise<boolean>)[];
} {
  const store = memoryStore();
  const script: ((write: () => Promise<boolean>) => Promise<boolean>)[] = [];
  return {
    ...store,
    script,
    write(key, ...rest) {
      const write = () => store.write(key, ...rest);
      const next = key.endsWith(":a") ? script.shift() : undefined;
      return next === undefined ? write() : next(write);
    },
  };
}

/** Keeps a test's output free of what a server logs of a store that fails. */
async function quietly<T>(work: () => Promise<T>): Promise<T> {
  const log = console.error;
  console.error = () => {};
  try {
    return await work();
  } finally {
    console.error = log;
  }
}

const lost = () => Promise.reject(new Error("the answer is lost"));

Deno.test("a write whose answer is lost counts if it arrived, and otherwise never will", async () => {
  const storage = scripted();
  await using server = await serve({ storage });
  const ask = () => quietly(() => server.send(COMPLETIONS, TURN));
  const tokens = async () => (await server.ask("/v1/sessions/s")).tokens;

  // The first turn of a session, and a later one: the store has them.
  for (const expected of [2, 4]) {
    storage.script.push(async (write) => (await write(), await lost()));
    assert.equal((await (await ask()).json()).session.tokens, expected);
  }
  // It has another's turn after it.
  await using other = await serve({ storage });
  storage.script.push(async (write) => {
    await write();
    assert.equal((await other.ask(COMPLETIONS, TURN)).session.tokens, 8);
    return await lost();
  });
  assert.equal((await (await ask()).json()).session.tokens, 6);
  assert.equal(await tokens(), 8);

  // It is still on its way when the client is told that nothing is stored, and arrives later.
  for (const session of ["s", "new"]) {
    let arrive!: () => Promise<boolean>;
    storage.script.push((write) => (arrive = write, lost()));
    const refused = await quietly(() => server.send(COMPLETIONS, { ...TURN, session }));
    const { message } = await assertError(refused, 503, "session_store_failed");
    assert.match(message, /the session is as it was/);
    assert.equal(await arrive(), false, "too late");
    const after = (await server.ask(COMPLETIONS, { ...TURN, session })).session.tokens;
    assert.equal(after, session === "s" ? 10 : 2);
  }

  // It never arrives, as another's turn was first.
  storage.script.push(async () => {
    assert.equal((await other.ask(COMPLETIONS, TURN)).session.tokens, 12);
    return await lost();
  });
  await assertError(await ask(), 409, "session_conflict");
  // The replacement that keeps it out has no answer either.
  storage.script.push(lost, async (write) => (await write(), await lost()));
  await assertError(await ask(), 409, "session_conflict");
  assert.equal(await tokens(), 12);
  assert.equal((await server.ask(COMPLETIONS, TURN)).session.tokens, 14);
  await server.handler.sweep();
  assert.equal(await tokens(), 14);
});

Deno.test("a store that refuses, is full or does not answer costs a sentence and 503, and no turn", async () => {
  const memory = memoryStore();
  const never = () => new Promise<never>(() => {});
  for (const fail of [() => Promise.reject(new Error("OOM command not allowed")), never]) {
    let broken: (keyof SessionStore)[] = [];
    const storage = new Proxy(memory, {
      get: (store, name: keyof SessionStore) => broken.includes(name) ? fail : store[name],
    });
    await using server = await serve({ storage, limits: { storeSeconds: 1 } });
    const session = `s ${fail === never}`;
    assert.equal((await server.ask(COMPLETIONS, { ...TURN, session })).session.tokens, 2);
    for (const methods of [["read"], ["write"], ["read", "write", "remove"]] as const) {
      broken = [...methods];
      const response = await quietly(() => server.send(COMPLETIONS, { ...TURN, session }));
      const { message } = await assertError(response, 503, "session_store_failed");
      assert.match(message, /^The session store does not answer/);
      assert(Number(response.headers.get("retry-after")) >= 1);
      await quietly(() => server.handler.sweep());
      assert.equal((await server.send("/health")).status, 200);
      assert.equal(
        (await server.ask(COMPLETIONS, { ...TURN, session: undefined })).usage.completion_tokens,
        1,
      );
      broken = [];
      assert.equal((await server.ask(`/v1/sessions/${encodeURIComponent(session)}`)).tokens, 2);
    }
    if (fail !== never) {
      broken = ["list"];
      await quietly(() => server.handler.sweep());
    }
    // What the store can do but remove is no failure of the turn.
    broken = ["remove"];
    const turn = await quietly(() => server.ask(COMPLETIONS, { ...TURN, session }));
    assert.equal(turn.session.tokens, 4);
    broken = [];
  }
});

Deno.test("a server whose store goes away in the middle of a write says that it cannot tell", async () => {
  const storage = scripted();
  await using server = await serve({ storage, limits: { storeSeconds: 1 } });
  await server.ask(COMPLETIONS, TURN);
  const { read } = storage;
  storage.script.push(async (write) => {
    await write();
    storage.read = lost;
    return await lost();
  });
  const response = await quietly(() => server.send(COMPLETIONS, TURN));
  const { message } = await assertError(response, 503, "session_store_unsettled");
  assert.match(message, /may have stored this turn/);
  storage.read = read;
  assert.equal((await server.ask("/v1/sessions/s")).tokens, 4);
});

Deno.test("the storage of a handler is a URL, a store, or one of unstorage", async () => {
  for (const storage of ["mysql://localhost", "sessions", "", 7, {}, null]) {
    assert.throws(
      () => createHandler({ model: {} as TransNormerLLM, storage: storage as string }),
      /^TypeError: Cannot run createHandler as storage must be a/,
    );
  }
  assert.throws(
    () => createHandler({ model: {} as TransNormerLLM, storage: "mysql://me:secret@localhost" }),
    (error: Error) => !error.message.includes("secret"),
  );
  const shared = memoryStore();
  for (const storage of ["memory:", shared, shared, createStorage()]) {
    await using server = await serve({ storage });
    const { tokens } = (await server.ask(COMPLETIONS, TURN)).session;
    assert.equal(tokens, storage === shared && (await server.ask("/v1/sessions/s")).tokens > 2 ? 4 : 2);
  }
  // Nobody listens there: the server answers all the same.
  const gone = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  gone.close();
  for (const scheme of ["redis", "postgres"]) {
    await using server = await serve({ storage: `${scheme}://user:secret@127.0.0.1:${gone.addr.port}/0` });
    await quietly(async () => {
      await assertError(await server.send(COMPLETIONS, TURN), 503, "session_store_failed");
      await assertError(await server.send(COMPLETIONS, TURN), 503, "session_store_failed");
    });
    assert.equal((await server.ask(COMPLETIONS, { ...TURN, session: undefined })).usage.completion_tokens, 1);
  }
});

Deno.test("drivers that no literal names have the versions of imports.json", async () => {
  const { imports } = JSON.parse(await Deno.readTextFile(new URL("../imports.json", import.meta.url)));
  const files = ["../serve/stores/packages.ts", "../cli/dawn.ts"];
  const texts = await Promise.all(files.map((file) => Deno.readTextFile(new URL(file, import.meta.url))));
  const text = texts.join("");
  for (const name of ["@redis/client", "postgres", "webgpu"]) {
    assert.match(imports[name], /^npm:.+@\d/);
    assert(text.includes(`"${imports[name].replace(/^npm:(@redis\/)?/, "")}"`), name);
  }
});

Deno.test("deno task serve keeps sessions in each store, and ends with a line where it cannot", async (t) => {
  const folder = await Deno.makeTempDir();
  const start = (storage: string, ...options: string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: [
        ...["task", "--quiet", "serve", "--model", folder, "--storage", storage, "--port", "0"],
        ...["--backend", "wasm", ...options],
      ],
      cwd: fileURLToPath(new URL("..", import.meta.url)),
      env: { NO_COLOR: "1" },
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  try {
    for (const [name, bytes] of Object.entries(textFiles())) await Deno.writeFile(`${folder}/${name}`, bytes);
    for (const { name, present, start: startStore } of SHARED_STORES) {
      await t.step({
        name,
        ignore: !present,
        async fn() {
          await using store = await startStore();
          for (const tokens of [2, 4]) {
            const process = start(store.url);
            const server = listening(process);
            const response = await fetch(`${await server.url}/v1/completions`, {
              method: "POST",
              body: JSON.stringify(TURN),
            });
            assert.equal((await response.json()).session?.tokens, tokens);
            process.kill("SIGTERM");
            assert.equal((await process.status).code, 0, server.log());
            await server.done;
          }
        },
      });
    }
    const { stdout } = await start("postgres://db.example/levin", "--permissions").output();
    assert.match(new TextDecoder().decode(stdout), /--allow-net=127\.0\.0\.1:0,db\.example:5432 .*PG\*/);
    const gone = Deno.listen({ port: 0, hostname: "127.0.0.1" });
    gone.close();
    for (
      const place of ["redis", "postgres"].map((scheme) =>
        `${scheme}://me:secret@127.0.0.1:${gone.addr.port}`
      )
    ) {
      const { code, stderr } = await start(place).output();
      const text = new TextDecoder().decode(stderr);
      assert.equal(code, 1, text);
      assert.match(text, /^error: Cannot keep sessions in \w+:\/\/\.\.\.@127\.0\.0\.1:\d+: .+\n$/);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
