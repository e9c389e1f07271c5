/**
 * `deno task attack`: clients, files and stores that mean harm, against a server in another process on loopback. Beside
 * each attack `/health` is asked ten times a second, and a client with another key streams answers. Everything is
 * bounded in count and time; the table says what became of it.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { cli, command, UsageError } from "../cli/mod.ts";
import type { Lag } from "./attacked.ts";
import { ATTACKS, type Target } from "./attackers.ts";
import { bucket, fileOf, isolate } from "./edge_function.ts";
import { fuzzBodies, fuzzFiles, fuzzHttp, fuzzStores } from "./fuzz.ts";
import { type Listening, listening } from "./listening.ts";
import { events } from "./serve_setup.ts";

/** Seconds of an attack, and of each kind of random input. */
const SECONDS = 7, FUZZ_SECONDS = 15;
/** Goals: milliseconds for `/health`, and that the server itself holds its event loop; MiB over the start. */
const HEALTH = 250, HELD = 50, MEMORY = 512;
/** MiB of heap, buffers and kernels of the edge function in all; and seconds of an attack on it. */
const EDGE_MEMORY = 128, EDGE_SECONDS = 4;
/** File descriptors of the server: what services usually have. */
const DESCRIPTORS = 1024;
const HONEST = "honest-key", HOSTILE = "hostile-key";

const ASKED = { prompt: "The state of the Union", max_tokens: 24, temperature: 0, stream: true };

/** A server in another process, and what is known of it. */
class Server {
  readonly process: Deno.ChildProcess;
  readonly output: Listening;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  /** Counts the questions to {@linkcode lag}. */
  #asked = 0;
  isAlive = true;

  /** @param folder for its sessions */
  constructor(folder: string) {
    const model = fileURLToPath(new URL("../models/sotu", import.meta.url));
    const main = fileURLToPath(new URL("./attacked.ts", import.meta.url));
    const run = [
      `"$0" run -A --no-check "${main}" --model "${model}" --storage "${folder}" --port 0`,
      "--backend wasm",
    ].join(" ");
    this.process = new Deno.Command("sh", {
      args: ["-c", `ulimit -n ${DESCRIPTORS}; exec ${run}`, Deno.execPath()],
      env: { LEVIN_API_KEYS: `${HONEST},${HOSTILE}`, NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#input = this.process.stdin.getWriter();
    this.output = listening(this.process);
    this.process.status.then(() => this.isAlive = false);
  }

  /** What the server says of its event loop since it was last asked. */
  async lag(): Promise<Lag> {
    if (!this.isAlive) return { held: NaN, turn: NaN, model: NaN };
    const line = `lag ${this.#asked} `;
    await this.#input.write(new TextEncoder().encode(`${this.#asked++}\n`));
    const found = () =>
      this.output.log().split("\n").find((one) => one.startsWith(line) && one.endsWith("}"));
    await this.output.line(line);
    while (found() === undefined) await new Promise((resolve) => setTimeout(resolve, 10));
    return JSON.parse(found()!.slice(line.length));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.process.kill("SIGKILL");
    } catch {
      // it has ended by itself
    }
    await this.process.status;
    await this.output.done;
  }
}

/** MiB of resident memory. */
function memoryOf({ pid }: Deno.ChildProcess): number {
  try {
    return Number(/VmRSS:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${pid}/status`))?.[1]) / 1024;
  } catch {
    return NaN;
  }
}

/** As clients do, the `openai` package among them: what was refused for now is tried again, twice. */
async function patiently(ask: () => Promise<Response>): Promise<Response> {
  for (let left = 2;; left--) {
    let response: Response | undefined;
    try {
      response = await ask();
      if (![429, 503].includes(response.status) || left === 0) return response;
      await response.body?.cancel();
    } catch (error) {
      if (left === 0) throw error;
    }
    retries++;
    const seconds = Number(response?.headers.get("retry-after") ?? 0.1);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

/** How often {@linkcode patiently} had to. */
let retries = 0;

/** Asks the same path ten times a second; the longest answer in milliseconds, and how many did not come. */
async function probe(url: string, over: AbortSignal): Promise<{ longest: number; failed: number }> {
  const client = Deno.createHttpClient({ poolMaxIdlePerHost: 0 });
  const asked: Promise<void>[] = [];
  let longest = 0, failed = 0;
  while (!over.aborted) {
    asked.push((async () => {
      try {
        const response = await patiently(async () => {
          const start = performance.now();
          try {
            return await fetch(`${url}/health`, { client, signal: AbortSignal.timeout(20_000) });
          } finally {
            longest = Math.max(longest, performance.now() - start);
          }
        });
        await response.body?.cancel();
        if (response.status !== 200) failed++;
      } catch {
        failed++;
      }
    })());
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await Promise.all(asked);
  client.close();
  return { longest, failed };
}

async function stream(url: string): Promise<string> {
  const response = await patiently(() =>
    fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${HONEST}` },
      body: JSON.stringify(ASKED),
    })
  );
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`);
  let text = "", last = "";
  for await (const event of events(response)) {
    last = event;
    if (event !== "[DONE]") text += JSON.parse(event).choices[0].text;
  }
  if (last !== "[DONE]") throw new Error(`cut off: ${last}`);
  return text;
}

/** A client that streams one answer after another. */
async function honest(
  url: string,
  expected: string,
  over: AbortSignal,
): Promise<{ served: number; lost: string[] }> {
  const lost: string[] = [];
  let served = 0;
  while (!over.aborted) {
    try {
      const text = await stream(url);
      if (text !== expected) lost.push("another text");
      served++;
    } catch (error) {
      lost.push(`${error} ${(error as Error).cause ?? ""}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  return { served, lost };
}

interface Row {
  readonly attack: string;
  readonly health: string;
  readonly held: string;
  readonly turn: string;
  readonly memory: string;
  readonly alive: string;
  readonly honest: string;
  readonly retries: string;
  readonly ok: boolean;
}

/** The row of what has no server to measure. */
const bare = (attack: string, ok: boolean): Row => ({
  ...{ attack, health: "", held: "", turn: "", memory: "", alive: ok ? "yes" : "NO" },
  ...{ honest: "", retries: "", ok },
});

/** Measures while something is done. */
async function beside(
  attack: string,
  server: Server,
  { url, expected, start }: { url: string; expected: string; start: number },
  work: () => Promise<void>,
): Promise<Row> {
  const over = new AbortController();
  retries = 0;
  await server.lag();
  let peak = 0;
  const watching = setInterval(() => peak = Math.max(peak, memoryOf(server.process)), 50);
  const probing = probe(url, over.signal), asking = honest(url, expected, over.signal);
  let failure: unknown;
  try {
    await work();
  } catch (error) {
    failure = error;
  }
  over.abort();
  const { longest, failed } = await probing, { served, lost } = await asking;
  clearInterval(watching);
  const memory = peak - start;
  const { held, turn, model } = await server.lag();
  const row = {
    attack,
    health: `${longest.toFixed(0)} ms${failed > 0 ? `, ${failed} failed` : ""}`,
    held: `${held.toFixed(0)} ms`,
    turn: `${turn.toFixed(0)} ms, ${model.toFixed(0)} ms`,
    memory: `${memory.toFixed(0)} MiB`,
    alive: server.isAlive ? "yes" : "NO",
    honest: `${served} served, ${lost.length} lost`,
    retries: String(retries),
    ok: server.isAlive && failed === 0 && longest <= HEALTH && held <= HELD && memory <= MEMORY &&
      served > 0 && lost.length === 0 && failure === undefined,
  };
  console.log(Object.values(row).join(" | "));
  for (const reason of new Set(lost)) console.error(`  lost: ${reason}`);
  if (failure !== undefined) console.error(failure);
  return row;
}

/** What `/health` takes at most in two seconds in which nobody asks for anything else. */
async function longestHealth(url: string): Promise<number> {
  return (await probe(url, AbortSignal.timeout(2000))).longest;
}

/** An attack of `attackers.ts`, in a worker. */
async function attacked(name: string, target: Target, seconds = SECONDS): Promise<void> {
  const worker = new Worker(new URL("./attackers.ts", import.meta.url), { type: "module" });
  await new Promise((resolve) => {
    worker.onmessage = resolve;
    worker.postMessage({ name, target, seconds });
  });
  worker.terminate();
}

/** Attacks that are made of whole requests: connections are the affair of an edge function's host. */
const ON_EDGE = [
  ...[
    "large bodies",
    "large chats",
    "/detokenize of many ids",
    "long prompts",
    "echo with log-probabilities",
  ],
  ...["sessions without end", "one key asks for everything", "requests that are cancelled"],
];

/** The same in an isolate of the edge function: it lives, keeps its memory, and then answers as before. */
async function attackEdge(): Promise<Row[]> {
  const files = bucket((name) => fileOf(new URL("../models/sotu/", import.meta.url), name));
  const rows: Row[] = [];
  try {
    // A heap fills up with what nobody needs before it is cleaned: with half of the memory it has to be.
    await using edge = await isolate(files.addr.port, [], EDGE_MEMORY / 2);
    let isAlive = true;
    edge.process.status.then(() => isAlive = false);
    const expected = await stream(edge.url);
    for (const name of ON_EDGE) {
      await attacked(name, { url: edge.url, key: HOSTILE }, EDGE_SECONDS);
      const text = await stream(edge.url).catch(String), memory = edge.memory() / 2 ** 20;
      const row = {
        ...bare(`edge: ${name}`, isAlive && text === expected && memory <= EDGE_MEMORY),
        memory: `${memory.toFixed(0)} MiB in all`,
        alive: isAlive ? "yes" : "NO",
        honest: text === expected ? "served" : `lost: ${text}`,
      };
      console.log(Object.values(row).join(" | "));
      rows.push(row);
    }
  } finally {
    await files.shutdown();
  }
  return rows;
}

/** Prints what became of the attacks. */
function print(rows: readonly Row[]): void {
  const titles = [
    ...["attack", "longest /health", "held by the server", "longest turn, model's part"],
    ...["memory over the start", "alive", "an honest client", "tried again", ""],
  ];
  const cells = rows.map(({ ok, ...row }) => [...Object.values(row), ok ? "ok" : "FAILED"]);
  const widths = titles.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i].length)));
  const show = (row: readonly string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`;
  const line = `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`;
  console.log([show(titles), line, ...cells.map(show)].join("\n"));
}

const RANDOM = "random", EDGE = "edge";

/** @param only words of which the names of attacks hold one; none: all attacks */
async function attack(only: readonly string[]): Promise<void> {
  const wanted = (name: string) => only.length === 0 || only.some((word) => name.includes(word));
  for (const word of only) {
    if (word === RANDOM || word === EDGE || Object.keys(ATTACKS).some((name) => name.includes(word))) {
      continue;
    }
    throw new UsageError(
      `no attack is named '${word}', but ${Object.keys(ATTACKS).join("; ")}; ${RANDOM}; ${EDGE}`,
    );
  }
  const folder = await Deno.makeTempDir(), rows: Row[] = [];
  let machine = NaN;
  try {
    await using server = new Server(folder);
    const url = await server.output.url;
    await server.output.line("parameters");
    const expected = await stream(url);
    for (let i = 0; i < 10; i++) await stream(url);
    const known = { url, expected, start: memoryOf(server.process) };
    machine = await longestHealth(url);
    for (const name of Object.keys(ATTACKS).filter(wanted)) {
      rows.push(await beside(name, server, known, () => attacked(name, { url, key: HOSTILE })));
    }
    if (wanted(RANDOM)) {
      rows.push(await beside("random HTTP", server, known, () => fuzzHttp(url, FUZZ_SECONDS)));
      // These have handlers of their own, in this process.
      const others = { JSON: fuzzBodies, stores: fuzzStores, "model files": fuzzFiles };
      for (const [name, fuzz] of Object.entries(others)) {
        const failure = await fuzz(FUZZ_SECONDS).then(() => undefined, (error) => error);
        if (failure !== undefined) console.error(failure);
        rows.push(bare(`random ${name}`, failure === undefined));
      }
    }
    if (wanted(EDGE)) rows.push(...await attackEdge());
    print(rows);
    const log = server.output.log().split("\n").slice(2).filter((line) => !line.startsWith("lag "))
      .join("\n").trim();
    if (log !== "") console.log(`The server's log:\n${log.slice(0, 4000)}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  if (machine > HEALTH) {
    console.error(`This machine is busy: /health takes ${machine.toFixed(0)} ms without any attack`);
  }
  if (rows.some(({ ok }) => !ok)) throw new Error("Cannot call the server safe: a goal was missed");
}

await cli(
  command("attack", "Attacks on the server on loopback, with honest clients beside them; prints a table.")
    .argument("[words...]", "words of attacks; default: all of them")
    .action(attack),
);
