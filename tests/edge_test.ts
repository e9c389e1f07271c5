import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { Levin } from "../examples/cloudflare/main.ts";
import { objectStore, SessionObject } from "../serve/mod.ts";
import { bucket, fileOf, isolate } from "./edge_function.ts";
import { clock, textFiles } from "./serve_setup.ts";
import { conforms } from "./store_conformance.ts";

/** The shipped model, where a bucket on loopback has it. */
const files = () => bucket((name) => fileOf(new URL("../models/sotu/", import.meta.url), name));

Deno.test("the edge function answers with no permission but its network and settings, in 128 MB of heap", async () => {
  const server = files();
  try {
    await using edge = await isolate(server.addr.port);
    for (let turn = 0; turn < 3; turn++) {
      const answer =
        await (await edge.ask({ prompt: "x".repeat(2000), max_tokens: 16, temperature: 0, session: "s" }))
          .json();
      // The first prompt begins with a token that the tokenizer adds.
      assert.equal(answer.session.tokens, 1 + (turn + 1) * 2016);
    }
    const texts = await Promise.all(Array.from({ length: 12 }, async () => {
      return (await (await edge.ask({ prompt: "hello", max_tokens: 16, temperature: 0 })).json()).choices[0]
        .text;
    }));
    assert.equal(new Set(texts).size, 1);
  } finally {
    await server.shutdown();
  }
});

Deno.test("sessions of the edge function are in Deno KV: another isolate continues them", async () => {
  const server = files();
  const session = crypto.randomUUID();
  const body = { prompt: "", max_tokens: 12, temperature: 0, session };
  try {
    const texts: string[] = [];
    for (let turn = 0; turn < 2; turn++) {
      await using edge = await isolate(server.addr.port, ["--unstable-kv"]);
      const answer = await (await edge.ask({ ...body, prompt: turn === 0 ? "hello" : "" })).json();
      texts.push(answer.choices[0].text);
      assert.equal(answer.session.tokens, 1 + "hello".length + (turn + 1) * 12);
    }
    await using edge = await isolate(server.addr.port);
    const whole = await (await edge.ask({ prompt: "hello", max_tokens: 24, temperature: 0 })).json();
    assert.equal(texts.join(""), whole.choices[0].text);
  } finally {
    await server.shutdown();
  }
});

Deno.test("a function that may not read its keys does not start", async () => {
  for (const flags of [[], ["--allow-env=MODEL"]]) {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--no-prompt", "--no-check", "--allow-net=127.0.0.1", ...flags],
        new URL("../examples/edge/main.ts", import.meta.url).href,
        "http://127.0.0.1:9/",
      ],
      env: { API_KEYS: "secret", NO_COLOR: "1" },
    }).output();
    const log = new TextDecoder().decode(stderr);
    assert.equal(code, 1, log);
    assert.match(log, /Cannot start without permission to read API_KEYS/);
  }
});

Deno.test("hostile requests do not end the edge function in its 128 MB", async () => {
  const server = files();
  try {
    await using edge = await isolate(server.addr.port);
    const attack = async (body: string) => {
      const response = await fetch(`${edge.url}/v1/completions`, { method: "POST", body });
      await response.body?.cancel();
      assert(response.status >= 400 && response.status < 500, `${response.status}`);
    };
    const many = (value: string, count: number) => `{"prompt":[${`${value},`.repeat(count)}${value}]}`;
    for (let round = 0; round < 3; round++) {
      await Promise.all(["1", '""', "[1]", "-1"].flatMap((value) => [
        attack(many(value, 100_000)),
        attack(many(value, 10 ** 6)),
      ]));
      await attack(JSON.stringify({ prompt: "x".repeat(400_000) }));
      await attack(`{"prompt":"a","stop":[${"7,".repeat(200_000)}7]}`);
    }
    for (let i = 0; i < 60; i++) {
      await (await edge.ask({ prompt: "a", max_tokens: 1, session: `s${i}` })).text();
    }
    assert.equal(
      (await (await edge.ask({ prompt: "hello", max_tokens: 4 })).json()).usage.completion_tokens,
      4,
    );
  } finally {
    await server.shutdown();
  }
});

Deno.test("the edge function is short", async () => {
  const lines =
    (await Deno.readTextFile(new URL("../examples/edge/main.ts", import.meta.url))).split("\n").length;
  assert(lines <= 60, `${lines} lines`);
});

Deno.test("bundles of the edge function and of the Worker hold one kind of kernels, however they are bundled", async () => {
  for (const [name, platform] of [["edge", "deno"], ["edge", "browser"], ["cloudflare", "browser"]]) {
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["bundle", "--quiet", "--platform", platform], // into one file: what is imported later is in it
        ...["--config", fileURLToPath(new URL("../deno.json", import.meta.url))],
        fileURLToPath(new URL(`../examples/${name}/main.ts`, import.meta.url)),
      ],
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    const bundle = new TextDecoder().decode(stdout);
    assert(bundle.includes("createHandler") && bundle.includes("TransNormerLLM"), name);
    assert.deepEqual([/@compute/.test(bundle), /0061736d/.test(bundle)], [false, true], name);
  }
});

/** Durable Objects as the host has them: each does one thing after another. */
function sessionObjects() {
  const newObject = () => {
    const values = new Map<string, unknown>();
    const storage = {
      get: (key: string) => Promise.resolve(values.get(key)),
      put: (key: string, value: unknown) => Promise.resolve(void values.set(key, value)),
      delete: (key: string) => Promise.resolve(values.delete(key)),
      deleteAll: () => Promise.resolve(values.clear()),
      setAlarm: (time: number) => Promise.resolve(void (kept.alarm = time)),
    };
    const object = new SessionObject({ storage });
    let last: Promise<unknown> = Promise.resolve();
    const kept = {
      values,
      alarm: 0,
      object,
      fetch(request: Request) {
        const answer = last.then(() => object.fetch(request));
        last = answer.catch(() => {});
        return answer;
      },
    };
    return kept;
  };
  const objects = new Map<string, ReturnType<typeof newObject>>();
  return {
    objects,
    getByName(name: string) {
      if (!objects.has(name)) objects.set(name, newObject());
      return objects.get(name)!;
    },
  };
}

Deno.test("Durable Objects: each session in its own, emptied when it has expired", async () => {
  using time = clock();
  const namespace = sessionObjects();
  await conforms(objectStore(namespace), objectStore(namespace), { lists: false });
  const store = objectStore(namespace);
  const ends = () =>
    [...namespace.objects.values()].filter(({ values }) => values.size > 0).map(({ alarm }) => alarm);
  assert.deepEqual(ends(), []);
  await store.write("sessions:x:a", new Uint8Array(3), undefined, { ttl: 60 });
  await store.write("sessions:y:a", new Uint8Array(3), undefined, { ttl: 60 });
  time.forward(30);
  await store.write("sessions:y:b", new Uint8Array(3), undefined, { ttl: 60 });
  assert.deepEqual(ends(), [Date.now() + 30_000, Date.now() + 60_000]);
  await namespace.objects.get("sessions:x")!.object.alarm();
  assert.equal(await store.read("sessions:x:a"), undefined);
  assert.equal((await store.read("sessions:y:a"))!.value.length, 3);
});

Deno.test("the Worker keeps sessions in their objects, within the limits of one isolate", async () => {
  const namespace = sessionObjects(), files = textFiles();
  const newLevin = () =>
    new Levin({}, {
      LEVIN: { getByName: () => assert.fail() },
      SESSIONS: namespace,
      MODEL: {
        fetch: (input) => {
          const file = files[new URL(String(input)).pathname.slice(1)];
          return Promise.resolve(new Response(file ?? null, { status: file === undefined ? 404 : 200 }));
        },
      },
    });
  const levin = newLevin();
  const ask = (body: string) =>
    levin.fetch(new Request("https://levin/v1/completions", { method: "POST", body }));
  const asked = JSON.stringify({ prompt: [5], max_tokens: 1, session: "s" });
  for (const [server, tokens] of [[levin, 2], [newLevin(), 4], [levin, 6]] as const) {
    const response = await server.fetch(
      new Request("https://levin/v1/completions", { method: "POST", body: asked }),
    );
    assert.equal((await response.json()).session.tokens, tokens);
  }
  assert.equal(namespace.objects.size, 1);
  // It has the limits of one isolate: those of the edge function, but for the sessions, which it stores.
  for (
    const [body, status] of [["x".repeat(2 ** 19 + 1), 413], [
      `{"prompt":"${"x".repeat(8193)}"}`,
      400,
    ]] as const
  ) {
    const response = await ask(body);
    assert.equal(response.status, status, await response.text());
  }
  const limits = async (name: string) => {
    const source = await Deno.readTextFile(new URL(`../examples/${name}/main.ts`, import.meta.url));
    return [...source.matchAll(/\.\.\.\{ ([^}]+) \}/g)].flatMap(([, list]) => list.split(", "))
      .filter((limit) => !limit.startsWith("sessions"));
  };
  assert((await limits("edge")).length >= 10);
  assert.deepEqual(await limits("cloudflare"), await limits("edge"));
});
