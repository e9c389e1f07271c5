/**
 * What sessions cost in each store, for `docs/serving.md`: a turn's share of the store, and turns per second of one server
 * and of four over one store.
 *
 *     deno task bench:stores [--seconds 10]
 *
 * @module
 */
import { cli, command, integer, interruption } from "../cli/mod.ts";
import { checkLimits } from "../serve/limits.ts";
import { openStore } from "../serve/mod.ts";
import { Sessions } from "../serve/sessions.ts";
import { listening } from "../tests/listening.ts";
import { SHARED_STORES } from "../tests/store_servers.ts";

const MODEL = new URL("../models/sotu/", import.meta.url).pathname;
/** Bytes of a session of `models/sotu`. */
const SNAPSHOT = 448 * 1024;
const TURNS = 60, CLIENTS = 16;

/** Milliseconds of a turn with the store: the session is found, read and stored again. The best of many. */
async function turnTime(url: string): Promise<number> {
  const store = await openStore(url);
  const sessions = new Sessions(store, checkLimits({}, 1, false));
  const snapshot = Uint8Array.from({ length: SNAPSHOT }, (_, n) => Math.imul(n, 0x9e3779b1) >>> 24);
  const times: number[] = [];
  for (let turn = 0; turn < TURNS; turn++) {
    const start = performance.now();
    using lease = await sessions.open("everybody", "one");
    await lease.read();
    await lease.save({ snapshot, pending: [], tokens: turn + 1 });
    times.push(performance.now() - start);
  }
  await sessions.close();
  return Math.min(...times);
}

/** Turns per second of as many servers as wanted, whose clients each continue a session, at any of the servers. */
async function throughput(url: string, servers: number, seconds: number): Promise<number> {
  const running = await Promise.all(Array.from({ length: servers }, async () => {
    const process = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", "--unstable-no-legacy-abort", "--unstable-kv"],
        new URL("../serve/main.ts", import.meta.url).href,
        ...["--model", MODEL, "--storage", url, "--port", "0", "--backend", "wasm"],
      ],
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    return { process, url: await listening(process).url };
  }));
  let turns = 0, asked = 0, isOver = false;
  const ask = async (session: string) => {
    const { url } = running[asked++ % servers];
    const body = { prompt: [5, 17, 9], max_tokens: 1, temperature: 0, session };
    const response = await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) });
    const answer = await response.json();
    if (response.status !== 200) throw new Error(JSON.stringify(answer));
    turns++;
  };
  const run = crypto.randomUUID(); // sessions of their own
  await Promise.all(Array.from({ length: 4 * servers }, (_, c) => ask(`${run}-warm-${c}`))); // models have loaded
  turns = 0;
  const start = performance.now();
  const clients = Array.from({ length: CLIENTS }, async (_, c) => {
    while (!isOver) {
      await ask(`${run}-${c}`);
      isOver ||= performance.now() - start > 1000 * seconds;
    }
  });
  await Promise.all(clients);
  const result = 1000 * turns / (performance.now() - start);
  for (const { process } of running) {
    process.kill("SIGKILL");
    await process.status;
  }
  return result;
}

await cli(
  command("bench:stores", "What a turn costs with each store of sessions, and four servers over one.")
    .option("--seconds <n>", "of each throughput", integer(1), 10)
    .action(async ({ seconds }) => {
      const stop = interruption();
      console.log(
        "| store | ms of a turn | turns/s, one server | turns/s, four servers |\n| --- | ---: | ---: | ---: |",
      );
      const row = (name: string, ...values: (number | string)[]) => {
        console.log(
          `| ${[name, ...values.map((x) => typeof x === "number" ? x.toFixed(1) : x)].join(" | ")} |`,
        );
        stop.throwIfAborted();
      };
      row("memory", await turnTime("memory:"), await throughput("memory:", 1, seconds), "–");
      for (const { name, present, start } of SHARED_STORES) {
        if (!present) {
          row(name, "not on this machine", "", "");
          continue;
        }
        await using store = await start();
        const one = await throughput(store.url, 1, seconds);
        row(name, await turnTime(store.url), one, await throughput(store.url, 4, seconds));
      }
      Deno.exit(); // connections of the stores' drivers are open still
    }),
);
