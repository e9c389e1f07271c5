/**
 * Several servers over one store, requests of one session at several of them together, servers that are killed with -9,
 * and a network that delays and cuts. Afterwards each session is held to what its clients were told.
 *
 * @module
 */
import assert from "node:assert/strict";
import { listening } from "./listening.ts";
import type { Server } from "./serve_setup.ts";
import type { TestStore } from "./store_servers.ts";

/** What is asked of the servers. */
export interface ChaosOptions {
  /** Number of servers. */
  readonly servers: number;
  /** Number of clients that ask at the same time. */
  readonly clients: number;
  /** Number of sessions that they continue. */
  readonly sessions: number;
  /** Number of acknowledged turns between two kills. */
  readonly turnsPerKill: number;
  /** Whether it is enough. */
  readonly isOver: (soFar: { turns: number; kills: number }) => boolean;
}

/** What was found. */
export interface ChaosReport {
  /** Turns that were acknowledged. */
  readonly turns: number;
  /** Turns that were refused with 409 and with 503. */
  readonly conflicts: number;
  readonly unavailable: number;
  /** Turns whose connection broke, or of which the server could not tell. */
  readonly unknown: number;
  /** How many of those are in their sessions nonetheless. */
  readonly unknownStored: number;
  /** How often a server was killed, and the network cut. */
  readonly kills: number;
  readonly cuts: number;
  readonly seconds: number;
  /** Sessions that are not as acknowledged, and answers that no server may give. */
  readonly lost: readonly string[];
}

/** A turn of a session: three tokens that no other turn has, and one of the answer. */
interface Turn {
  readonly prompt: readonly number[];
  /** Of the session after it. */
  readonly tokens: number;
  /** What the model said, which depends on all that the session has read. */
  readonly said: string;
}

interface Account {
  readonly acknowledged: Turn[];
  readonly unknown: (readonly number[])[];
}

const TURN = 4;

/**
 * Lets servers and clients loose on a store.
 *
 * @param model folder of the model @param reference a server of its own with the same model, which says what sessions
 * would say that had read what was acknowledged, in that order
 */
export async function chaos(
  model: string,
  reference: Pick<Server, "send">,
  store: TestStore,
  options: ChaosOptions,
): Promise<ChaosReport> {
  const start = performance.now();
  const lost: string[] = [];
  const counts = { turns: 0, conflicts: 0, unavailable: 0, unknown: 0, kills: 0, cuts: 0 };
  const accounts = Array.from(
    { length: options.sessions },
    (): Account => ({ acknowledged: [], unknown: [] }),
  );
  const random = generator(7);
  disturb(store, random, () => counts.cuts++);
  const servers = await Promise.all(Array.from({ length: options.servers }, () => launch(model, store.url)));

  let asked = 0;
  let isOver = false;
  let nextKill = options.turnsPerKill;
  let killing = Promise.resolve();
  const kill = () => {
    nextKill = counts.turns + options.turnsPerKill;
    const n = counts.kills++ % servers.length;
    killing = killing.then(async () => {
      servers[n].process.kill("SIGKILL");
      await servers[n].process.status;
      servers[n] = await launch(model, store.url);
    });
  };
  const turn = async (s: number) => {
    const server = servers[Math.floor(random() * servers.length)];
    const prompt = promptOf(asked++);
    let response: Response, body;
    try {
      response = await ask((init) => fetch(`${server.url}/v1/completions`, init), `s${s}`, prompt);
      body = await response.json();
    } catch {
      counts.unknown++;
      return void accounts[s].unknown.push(prompt);
    }
    if (response.status === 200) {
      counts.turns++;
      accounts[s].acknowledged.push({ prompt, tokens: body.session.tokens, said: saidIn(body) });
      if (counts.turns >= nextKill) kill();
    } else if (response.status === 503 && body.error.code === "session_store_unsettled") {
      counts.unknown++;
      accounts[s].unknown.push(prompt);
    } else if (response.status === 409) counts.conflicts++;
    else if (response.status === 503) counts.unavailable++;
    else lost.push(`session ${s}: ${response.status} ${JSON.stringify(body)}`);
  };
  const client = async () => {
    while (!isOver) {
      const s = Math.floor(random() * options.sessions);
      // A session's requests come together, as those of a client that does not wait.
      await Promise.all(random() < 0.3 ? [turn(s), turn(s), turn(s)] : [turn(s)]);
      isOver ||= options.isOver(counts);
    }
  };
  await Promise.all(Array.from({ length: options.clients }, client));
  await killing;

  // In peace, one more turn of each session closes its account.
  if (store.proxy !== undefined) store.proxy.disturb = () => 0;
  const seconds = (performance.now() - start) / 1000;
  const last = await launch(model, store.url);
  for (const [s, { acknowledged }] of accounts.entries()) {
    const prompt = promptOf(asked++);
    const response = await ask((init) => fetch(`${last.url}/v1/completions`, init), `s${s}`, prompt);
    const body = await response.json();
    if (response.status !== 200) {
      lost.push(`session ${s}, at the end: ${response.status} ${JSON.stringify(body)}`);
    } else acknowledged.push({ prompt, tokens: body.session.tokens, said: saidIn(body) });
  }
  for (const { process } of [...servers, last]) {
    process.kill("SIGKILL");
    await process.status;
  }
  let unknownStored = 0;
  for (const [s, account] of accounts.entries()) {
    const found = await balance(reference, account);
    if (typeof found === "string") lost.push(`session ${s}: ${found}`);
    else unknownStored += found;
  }
  return { ...counts, unknownStored, seconds, lost };
}

/** A network that now and then waits, cuts a connection, or swallows what is sent, one in so many pieces. */
function disturb({ proxy }: TestStore, random: () => number, onCut: () => void): void {
  if (proxy === undefined) return;
  proxy.disturb = () => {
    const chance = random();
    if (chance < 0.002) {
      onCut();
      return "cut";
    }
    return chance < 0.05 ? 100 * random() : 0;
  };
}

async function launch(model: string, store: string): Promise<{ url: string; process: Deno.ChildProcess }> {
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", "--unstable-no-legacy-abort", "--unstable-kv"],
      ...[new URL("store_server.ts", import.meta.url).href, model, store],
    ],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  return { url: await listening(process).url, process };
}

/** Three tokens that spell a number: the model has 256 bytes. */
function promptOf(n: number): number[] {
  return [n >> 16, (n >> 8) & 255, n & 255];
}

function ask(
  send: (init: { method: string; body: string }) => Promise<Response>,
  session: string,
  prompt: readonly number[],
): Promise<Response> {
  const body = { prompt, max_tokens: 1, temperature: 0, logprobs: 0, session };
  return send({ method: "POST", body: JSON.stringify(body) });
}

// deno-lint-ignore no-explicit-any -- an answer of OpenAI's protocol
function saidIn(body: any): string {
  // Not the names in `top_logprobs`: V8 may read the key "\u0007" as "\\", if it has seen an object with that one.
  const { tokens, token_logprobs } = body.choices[0].logprobs;
  return JSON.stringify([tokens, token_logprobs]);
}

/**
 * Reads the acknowledged turns of a session in the order of their tokens, and compares what the model says with what the
 * clients were told. Between two of them there may be turns of which nobody knows; which they are shows in what follows.
 *
 * @returns how many of those there are, or what is wrong
 */
async function balance(
  reference: Pick<Server, "send">,
  { acknowledged, unknown }: Account,
): Promise<number | string> {
  const turns = acknowledged.toSorted((a, b) => a.tokens - b.tokens);
  const again = turns.find(({ tokens }, n) => tokens === turns[n - 1]?.tokens);
  if (again !== undefined) return `two turns were told that they end at ${again.tokens} tokens`;
  /** Reads a turn in a copy of a session; the copy's name. */
  const read = async (session: string | undefined, prompt: readonly number[]) => {
    const copy = crypto.randomUUID();
    if (session !== undefined) {
      const body = JSON.stringify({ id: copy });
      assert.equal((await reference.send(`/v1/sessions/${session}/fork`, body)).status, 200);
    }
    const response = await ask(({ body }) => reference.send("/v1/completions", body), copy, prompt);
    assert.equal(response.status, 200);
    return { copy, said: saidIn(await response.json()) };
  };
  /** The number of unknown turns with which the rest of the account is right. */
  const rest = async (
    n: number,
    session: string | undefined,
    tokens: number,
    left: (readonly number[])[],
  ): Promise<number | undefined> => {
    if (n === turns.length) return 0;
    const missing = (turns[n].tokens - tokens) / TURN - 1;
    if (!Number.isInteger(missing) || missing < 0 || missing > left.length) return undefined;
    if (missing === 0) {
      const { copy, said } = await read(session, turns[n].prompt);
      return said === turns[n].said ? await rest(n + 1, copy, turns[n].tokens, left) : undefined;
    }
    for (const prompt of left) {
      const { copy } = await read(session, prompt);
      const found = await rest(n, copy, tokens + TURN, left.filter((one) => one !== prompt));
      if (found !== undefined) return 1 + found;
    }
    return undefined;
  };
  return await rest(0, undefined, 0, unknown) ??
    `${turns.length} acknowledged turns and some of ${unknown.length} unknown ones do not explain ` +
      `${turns.at(-1)?.tokens} tokens: ${turns.map(({ tokens }) => tokens).join()}`;
}

/** Numbers below 1, the same in each run: Mulberry32. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
