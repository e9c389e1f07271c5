import assert from "node:assert/strict";
import { TEXT, textFiles } from "./serve_setup.ts";

/** `LEVIN_MODEL` names a checkpoint to run instead of a random one of the size that edge isolates carry. */
const MODEL = Deno.env.get("LEVIN_MODEL");

const FIVE_MILLION = {
  ...TEXT,
  decoder_embed_dim: 256,
  hidden_dim: 256,
  decoder_attention_heads: 8,
  decoder_layers: 6,
  glu_dim: 704,
  linear_use_lrpe_list: [1, 0, 0, 0, 0, 0],
};

/** Serves a checkpoint on loopback, as a bucket would. */
function bucket(): Deno.HttpServer<Deno.NetAddr> {
  const files = MODEL === undefined ? textFiles(FIVE_MILLION) : {};
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async ({ url }) => {
    const name = new URL(url).pathname.slice(1);
    try {
      if (MODEL !== undefined) return new Response(await Deno.readFile(`${MODEL}/${name}`));
    } catch { /* 404 */ }
    return Object.hasOwn(files, name) ? new Response(files[name]) : new Response(null, { status: 404 });
  });
}

/** Starts the function; `flags` beside its network and its memory. */
async function isolate(port: number, flags: string[] = []) {
  const start = performance.now();
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-prompt", "--no-check", "--allow-net=127.0.0.1", "--v8-flags=--max-old-space-size=128"],
      ...["--unstable-no-legacy-abort", ...flags],
      new URL("edge_isolate.ts", import.meta.url).href,
      `http://127.0.0.1:${port}/`,
    ],
    env: { DENO_SERVE_ADDRESS: "tcp:127.0.0.1:0", NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let log = "";
  const listening = Promise.withResolvers<string>();
  const read = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      log += text;
      const address = /Listening on (http:\/\/127\.0\.0\.1:\d+)/.exec(log)?.[1];
      if (address !== undefined) listening.resolve(address);
    }
  };
  const done = Promise.all([read(process.stdout), read(process.stderr)]);
  process.status.then(() => done).then(() =>
    listening.reject(new Error(`The function did not start: ${log}`))
  );
  const url = await listening.promise;
  return {
    start,
    process,
    async ask(body: unknown): Promise<Response> {
      const response = await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) });
      assert.equal(response.status, 200, log);
      return response;
    },
    async [Symbol.asyncDispose]() {
      process.kill("SIGKILL");
      await process.status;
      await done;
    },
  };
}

Deno.test("the edge function answers with no permission but its network, in 128 MB of heap", async () => {
  const server = bucket();
  try {
    await using edge = await isolate(server.addr.port);
    const response = await edge.ask({ prompt: "hello", max_tokens: 32, temperature: 0, stream: true });
    const reader = response.body!.getReader();
    await reader.read();
    const first = performance.now() - edge.start;
    while (!(await reader.read()).done);
    for (let turn = 0; turn < 3; turn++) {
      const answer =
        await (await edge.ask({ prompt: "x".repeat(2000), max_tokens: 16, temperature: 0, session: "s" }))
          .json();
      assert.equal(answer.session.tokens, (turn + 1) * 2016);
    }
    const texts = await Promise.all(Array.from({ length: 12 }, async () => {
      return (await (await edge.ask({ prompt: "hello", max_tokens: 16, temperature: 0 })).json()).choices[0]
        .text;
    }));
    assert.equal(new Set(texts).size, 1);
    const memory = Deno.readTextFileSync(`/proc/${edge.process.pid}/status`).match(/VmHWM:\s+(\d+)/)?.[1];
    console.log(
      `cold start to first token ${first.toFixed(0)} ms, resident at most ${
        (Number(memory) / 1024).toFixed(0)
      } MiB`,
    );
    assert(first < 20_000);
  } finally {
    await server.shutdown();
  }
});

Deno.test("sessions of the edge function are in Deno KV: another isolate continues them", async () => {
  const server = bucket();
  const session = crypto.randomUUID();
  const body = { prompt: "", max_tokens: 12, temperature: 0, session };
  try {
    const texts: string[] = [];
    for (let turn = 0; turn < 2; turn++) {
      await using edge = await isolate(server.addr.port, ["--unstable-kv"]);
      const answer = await (await edge.ask({ ...body, prompt: turn === 0 ? "hello" : "" })).json();
      texts.push(answer.choices[0].text);
      assert.equal(answer.session.tokens, (turn + 1) * 12 + 1);
    }
    await using edge = await isolate(server.addr.port);
    const whole = await (await edge.ask({ prompt: "hello", max_tokens: 24, temperature: 0 })).json();
    assert.equal(texts.join(""), whole.choices[0].text);
  } finally {
    await server.shutdown();
  }
});

Deno.test("the edge function is short", async () => {
  const lines =
    (await Deno.readTextFile(new URL("../examples/edge/main.ts", import.meta.url))).split("\n").length;
  assert(lines <= 60, `${lines} lines`);
});
