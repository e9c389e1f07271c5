/**
 * `deno task attack`: clients, files and stores that mean harm, against a server in another process on loopback. Beside
 * each attack `/health` is asked ten times a second, and a client with another key streams answers. Everything is
 * bounded in count and time; the table says what became of it.
 *
 * @module
 */
import type { Lag } from "./attacked.ts";
import { ATTACKS, type Target } from "./attackers.ts";
import { fuzzBodies, fuzzFiles, fuzzHttp, fuzzStores } from "./fuzz.ts";
import { listening } from "./listening.ts";
import { events } from "./serve_setup.ts";

/** Seconds of an attack, and of each kind of random input. */
const SECONDS = 7, FUZZ_SECONDS = 15;
/** Goals: milliseconds for `/health`, and that the server itself holds its event loop; MiB over the start. */
const HEALTH = 250, HELD = 50, MEMORY = 512;
/** File descriptors of the server: what services usually have. */
const DESCRIPTORS = 1024;
const HONEST = "honest-key", HOSTILE = "hostile-key";

const ASKED = { prompt: "The state of the Union", max_tokens: 24, temperature: 0, stream: true };

const folder = await Deno.makeTempDir();
const model = new URL("../models/sotu", import.meta.url).pathname;
const main = new URL("./attacked.ts", import.meta.url).pathname;
const run = [
  `"$0" run -A --no-check "${main}" --model "${model}" --storage "${folder}" --port 0`,
  "--backend wasm",
].join(" ");
const server = new Deno.Command("sh", {
  args: ["-c", `ulimit -n ${DESCRIPTORS}; exec ${run}`, Deno.execPath()],
  env: { LEVIN_API_KEYS: `${HONEST},${HOSTILE}`, NO_COLOR: "1" },
  stdin: "piped",
  stdout: "piped",
  stderr: "piped",
}).spawn();
const input = server.stdin.getWriter();
const output = listening(server);
let isAlive = true;
server.status.then(() => isAlive = false);

/** MiB of resident memory. */
function memory(): number {
  try {
    return Number(/VmRSS:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${server.pid}/status`))?.[1]) / 1024;
  } catch {
    return NaN;
  }
}

/** Counts the questions to {@linkcode lag}. */
let asked = 0;

/** What the server says of its event loop since it was last asked. */
async function lag(): Promise<Lag> {
  const line = `lag ${asked} `;
  await input.write(new TextEncoder().encode(`${asked++}\n`));
  const found = () => output.log().split("\n").find((one) => one.startsWith(line) && one.endsWith("}"));
  await output.line(line);
  while (found() === undefined) await new Promise((resolve) => setTimeout(resolve, 10));
  return JSON.parse(found()!.slice(line.length));
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

const rows: Row[] = [];

/** Measures while something is done. */
async function beside(
  attack: string,
  url: string,
  expected: string,
  start: number,
  work: () => Promise<void>,
) {
  const over = new AbortController();
  retries = 0;
  await lag();
  let peak = 0;
  const watching = setInterval(() => peak = Math.max(peak, memory()), 50);
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
  const over512 = peak - start;
  const { held, turn, model } = isAlive ? await lag() : { held: NaN, turn: NaN, model: NaN };
  rows.push({
    attack,
    health: `${longest.toFixed(0)} ms${failed > 0 ? `, ${failed} failed` : ""}`,
    held: `${held.toFixed(0)} ms`,
    turn: `${turn.toFixed(0)} ms, ${model.toFixed(0)} ms`,
    memory: `${over512.toFixed(0)} MiB`,
    alive: isAlive ? "yes" : "NO",
    honest: `${served} served, ${lost.length} lost`,
    retries: String(retries),
    ok: isAlive && failed === 0 && longest <= HEALTH && held <= HELD && over512 <= MEMORY && served > 0 &&
      lost.length === 0 &&
      failure === undefined,
  });
  console.log(Object.values(rows.at(-1)!).join(" | "));
  for (const reason of new Set(lost)) console.error(`  lost: ${reason}`);
  if (failure !== undefined) console.error(failure);
}

try {
  const url = await output.url;
  await output.line("parameters");
  const expected = await stream(url);
  for (let i = 0; i < 10; i++) await stream(url);
  const start = memory();
  const target: Target = { url, key: HOSTILE };
  const only = Deno.args;
  for (const name of Object.keys(ATTACKS)) {
    if (only.length > 0 && !only.some((word) => name.includes(word))) continue;
    const worker = new Worker(new URL("./attackers.ts", import.meta.url), { type: "module" });
    await beside(name, url, expected, start, async () => {
      await new Promise((resolve) => {
        worker.onmessage = resolve;
        worker.postMessage({ name, target, seconds: SECONDS });
      });
    });
    worker.terminate();
  }
  if (only.length === 0 || only.includes("random")) {
    await beside("random HTTP", url, expected, start, () => fuzzHttp(url, FUZZ_SECONDS));
    // These have handlers of their own, in this process.
    for (
      const [name, fuzz] of Object.entries({ JSON: fuzzBodies, stores: fuzzStores, "model files": fuzzFiles })
    ) {
      try {
        await fuzz(FUZZ_SECONDS);
        rows.push({
          attack: `random ${name}`,
          health: "",
          held: "",
          turn: "",
          memory: "",
          alive: "yes",
          honest: "",
          retries: "",
          ok: true,
        });
      } catch (error) {
        console.error(error);
        rows.push({
          attack: `random ${name}`,
          health: "",
          held: "",
          turn: "",
          memory: "",
          alive: "no",
          honest: "",
          retries: "",
          ok: false,
        });
      }
    }
  }
} finally {
  try {
    server.kill("SIGKILL");
  } catch {
    // it has ended by itself
  }
  await server.status;
  await output.done;
  await Deno.remove(folder, { recursive: true });
}

const titles = [
  "attack",
  "longest /health",
  "held by the server",
  "longest turn, model's part",
  "memory over the start",
  "alive",
  "an honest client",
  "tried again",
  "",
];
const cells = rows.map(({ ok, ...row }) => [...Object.values(row), ok ? "ok" : "FAILED"]);
const widths = titles.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i].length)));
const show = (row: readonly string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`;
console.log(
  [show(titles), `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`, ...cells.map(show)].join(
    "\n",
  ),
);
const log = output.log().split("\n").slice(2).filter((line) => !line.startsWith("lag ")).join("\n").trim();
if (log !== "") console.log(`The server's log:\n${log.slice(0, 4000)}`);
if (rows.some(({ ok }) => !ok)) Deno.exit(1);
