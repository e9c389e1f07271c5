/// <reference lib="dom" />
/**
 * The page of the race: both engines are its guests, each in a worker. It only passes on what the command asks.
 *
 * @module
 */
import { LLAMA_CPP, startWllama } from "../peers/wllama.ts";
import type { Contestant, LevinContestant, Racer } from "./race.ts";
import type { Request, Response } from "./raceWorker.ts";

/** What the page offers, as `globalThis.race`. A racer is known by its number. */
export interface RacePage {
  /** Loads a contestant: its number. */
  start(contestant: Contestant): Promise<number>;
  prefill(racer: number, seed: number): Promise<number>;
  decode(racer: number, context: number): Promise<number>;
  end(racer: number): Promise<void>;
  /** Milliseconds between two frames at most, since this was last asked: 17 where nothing blocks the page's thread. */
  longestFrame(): number;
  /** The version of llama.cpp. */
  llamaCpp(): string;
}

async function startLevin(contestant: LevinContestant): Promise<Racer> {
  const worker = new Worker("/worker.js", { type: "module" });
  const ask = (request: Request) =>
    new Promise<number>((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<Response>) =>
        "error" in data ? reject(new Error(data.error)) : resolve(data.speed);
      worker.onerror = ({ message }) => reject(new Error(message));
      worker.postMessage(request);
    });
  await ask({ ask: "start", contestant });
  return {
    prefill: (seed) => ask({ ask: "prefill", seed }),
    decode: (context) => ask({ ask: "decode", context }),
    end: () => Promise.resolve(worker.terminate()),
  };
}

let last = performance.now(), longest = 0;
requestAnimationFrame(function frame(now) {
  longest = Math.max(longest, now - last);
  last = now;
  requestAnimationFrame(frame);
});

const racers: Racer[] = [];

const page: RacePage = {
  async start(contestant) {
    const racer = contestant.engine === "Levin"
      ? await startLevin(contestant)
      : await startWllama(contestant, `/model/${contestant.weights}`, "/wllama.wasm");
    return racers.push(racer) - 1;
  },
  prefill: (racer, seed) => racers[racer].prefill(seed),
  decode: (racer, context) => racers[racer].decode(context),
  end: (racer) => racers[racer].end(),
  longestFrame() {
    const found = longest;
    longest = 0;
    return found;
  },
  llamaCpp: () => LLAMA_CPP,
};

(globalThis as unknown as { race: RacePage }).race = page;
