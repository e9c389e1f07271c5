/**
 * `deno task load`: what the server carries on this machine, as a table. Everything runs on loopback and is bounded in
 * count and time.
 *
 * @module
 */
import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { killed, start } from "./serve_killed.ts";
import { events, TEXT, textFiles } from "./serve_setup.ts";

const HELP = `Usage: deno task load [options]

  --model <folder>       checkpoint with a tokenizer; left out: random weights, 5 million parameters
  --clients <n>          streaming clients at once           64
  --seconds <n>          how long they go on                 60
  --requests <n>         one after another, for memory       10000
  --kills <n>            of the server while it writes       100
  --history <n>          longest history of a session        1000000
`;

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    clients: { type: "string", default: "64" },
    seconds: { type: "string", default: "60" },
    requests: { type: "string", default: "10000" },
    kills: { type: "string", default: "100" },
    history: { type: "string", default: "1000000" },
    help: { type: "boolean", short: "h" },
  },
});
if (values.help) {
  console.log(HELP);
  Deno.exit(0);
}

/** A row of the table. */
interface Row {
  readonly what: string;
  readonly result: string;
  readonly wanted: string;
  readonly ok: boolean;
}

const scratch = await Deno.makeTempDir();
const rows: Row[] = [];
try {
  const model = values.model ?? `${scratch}/model`;
  if (values.model === undefined) await writeRandomModel(model);
  rows.push(...await streams(model, Number(values.clients), Number(values.seconds)));
  rows.push(...await sequential(model, Number(values.requests)));
  rows.push(...await histories(model, Number(values.history)));
  rows.push(await kills(model, Number(values.kills)));
} finally {
  await Deno.remove(scratch, { recursive: true });
}
const width = (key: "what" | "result" | "wanted") => Math.max(...rows.map((row) => row[key].length));
for (const { what, result, wanted, ok } of rows) {
  const cells = [what.padEnd(width("what")), result.padEnd(width("result")), wanted.padEnd(width("wanted"))];
  console.log(`| ${cells.join(" | ")} | ${ok ? "ok" : "FAILED"} |`);
}
if (!rows.every(({ ok }) => ok)) Deno.exit(1);

async function writeRandomModel(folder: string): Promise<void> {
  await Deno.mkdir(folder);
  const config = {
    ...TEXT,
    decoder_embed_dim: 256,
    hidden_dim: 256,
    decoder_attention_heads: 8,
    decoder_layers: 6,
    glu_dim: 704,
    linear_use_lrpe_list: [1, 0, 0, 0, 0, 0],
  };
  for (const [name, bytes] of Object.entries(textFiles(config))) {
    await Deno.writeFile(`${folder}/${name}`, bytes);
  }
}

async function withServer<T>(model: string, body: (url: string, pid: number) => Promise<T>): Promise<T> {
  const { url, process } = await start(model, `${scratch}/sessions`);
  try {
    return await body(url, process.pid);
  } finally {
    process.kill("SIGTERM");
    await process.status;
  }
}

async function post(url: string, body: unknown): Promise<Response> {
  const response = await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return response;
}

/** Clients that stream at once and check every answer, beside one client alone. */
async function streams(folder: string, clients: number, seconds: number): Promise<Row[]> {
  const prompts = Array.from(
    { length: clients },
    (_, i) => `Client ${i} of ${clients} says: ${"ab".repeat(i % 20)}`,
  );
  const lengths = prompts.map((_, i) => 48 + 7 * i % 41);
  const expected: string[] = [];
  {
    // What each client must get, from the library, one after another.
    using backend = await createBackend({ prefer: "wasm" });
    using model = await TransNormerLLM.load(folder, { backend });
    for (const [i, prompt] of prompts.entries()) {
      const tokens = await Array.fromAsync(model.generate(prompt, { temperature: 0, maxTokens: lengths[i] }));
      expected.push(tokens.map(({ text }) => text).join(""));
    }
  }
  return await withServer(folder, async (url, pid) => {
    let wrong = 0, failed = 0;
    const firsts: number[] = [];
    const client = async (i: number, until: number): Promise<number> => {
      let tokens = 0;
      while (performance.now() < until) {
        try {
          const sent = performance.now();
          const response = await post(url, {
            prompt: prompts[i],
            max_tokens: lengths[i],
            temperature: 0,
            stream: true,
            stream_options: { include_usage: true },
          });
          let text = "", isFirst = true, isDone = false;
          for await (const data of events(response)) {
            if (isFirst) firsts.push(performance.now() - sent);
            isFirst = false;
            if (data === "[DONE]") {
              isDone = true;
              continue;
            }
            const chunk = JSON.parse(data);
            for (const choice of chunk.choices) text += choice.text;
            tokens += chunk.usage?.completion_tokens ?? 0;
          }
          if (!isDone || text !== expected[i]) wrong++;
        } catch (error) {
          failed++;
          console.error(`client ${i}: ${error}`);
        }
      }
      return tokens;
    };
    /** Tokens per second, and per second of the server's own computing, which other processes cannot take from it. */
    const run = async (count: number, seconds: number) => {
      const begin = performance.now(), computed = await cpuSeconds(pid);
      const tokens = await Promise.all(
        Array.from({ length: count }, (_, i) => client(i, begin + 1000 * seconds)),
      );
      const total = tokens.reduce((sum, n) => sum + n, 0);
      return {
        rate: total / ((performance.now() - begin) / 1000),
        perCpu: total / (await cpuSeconds(pid) - computed),
      };
    };
    await run(4, Math.min(3, seconds)); // warm
    const alone = await run(1, Math.min(10, seconds));
    firsts.length = 0;
    const together = await run(clients, seconds);
    firsts.sort((a, b) => a - b);
    const quantile = (q: number) => `${firsts[Math.floor(q * (firsts.length - 1))].toFixed(0)} ms`;
    return [
      row(`answers to ${clients} streaming clients in ${seconds} s`, `${firsts.length}`, "", true),
      row("lost", `${failed}`, "0", failed === 0),
      row("mixed up or cut off", `${wrong}`, "0", wrong === 0),
      row("one client alone", `${alone.rate.toFixed(0)} tokens/s`, "", true),
      row("all clients", `${together.rate.toFixed(0)} tokens/s`, "", true),
      row("batching", times(together.rate / alone.rate), ">= 3 times", together.rate >= 3 * alone.rate),
      row("batching, per second of computing", times(together.perCpu / alone.perCpu), "", true),
      row("first token, median and 99 %", `${quantile(0.5)}, ${quantile(0.99)}`, "", true),
    ];
  });
}

/** Requests one after another: the process must not grow. */
async function sequential(folder: string, requests: number): Promise<Row[]> {
  return await withServer(folder, async (url, pid) => {
    const resident = async () => {
      const status = await Deno.readTextFile(`/proc/${pid}/status`).catch(() => undefined);
      return status === undefined ? NaN : Number(/VmRSS:\s+(\d+)/.exec(status)![1]) / 1024;
    };
    const held = async () => {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(/^levin_backend_bytes (\d+)$/m.exec(text)![1]);
    };
    const request = async (i: number) => {
      const session = i % 2 === 0 ? undefined : `s${i % 10}`;
      await (await post(url, { prompt: `Request ${i}`, max_tokens: 2, temperature: 0, session })).json();
    };
    const warm = Math.ceil(requests / 5);
    for (let i = 0; i < warm; i++) await request(i);
    const before = await resident(), bytes = await held(), begin = performance.now();
    for (let i = warm; i < requests; i++) await request(i);
    const rate = (requests - warm) / ((performance.now() - begin) / 1000);
    const grown = await resident() - before, more = await held() - bytes;
    return [
      row(
        `resident memory after ${warm}, and after ${requests} requests`,
        `${before.toFixed(0)}, ${(before + grown).toFixed(0)} MiB`,
        "+ 32 MiB at most",
        grown <= 32,
      ),
      row("tensors that they left", `${more} bytes`, "0", more === 0),
      row("requests one after another", `${rate.toFixed(0)} per s`, "", true),
    ];
  });
}

/** The cost of going on with a session, by the length of what it has read. */
async function histories(folder: string, longest: number): Promise<Row[]> {
  return await withServer(folder, async (url) => {
    const found: Row[] = [];
    let shortest = NaN;
    for (const length of [1000, 32_000, longest]) {
      const session = `history of ${length}`;
      for (let read = 0; read < length;) {
        const ids = Array.from(
          { length: Math.min(200_000, length - read) },
          (_, t) => 97 + (read + t) * 7 % 26,
        );
        await (await post(url, { prompt: ids, max_tokens: 0, session })).json();
        read += ids.length;
      }
      const times: number[] = [];
      for (let i = 0; i < 20; i++) {
        const sent = performance.now();
        const answer = await (await post(url, { prompt: "and", max_tokens: 8, temperature: 0, session }))
          .json();
        times.push(performance.now() - sent);
        assert(answer.session.tokens > length);
      }
      times.sort((a, b) => a - b);
      const median = times[times.length / 2];
      shortest = Number.isNaN(shortest) ? median : shortest;
      found.push(row(
        `8 tokens more after ${length.toLocaleString("en")}`,
        `${median.toFixed(0)} ms`,
        "twice the first at most",
        median <= 2 * shortest,
      ));
    }
    return found;
  });
}

async function kills(folder: string, count: number): Promise<Row> {
  const { kills, turns, lost } = await killed(folder, { kills: count, sessions: 8 });
  for (const what of lost) console.error(what);
  return row(
    `sessions lost or torn, ${kills} times kill -9 within ${turns} writes`,
    `${lost.length}`,
    "0",
    lost.length === 0 && turns > kills,
  );
}

/** Seconds that a process has computed, user and system; Linux counts them in hundredths. */
async function cpuSeconds(pid: number): Promise<number> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`).catch(() => undefined);
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields === undefined ? NaN : (Number(fields[11]) + Number(fields[12])) / 100;
}

function times(factor: number): string {
  return `${factor.toFixed(1)} times`;
}

function row(what: string, result: string, wanted: string, ok: boolean): Row {
  console.error(`${what}: ${result}`);
  return { what, result, wanted, ok };
}
