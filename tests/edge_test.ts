import assert from "node:assert/strict";
import { bucket, fileOf, isolate } from "./edge_function.ts";

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
