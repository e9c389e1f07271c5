/**
 * `deno task load`: what the server carries on this machine, as a table. Everything runs on loopback and is bounded in
 * count and time. The server is another process; this one is its clients.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cli, command, integer, items, oneOf, path, threads as parseThreads } from "../cli/mod.ts";
import { createBackend, type Tensor } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { killed, start } from "./serve_killed.ts";
import { assertError, events, hostileBodies } from "./serve_setup.ts";

/** The model that is served, the server's threads, and a folder for what it stores; set by the command. */
let model: string, threads: number | "auto", scratch: string;

/** A row of the table. */
interface Row {
  readonly what: string;
  readonly result: string;
  readonly wanted: string;
  readonly ok: boolean;
}

async function withServer<T>(body: (url: string, pid: number) => Promise<T>): Promise<T> {
  const { url, process } = await start(model, `${scratch}/sessions`, ["--threads", String(threads)]);
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

/** What clients ask for, one request each: prompts and answers of different lengths, no two answers alike. */
function requests(count: number) {
  return Array.from({ length: count }, (_, i) => ({
    prompt: `Client ${i} of ${count} says: ${"ab".repeat(i % 20)}`,
    max_tokens: 48 + 7 * i % 41,
    temperature: 1,
    seed: i,
  }));
}

/** What the server must answer: what the library says, one request after another. */
async function answers(asked: ReturnType<typeof requests>): Promise<string[]> {
  using backend = await createBackend({ prefer: "wasm" });
  using loaded = await TransNormerLLM.load(model, { backend });
  const texts: string[] = [];
  for (const { prompt, max_tokens, temperature, seed } of asked) {
    const tokens = loaded.generate(prompt, { maxTokens: max_tokens, temperature, seed });
    texts.push((await Array.fromAsync(tokens)).map(({ text }) => text).join(""));
  }
  assert.equal(new Set(texts).size, texts.length, "answers must differ, or nobody sees them mixed up");
  return texts;
}

/** Clients that stream and check every answer. */
class Clients {
  /** Answers that came to their end, those that did not, and those of them that were not as expected. */
  readonly found = { answers: 0, lost: 0, wrong: 0 };
  /** Milliseconds to the first token of each answer. */
  readonly firsts: number[] = [];
  readonly #url: string;
  readonly #asked: ReturnType<typeof requests>;
  readonly #expected: readonly string[];
  /** The request that one client alone sends next. */
  #turn = 0;

  constructor(url: string, asked: ReturnType<typeof requests>, expected: readonly string[]) {
    this.#url = url;
    this.#asked = asked;
    this.#expected = expected;
  }

  /** Each client sends its own request, again and again, until told that it is over. */
  async all(isOver: () => boolean): Promise<void> {
    await Promise.all(this.#asked.map(async (_, i) => {
      while (!isOver()) await this.#stream(i);
    }));
  }

  /** One client sends the requests of all of them, one after another. */
  async one(isOver: () => boolean): Promise<void> {
    while (!isOver()) await this.#stream(this.#turn++ % this.#asked.length);
  }

  async #stream(i: number): Promise<void> {
    try {
      const sent = performance.now();
      const response = await post(this.#url, { ...this.#asked[i], stream: true });
      let text = "", isFirst = true, isDone = false;
      for await (const data of events(response)) {
        if (isFirst) this.firsts.push(performance.now() - sent);
        isFirst = false;
        if (data === "[DONE]") isDone = true;
        else text += JSON.parse(data).choices[0].text;
      }
      this.found.answers++;
      if (!isDone || text !== this.#expected[i]) this.found.wrong++;
    } catch (error) {
      this.found.lost++;
      console.error(`client ${i}: ${error}`);
    }
  }
}

function wait(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
}

/** Many streaming clients together, each of which checks every answer. */
async function streams(count: number, duration: number): Promise<Row[]> {
  const asked = requests(count);
  const expected = await answers(asked);
  return await withServer(async (url) => {
    const clients = new Clients(url, asked, expected);
    const until = performance.now() + 1000 * duration;
    await clients.all(() => performance.now() >= until);
    const { found, firsts } = clients;
    firsts.sort((a, b) => a - b);
    const quantile = (q: number) => `${firsts[Math.floor(q * (firsts.length - 1))].toFixed(0)} ms`;
    return [
      row(`answers to ${count} streaming clients in ${duration} s`, `${found.answers}`, "", true),
      row("lost", `${found.lost}`, "0", found.lost === 0),
      row("mixed up or cut off", `${found.wrong}`, "0", found.wrong === 0 && found.answers >= count),
      row("first token, median and 99 %", `${quantile(0.5)}, ${quantile(0.99)}`, "", true),
    ];
  });
}

/**
 * The same requests one at a time and all together, alternately, since other work on the machine varies. Tokens are
 * those that the server counts while all clients are at work: neither how they begin nor how they end is measured.
 */
async function batching(count: number, turns: number): Promise<Row[]> {
  const asked = requests(count);
  const expected = await answers(asked);
  const tokens = asked.reduce((sum, { max_tokens }) => sum + max_tokens, 0) / count;
  using backend = await createBackend({
    prefer: "wasm",
    threads,
  });
  using loaded = await TransNormerLLM.load(model, { backend });
  const prompts = asked.map(({ prompt }) => loaded.tokenizer!.encode(prompt));
  return await withServer(async (url, pid) => {
    const clients = new Clients(url, asked, expected);
    const now = async () => {
      const text = await (await fetch(`${url}/metrics`)).text();
      const counts = Array.from(text.matchAll(/^levin_completion_tokens_total\{.*\} (\d+)$/gm));
      const tokens = counts.reduce((sum, [, count]) => sum + Number(count), 0);
      const [cpu, own] = [await cpuSeconds(pid), await cpuSeconds(Deno.pid)];
      return [tokens, performance.now() / 1000, cpu, own, await machineSeconds() - cpu - own];
    };
    const measure = async (begin: (isOver: () => boolean) => Promise<void>, duration: number) => {
      let isOver = false;
      const end = begin(() => isOver);
      await wait(1.5); // until all of them have sent
      const before = await now();
      await wait(duration);
      const [tokens, time, cpu, own, others] = (await now()).map((value, i) => value - before[i]);
      isOver = true;
      await end;
      return { rate: tokens / time, perCpu: tokens / cpu, own: own / time, others: others / time };
    };
    await measure((isOver) => clients.all(isOver), 1); // warm
    await modelAlone(loaded, prompts);
    const one: Awaited<ReturnType<typeof measure>>[] = [], all: typeof one = [];
    const bounds: Awaited<ReturnType<typeof modelAlone>>[] = [];
    for (let turn = 0; turn < turns; turn++) {
      one.push(await measure((isOver) => clients.one(isOver), 3));
      all.push(await measure((isOver) => clients.all(isOver), 5));
      bounds.push(await modelAlone(loaded, prompts));
    }
    const { lost, wrong } = clients.found;
    const gain = median(all.map(({ rate }, turn) => rate / one[turn].rate));
    const gainPerCpu = median(all.map(({ perCpu }, turn) => perCpu / one[turn].perCpu));
    const rate = (found: typeof one) => `${median(found.map(({ rate }) => rate)).toFixed(0)} tokens/s`;
    const ofModel = (key: "prompt" | "one" | "all") => median(bounds.map((bound) => bound[key]));
    const bound = median(
      bounds.map(({ prompt, one, all }) => (prompt + tokens * one) / (prompt + tokens * all)),
    );
    const share = (key: "own" | "others") => {
      return `${
        [one, all].map((found) => (100 * median(found.map((turn) => turn[key]))).toFixed(0)).join(", ")
      } % of a core`;
    };
    return [
      row("one request at a time", rate(one), "", true),
      row(`${count} together`, rate(all), "", true),
      row(`batching, median of ${turns} turns`, times(gain), ">= 3 times", gain >= 3),
      row("batching, tokens per second of the server's computing", times(gainPerCpu), "", true),
      row("model alone: to read a prompt", `${ofModel("prompt").toFixed(1)} ms`, "", true),
      row(
        `model alone: a token of one answer, of ${count}`,
        `${ofModel("one").toFixed(2)}, ${ofModel("all").toFixed(2)} ms`,
        "",
        true,
      ),
      row("model alone: what batching gains", times(bound), "", true),
      row("what the clients compute meanwhile, of one and of all", share("own"), "", true),
      row("what other processes compute meanwhile", share("others"), "", true),
      row("lost, mixed up or cut off meanwhile", `${lost + wrong}`, "0", lost + wrong === 0),
    ];
  });
}

/** Milliseconds where nothing but the model runs: to read a prompt, for a token of one answer, for one of all of them. */
async function modelAlone(loaded: TransNormerLLM, prompts: readonly number[][]) {
  using batch = loaded.batch(prompts.length);
  const time = async (step: () => Tensor) => {
    const begin = performance.now();
    using logits = step();
    await logits.data();
    return performance.now() - begin;
  };
  const slots: number[] = [];
  let prompt = 0;
  for (const ids of prompts) {
    using session = loaded.session();
    prompt += await time(() => session.prefill(ids)) / prompts.length;
    slots.push(batch.join(session));
  }
  const one: number[] = [], all: number[] = [];
  for (let i = 0; i < 100; i++) one.push(await time(() => batch.step([slots[0]], [97])));
  for (let i = 0; i < 20; i++) all.push(await time(() => batch.step(slots, slots.map(() => 97))));
  return { prompt, one: median(one), all: median(all) / prompts.length };
}

/** Requests one after another: the process must not grow. */
async function memory(requests: number): Promise<Row[]> {
  return await withServer(async (url, pid) => {
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

/** The cost of continuing a session, by the length of what it has read. */
async function history(longest: number): Promise<Row[]> {
  return await withServer(async (url) => {
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
      const middle = median(times);
      shortest = Number.isNaN(shortest) ? middle : shortest;
      found.push(row(
        `8 tokens more after ${length.toLocaleString("en")}`,
        `${middle.toFixed(0)} ms`,
        "twice the first at most",
        middle <= 2 * shortest,
      ));
    }
    return found;
  });
}

async function kills(count: number): Promise<Row[]> {
  const { kills, turns, lost } = await killed(model, { kills: count, sessions: 8 });
  for (const what of lost) console.error(what);
  return [row(
    `sessions lost or torn, ${kills} times kill -9 within ${turns} writes`,
    `${lost.length}`,
    "0",
    lost.length === 0 && turns >= kills,
  )];
}

/** Bodies that nobody should send, and an honest one after each. */
async function hostile(): Promise<Row[]> {
  const config = JSON.parse(await Deno.readTextFile(`${model}/config.json`));
  const bodies = hostileBodies({ vocabSize: config.vocab_size, bodyBytes: 2 ** 22 });
  return await withServer(async (url) => {
    const honest = async () => {
      return (await (await post(url, { prompt: "a", max_tokens: 2, temperature: 0 })).json()).choices[0].text;
    };
    const expected = await honest();
    let wrong = 0;
    for (const body of bodies) {
      try {
        const response = await fetch(`${url}/v1/completions`, { method: "POST", body });
        await assertError(response, (status) => status >= 400 && status < 500);
        assert.equal(await honest(), expected);
      } catch (error) {
        wrong++;
        console.error(`${String(body).slice(0, 80)}: ${error}`);
      }
    }
    return [
      row(`of ${bodies.length} hostile bodies without a 4xx in OpenAI's shape`, `${wrong}`, "0", wrong === 0),
    ];
  });
}

/** Seconds that a process has computed, user and system; Linux counts them in hundredths. */
async function cpuSeconds(pid: number): Promise<number> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`).catch(() => undefined);
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields === undefined ? NaN : (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Seconds that all processes of the machine have computed. */
async function machineSeconds(): Promise<number> {
  const stat = await Deno.readTextFile("/proc/stat").catch(() => undefined);
  const [user, nice, system, , , irq, softIrq, stolen] = (stat?.split("\n")[0].match(/\d+/g) ?? []).map(
    Number,
  );
  return stat === undefined ? NaN : (user + nice + system + irq + softIrq + stolen) / 100;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}

function times(factor: number): string {
  return `${factor.toFixed(1)} times`;
}

function row(what: string, result: string, wanted: string, ok: boolean): Row {
  console.error(`${what}: ${result}`);
  return { what, result, wanted, ok };
}

/** The parts of the test, by what the command line calls them. */
const PARTS = ["streams", "batching", "memory", "history", "kills", "hostile"] as const;

await cli(
  command("load", "What the server carries on this machine, as a table; everything runs on loopback.")
    .option(
      "--parts <names>",
      `some of ${PARTS.join(", ")}; separated by commas (default: all)`,
      items(oneOf(Object.fromEntries(PARTS.map((part) => [part, part])))),
    )
    .option("--model <folder>", "checkpoint with a tokenizer (default: models/sotu)", path)
    .option("--threads <n>", 'of the server; "auto": one per core', parseThreads, "auto" as const)
    .option("--clients <n>", "streaming clients together", integer(1), 64)
    .option("--seconds <n>", "how long they stream", integer(1), 60)
    .option("--turns <n>", "of one client and of all of them, to compare", integer(1), 10)
    .option("--requests <n>", "one after another, for memory", integer(1), 10_000)
    .option("--history <n>", "longest history of a session", integer(1), 1_000_000)
    .option("--kills <n>", "of the server while it writes", integer(1), 100)
    .action(async ({ parts = PARTS, ...options }) => {
      model = options.model ?? fileURLToPath(new URL("../models/sotu", import.meta.url));
      threads = options.threads;
      scratch = await Deno.makeTempDir();
      const { clients, seconds, turns, requests, history: longest, kills: count } = options;
      const run: Record<(typeof PARTS)[number], () => Promise<Row[]>> = {
        streams: () => streams(clients, seconds),
        batching: () => batching(clients, turns),
        memory: () => memory(requests),
        history: () => history(longest),
        kills: () => kills(count),
        hostile: () => hostile(),
      };
      const rows: Row[] = [];
      try {
        for (const part of parts) rows.push(...await run[part]());
      } finally {
        await Deno.remove(scratch, { recursive: true });
      }
      printTable(rows);
      if (!rows.every(({ ok }) => ok)) Deno.exitCode = 1;
    }),
);

function printTable(rows: readonly Row[]): void {
  const table = [["what", "result", "wanted", ""], ["---", "---", "---", "---"]];
  for (const { what, result, wanted, ok } of rows) table.push([what, result, wanted, ok ? "ok" : "FAILED"]);
  const widths = table[0].map((_, column) => Math.max(...table.map((cells) => cells[column].length)));
  for (const cells of table) {
    console.log(`| ${cells.map((cell, column) => cell.padEnd(widths[column])).join(" | ")} |`);
  }
}
