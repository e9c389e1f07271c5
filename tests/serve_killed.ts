/**
 * Kills a server, `kill -9`, while sessions are written, and compares what it knows afterwards with what it acknowledged.
 *
 * @module
 */
import assert from "node:assert/strict";
import { listening } from "./listening.ts";

/** What was found. */
export interface KillReport {
  /** How often the server was killed. */
  readonly kills: number;
  /** Answers that were acknowledged. */
  readonly turns: number;
  /** Sessions that were not as acknowledged. */
  readonly lost: readonly string[];
}

/**
 * Starts the server again and again over one folder of sessions. Each time, clients continue their sessions as fast as
 * they can until it is killed. A session must then stand where its last acknowledged answer ended, or further by answers
 * that were stored without being acknowledged, at most one per kill, and must be intact.
 */
export async function killed(
  model: string,
  options: { kills: number; sessions: number },
): Promise<KillReport> {
  const folder = await Deno.makeTempDir();
  const TOKENS = 3; // one of the prompt, two of the answer
  const acknowledged = new Array<number>(options.sessions).fill(0);
  /** Answers that may have been stored and were not heard of: one per kill. */
  const unheard = new Array<number>(options.sessions).fill(0);
  const lost: string[] = [];
  let turns = 0;
  try {
    for (let kill = 0; kill < options.kills; kill++) {
      const { url, process } = await start(model, folder);
      const ask = async (s: number) => {
        const response = await fetch(`${url}/v1/completions`, {
          method: "POST",
          // Ids: to text a tokenizer may add a token.
          body: JSON.stringify({ prompt: [97], max_tokens: TOKENS - 1, temperature: 0, session: `s${s}` }),
        });
        const answer = await response.json();
        assert.equal(response.status, 200, JSON.stringify(answer));
        return answer.session.tokens as number;
      };
      let isDead = false;
      // Killed when one client has its answer while the others' are at any stage of theirs: sooner and later.
      let left = 1 + 5 * kill % 17;
      const enough = Promise.withResolvers<void>();
      const clients = acknowledged.map(async (_, s) => {
        for (;;) {
          let tokens: number;
          try {
            tokens = await ask(s);
          } catch (error) {
            if (isDead) return void unheard[s]++;
            lost.push(
              `session ${s} after kill ${kill}: ${(error as Error).message} ${(error as Error).cause}`,
            );
            return enough.resolve();
          }
          const ahead = (tokens - acknowledged[s]) / TOKENS;
          if (!(Number.isInteger(ahead) && ahead >= 1 && ahead <= 1 + unheard[s])) {
            lost.push(
              `session ${s} after kill ${kill}: ${tokens} tokens, ${acknowledged[s]} were acknowledged`,
            );
          }
          acknowledged[s] = tokens;
          unheard[s] = 0;
          turns++;
          if (--left === 0) enough.resolve();
        }
      });
      await enough.promise;
      isDead = true;
      process.kill("SIGKILL");
      await process.status;
      await Promise.all(clients);
    }
    return { kills: options.kills, turns, lost };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Starts a server over a folder of sessions, with more options of `deno task serve`; it listens when this resolves. */
export async function start(
  model: string,
  folder: string,
  options: readonly string[] = [],
): Promise<{ url: string; process: Deno.ChildProcess }> {
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...[
        "run",
        "-A",
        "--no-check",
        "--unstable-no-legacy-abort",
        new URL("../serve/main.ts", import.meta.url).href,
      ],
      ...["--model", model, "--storage", folder, "--port", "0", "--backend", "wasm", ...options],
    ],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  return { url: await listening(process).url, process };
}
