/** The server as a process: killed in the middle of writes, traced. */
import assert from "node:assert/strict";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { listening } from "./listening.ts";
import { textFiles } from "./serve_setup.ts";
import { killed } from "./serve_killed.ts";

const MAIN = new URL("../serve/main.ts", import.meta.url).href;

/** A checkpoint in a folder whose name is no URL. */
async function withCheckpoint(body: (folder: string) => Promise<void>): Promise<void> {
  const parent = await Deno.makeTempDir(), folder = `${parent}/a model: 100%25 #1?`;
  try {
    await Deno.mkdir(folder);
    for (const [name, bytes] of Object.entries(textFiles())) await Deno.writeFile(`${folder}/${name}`, bytes);
    await body(folder);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
}

Deno.test("killed in the middle of writes, no session is lost or torn", async () => {
  await withCheckpoint(async (folder) => {
    const { kills, turns, lost } = await killed(folder, { kills: 4, sessions: 6 });
    assert.equal(kills, 4);
    assert(turns >= 1 + 6 + 11 + 16, `${turns} turns were acknowledged`);
    assert.deepEqual(lost, []);
  });
});

Deno.test("--chat-template gives the model a template; one that cannot be used ends the start", async () => {
  await withCheckpoint(async (folder) => {
    const start = (template: string) =>
      new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", MAIN, "--model", folder, "--port", "0", "--backend", "wasm"].concat(
          "--chat-template",
          template,
        ),
        env: { NO_COLOR: "1" },
        stdout: "piped",
        stderr: "piped",
      }).spawn();
    const file = `${folder}/chat.jinja`;
    await Deno.writeTextFile(file, "{% for message in messages %}[{{ message.content }}]{% endfor %}");
    const process = start(file);
    const { url: address, done, log } = listening(process);
    const url = await address;
    const post = async (path: string, body: unknown) =>
      await (await fetch(`${url}${path}`, { method: "POST", body: JSON.stringify(body) })).json();
    const { tokens } = await post("/tokenize", { messages: [{ role: "user", content: "Hi" }] });
    assert.equal((await post("/detokenize", { tokens })).prompt, "[Hi]");
    process.kill("SIGTERM");
    assert.equal((await process.status).code, 0, log());
    await done;
    await Deno.writeTextFile(file, "{% for %}");
    for (
      const [template, reason] of [[file, /Jinja template/], [
        `${folder}/none`,
        /Cannot read the chat template/,
      ]]
    ) {
      const failed = start(template as string);
      const said = listening(failed);
      said.url.catch(() => {});
      assert.notEqual((await failed.status).code, 0);
      await said.done;
      assert.match(said.log(), reason as RegExp);
    }
  });
});

Deno.test("requests are spans of OpenTelemetry, through Deno's own support", async () => {
  await withCheckpoint(async (folder) => {
    const process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", MAIN, "--model", folder, "--port", "0", "--backend", "wasm"],
      env: {
        OTEL_DENO: "true",
        OTEL_EXPORTER_OTLP_PROTOCOL: "console",
        OTEL_BSP_SCHEDULE_DELAY: "50",
        NO_COLOR: "1",
      },
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const { url: address, done, log } = listening(process);
    const url = await address;
    const body = { prompt: "secret text", max_tokens: 5, temperature: 0 };
    const response = await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) });
    assert.equal(response.status, 200);
    await response.json();
    process.kill("SIGTERM");
    assert.equal((await process.status).code, 0, log());
    await done;
    for (
      const part of [
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "first token",
        "/v1/completions",
      ]
    ) {
      assert(log().includes(part), `${part} is missing in ${log()}`);
    }
    assert(!log().includes("secret text"), "spans hold no text");
  });
});

Deno.test("log-likelihood and perplexity by command are those of the model", async () => {
  await withCheckpoint(async (folder) => {
    const score = async (...args: string[]) => {
      const script = new URL("../examples/score.ts", import.meta.url).href;
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--allow-read", "--no-check", script, "--model", folder, "--backend", "wasm", ...args],
      }).output();
      assert.equal(code, 0, new TextDecoder().decode(stderr));
      return JSON.parse(new TextDecoder().decode(stdout));
    };
    using backend = await createBackend({ prefer: "wasm" });
    using model = await TransNormerLLM.load(folder, { backend });
    assert.deepEqual(await score("hello", " there"), await model.loglikelihood("hello", " there"));
    assert.deepEqual(await score("--ids", "5,6", "7"), await model.loglikelihood([5, 6], [7]));
    const text = "Well, hello there. ".repeat(50);
    await Deno.writeTextFile(`${folder}/text.txt`, text);
    assert.equal((await score("--file", `${folder}/text.txt`)).perplexity, await model.perplexity(text));
  });
});
