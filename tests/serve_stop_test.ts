/** How the server starts and stops: what keeps it from starting, and what becomes of the answers in flight. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { listening, silentHost } from "./listening.ts";
import { assertError, events, holdSteps, serve, textFiles } from "./serve_setup.ts";

const MAIN = fileURLToPath(new URL("../serve/main.ts", import.meta.url));

/** A folder with a model in `model/`. */
async function withModel(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.mkdir(`${folder}/model`);
    for (const [name, bytes] of Object.entries(textFiles())) {
      await Deno.writeFile(`${folder}/model/${name}`, bytes);
    }
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function start(folder: string, ...options: string[]): Deno.ChildProcess {
  const model = options.includes("--model") ? [] : ["--model", "model"];
  return new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", "--unstable-no-legacy-abort", MAIN],
      ...[...model, "--port", "0", "--backend", "wasm", "--max-tokens", "1000000", ...options],
    ],
    cwd: folder,
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** An answer that does not end by itself, of which the first event has arrived. */
async function endlessAnswer(url: string): Promise<AsyncGenerator<string>> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    body: JSON.stringify({ prompt: "hello", max_tokens: 1_000_000, stream: true, session: "mine" }),
  });
  assert.equal(response.status, 200);
  const stream = events(response);
  assert(!(await stream.next()).done);
  return stream;
}

async function last(stream: AsyncIterable<string>): Promise<string> {
  let found = "";
  for await (const event of stream) found = event;
  return found;
}

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  Deno.test(`${signal}: answers in flight end, new ones are refused, the process says so`, async () => {
    await withModel(async (folder) => {
      const process = start(folder, "--drain", "600"), server = listening(process);
      const url = await server.url;
      const stream = await endlessAnswer(url);
      process.kill(signal);
      await server.line("Stopping: up to 600 s for the answers in flight, 1; a second signal cuts them off");
      const ready = await fetch(`${url}/ready`);
      assert.deepEqual([ready.status, await ready.json()], [503, { status: "stopping" }]);
      const alive = await fetch(`${url}/health`);
      assert.deepEqual([alive.status, await alive.json()], [200, { status: "ok" }]);
      const refused = await fetch(`${url}/v1/completions`, { method: "POST", body: '{"prompt":"a"}' });
      assert.equal(refused.headers.get("retry-after"), "1");
      await assertError(refused, 503, "shutting_down");
      const stopped = await fetch(`${url}/v1/sessions/mine/stop`, { method: "POST" });
      assert.equal((await stopped.json()).stopped, true);
      assert.equal(await last(stream), "[DONE]");
      const { code } = await process.status;
      await server.done;
      assert.equal(code, signal === "SIGINT" ? 130 : 0, server.log());
      assert.match(server.log(), /\nStopped\n$/);
    });
  });
}

Deno.test("answers that do not end in time are cut off with a last event", async () => {
  await withModel(async (folder) => {
    const process = start(folder, "--drain", "0"), server = listening(process);
    const stream = await endlessAnswer(await server.url);
    process.kill("SIGTERM");
    assert.equal(JSON.parse(await last(stream)).error.code, "shutting_down");
    const { code } = await process.status;
    await server.done;
    assert.equal(code, 0, server.log());
    assert.match(server.log(), /\nStopped; answers cut off: 1\n$/);
  });
});

Deno.test("a second signal ends the process immediately", async () => {
  await withModel(async (folder) => {
    const process = start(folder, "--drain", "600"), server = listening(process);
    const stream = await endlessAnswer(await server.url);
    process.kill("SIGINT");
    await server.line("Stopping:");
    process.kill("SIGTERM");
    await assert.rejects(last(stream));
    const { code } = await process.status;
    await server.done;
    assert.equal(code, 143, server.log());
    assert.doesNotMatch(server.log(), /Stopped/);
  });
});

Deno.test("SIGTERM ends a server whose model still loads", async () => {
  await using host = silentHost();
  const process = start(".", "--model", host.url), server = listening(process);
  await host.asked(process);
  process.kill("SIGTERM");
  await assert.rejects(server.url, /ended before it listened/);
  assert.deepEqual([(await process.status).code, server.log()], [0, ""]);
});

Deno.test("a server that cannot serve says why in a line, and never listens", async () => {
  await withModel(async (folder) => {
    await Deno.writeTextFile(`${folder}/file`, "");
    const config = JSON.parse(await Deno.readTextFile(`${folder}/model/config.json`));
    await Deno.mkdir(`${folder}/broken`);
    await Deno.writeTextFile(`${folder}/broken/config.json`, JSON.stringify({ ...config, hidden_dim: 0 }));
    const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const fails: [RegExp, ...string[]][] = [
      [/must have config\.json/, "--model", "nowhere"],
      [/Cannot run TransNormerLLM\.load/, "--model", "broken"],
      [/Cannot keep sessions in .*\/file/, "--storage", "file"],
      [/Cannot listen on 127\.0\.0\.1:\d+: /, "--port", String(taken.addr.port)],
    ];
    for (const [line, ...options] of fails) {
      const process = start(folder, ...options), server = listening(process);
      await assert.rejects(server.url, /ended before it listened/);
      assert.equal((await process.status).code, 1, server.log());
      assert.match(server.log(), line);
      assert.match(server.log(), /^error: [^\n]*\n$/);
    }
    taken.close();
  });
});

Deno.test("a handler drains: answers in flight count until their ends", async () => {
  await using server = await serve();
  const steps = holdSteps(server.model);
  const request = { prompt: "hello", max_tokens: 3, temperature: 0 };
  const whole = server.ask("/v1/completions", request);
  const streamed = await server.send("/v1/completions", { ...request, stream: true });
  assert.equal(server.handler.answering(), 2);
  // A request that is wrong is no answer in flight.
  await assertError(await server.send("/v1/completions", { prompt: [] }), 400);
  assert.equal(server.handler.answering(), 2);
  let isDrained = false;
  const drained = server.handler.drain().then(() => isDrained = true);
  assert.deepEqual(await (await server.send("/ready")).json(), { status: "stopping" });
  await assertError(await server.send("/v1/completions", request), 503, "shutting_down");
  assert(!isDrained);
  steps.allow();
  const { choices } = await whole;
  assert.equal(choices[0].finish_reason, "length");
  assert.equal(await last(events(streamed)), "[DONE]");
  await drained;
  assert.equal(server.handler.answering(), 0);
  await server.handler.drain(); // nothing is left to wait for
});

Deno.test("--permissions prints a command that is enough to serve, tokenize and store sessions", async () => {
  await withModel(async (folder) => {
    await Deno.mkdir(`${folder}/sessions`);
    const port = (() => {
      using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      return (listener.addr as Deno.NetAddr).port;
    })();
    const printing = start(folder, "--port", String(port), "--storage", "sessions", "--permissions");
    const { code, stdout } = await printing.output();
    assert.equal(code, 0);
    const command = new TextDecoder().decode(stdout).trim();
    assert.match(
      command,
      /^deno run .*--no-prompt --allow-read=\S+ --allow-write=\S+ --allow-net=127\.0\.0\.1:\d+ /,
    );
    assert.doesNotMatch(command, / -A |--allow-(read|write|net|env|run|ffi|sys)( |$)/);
    const process = new Deno.Command("sh", {
      args: ["-c", `exec ${command.replace(/^deno/, '"$0"')}`, Deno.execPath()],
      cwd: folder,
      env: { NO_COLOR: "1" },
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const server = listening(process);
    const response = await fetch(`${await server.url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ prompt: "hello", max_tokens: 2, session: "s" }),
    });
    assert.equal(response.status, 200, await response.text() + server.log());
    process.kill("SIGTERM");
    await process.status;
    await server.done;
  });
});
