/**
 * The layer that the demo runs, and its operands.
 *
 * @module
 */
import { alibiSlopes } from "../../mod.ts";
import { randomArray } from "../../tests/numbers.ts";
import { repeat } from "../baselines/mod.ts";

/** One layer's attention: 4 heads of 64. */
export const HEADS = 4, DIM = 64;
/** f32 of q, k, v or output per token. */
export const ROW = HEADS * DIM;
export const SLOPES = alibiSlopes(HEADS);
/** The table begins with it, and it is the yardstick of all longer ones. */
export const SHORTEST = 1024;

/** What lightning attention must keep to continue. */
export const STATE_BYTES = 4 * HEADS * DIM * DIM;

/** What softmax attention must keep of so many tokens to continue: keys and values. */
export const cacheBytes = (length: number) => 2 * 4 * ROW * length;

/** What the command line asks for. */
export interface Options {
  maxLength: number;
  backend: "auto" | "webgpu" | "wasm";
  out: string;
  /** A few seconds in all: too short to judge speed and the process's memory. */
  quick: boolean;
  /** A measurement that would take longer than this many seconds is skipped. */
  patience: number;
  /** Tokens of the stream, and of each of its segments. */
  stream: number;
  segment: number;
}

/** Seeded numbers in [−1, 1), any number of them from one stretch that repeats. */
export function noise(length: number): Float32Array {
  return repeat(randomArray([Math.min(length, 2 ** 20 + 7)], 1), new Float32Array(length));
}
