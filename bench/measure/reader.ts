/**
 * A worker that reads memory as fast as it can: what `bench/threads.ts` holds decoding to.
 *
 * @module
 */
import { Baselines } from "../baselines/mod.ts";

/** What a worker is asked for: bytes read again and again, for so many milliseconds. */
export interface Reading {
  readonly bytes: number;
  readonly milliseconds: number;
}

interface Scope {
  onmessage: (event: MessageEvent<Reading>) => void;
  postMessage(gigabytesPerSecond: number): void;
}

let read: { bytes: number; run(): number } | undefined;
const scope = self as unknown as Scope;
scope.onmessage = ({ data: { bytes, milliseconds } }) => {
  if (read?.bytes !== bytes) read = { bytes, run: new Baselines().readBandwidth(bytes).run };
  const begin = performance.now();
  let passes = 0;
  do {
    read.run();
    passes++;
  } while (performance.now() < begin + milliseconds);
  scope.postMessage(passes * bytes / (performance.now() - begin) / 1e6);
};
