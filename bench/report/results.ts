/**
 * What the report measures, as it is kept in `docs/benchmarks/`.
 *
 * @module
 */
import { cpus, totalmem } from "node:os";
import type { Contestant } from "../measure/race.ts";
import { readKept } from "../measure/sharing.ts";

/** A measurement that did not come about, and why. */
export interface Absent {
  readonly what: string;
  readonly reason: string;
}

/** One kernel. */
export interface KernelRow {
  readonly what: string;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  /** Operations or bytes per second, where they are counted, in 10⁹. */
  readonly rate?: { readonly value: number; readonly unit: "GFLOP/s" | "GB/s" };
  /** How many times as fast as each of these, measured in turns. */
  readonly comparisons: readonly { readonly name: string; readonly ratio: number }[];
}

/** A goal and what came of it. */
export interface GoalRow {
  readonly what: string;
  readonly unit: string;
  readonly goal: number;
  readonly most: boolean;
  readonly value: number;
}

/** Time and memory of one call. */
export interface LengthPoint {
  readonly method: string;
  readonly pass: "forward" | "backward";
  readonly length: number;
  readonly seconds: number;
  /** Operands, results and work space. */
  readonly bytes: number;
}

/** Speed of a norm. */
export interface NormPoint {
  readonly method: string;
  readonly width: number;
  /** Bytes read and written per second, in 10⁹. */
  readonly gigabytesPerSecond: number;
}

/** Speed at a length: of generation after so many tokens, or of training on sequences of so many. */
export interface SpeedPoint {
  readonly method: string;
  readonly length: number;
  readonly tokensPerSecond: number;
  /** What a training step holds at most. */
  readonly bytes?: number;
}

/** All of one backend. */
export interface Results {
  readonly goals: GoalRow[];
  readonly kernels: KernelRow[];
  readonly lengths: LengthPoint[];
  readonly norms: NormPoint[];
  readonly generation: SpeedPoint[];
  readonly training: SpeedPoint[];
  readonly absent: Absent[];
}

/** One backend on one machine at one time. */
export interface Report {
  readonly backend: "wasm" | "webgpu";
  /** Adapter, or instruction set. */
  readonly device: string;
  /** Processor, cores, memory, system. */
  readonly machine: {
    readonly cpu: string;
    readonly cores: number;
    readonly gibibytes: number;
    readonly os: string;
  };
  readonly exclusive: boolean;
  readonly quick: boolean;
  readonly date: string;
  readonly commit: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly command: string;
  /** When the goals were measured, where that was later than the rest. */
  readonly goalsMeasured?: { readonly date: string; readonly commit: string };
  readonly results: Results;
}

/** The edge function, started again and again: `bench/edge.ts`. */
export interface EdgeReport extends Pick<Report, "machine" | "date" | "commit" | "versions" | "command"> {
  /** Milliseconds from the start of the process to the first token, of each start in order. */
  readonly firstToken: readonly number[];
  /** MiB that the process held at most, of each start. */
  readonly resident: readonly number[];
}

/** A contestant of the race with llama.cpp, and its tokens per second in each round. */
export type RaceRow = Contestant & {
  readonly speeds: Readonly<Record<"prefill" | "decode64" | "decode2000", number[]>>;
};

/** The race with llama.cpp in WebAssembly with one number of threads: `bench/wllama.ts`, one after another. */
export interface RaceReport extends Pick<Report, "machine" | "date" | "commit" | "versions" | "command"> {
  readonly threads: number;
  readonly rows: readonly RaceRow[];
}

/** Training speed against length on one device, as `bench/training.ts --json` keeps it. */
export interface TrainingReport extends Pick<Report, "device" | "date" | "commit" | "versions"> {
  readonly config: string;
  /** Per step. */
  readonly tokens: number;
  /** Whether activations were computed again on the way back. */
  readonly recompute?: boolean;
  /** By method. */
  readonly commands: Readonly<Record<string, string>>;
  readonly speeds: readonly SpeedPoint[];
}

/** A model of a published size on one device, as `bench/published.ts --keep` keeps it. */
export interface PublishedRow
  extends Pick<Report, "backend" | "device" | "machine" | "date" | "commit" | "versions"> {
  /** Of WASM; 1 on WebGPU. */
  readonly threads: number;
  /** Its name in `bench/measure/checkpoints.ts`. */
  readonly model: string;
  /** How its matrices were stored. */
  readonly weights: string;
  /** Seconds to load. */
  readonly load: number;
  /** Bytes of tensors in the file, at most on the host besides what the backend holds, of the weights, held at most. */
  readonly bytes: {
    readonly file: number;
    readonly host: number;
    readonly weights: number;
    readonly held: number;
  };
  /** Tokens of the prompt. */
  readonly prompt: number;
  /** Tokens per second of reading it. */
  readonly prefill: number;
  /** Milliseconds to the first token after a short prompt, and of each that follows: the median. */
  readonly firstToken: number;
  readonly decode: number;
  /** RMS-relative error of the logits, compared with float64, where they were compared. */
  readonly error?: number;
}

/** The machine that measures. */
export function machine(): Report["machine"] {
  return {
    cpu: cpus()[0].model,
    cores: cpus().length,
    gibibytes: Math.round(totalmem() / 2 ** 30),
    os: `${Deno.build.os} ${Deno.build.arch}`,
  };
}

/** The commit that was measured, as far as there is one. */
export async function commit(): Promise<string> {
  try {
    const git = (...args: string[]) => new Deno.Command("git", { args, stderr: "null" }).output();
    const { success, stdout } = await git("rev-parse", "--short", "HEAD");
    return success ? new TextDecoder().decode(stdout).trim() : "unknown";
  } catch {
    return "unknown"; // no git here
  }
}

/** Where the results lie. */
export const FOLDER = new URL("../../docs/benchmarks/", import.meta.url);

/** A file of results; undefined if it does not exist. */
export function kept<T>(file: string): Promise<T | undefined> {
  return readKept<T>(new URL(file, FOLDER));
}

/** Writes a file of results. */
export async function keep(file: string, results: unknown): Promise<void> {
  await Deno.writeTextFile(new URL(file, FOLDER), JSON.stringify(results, null, 2) + "\n");
}

/** Whether a value keeps a limit; NaN does not. */
export function keeps(value: number, limit: number, most = false): boolean {
  return most ? value <= limit : value >= limit;
}
