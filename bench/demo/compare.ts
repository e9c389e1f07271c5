/**
 * The methods at growing lengths, measured in turns and printed row by row.
 *
 * @module
 */
import { type Backend, BackendError, lightningAttention, type Tensor } from "../../mod.ts";
import { relativeError } from "../../tests/numbers.ts";
import type { Prepared } from "../baselines/mod.ts";
import { median, seconds, warmUp } from "../measure/timing.ts";
import { cacheBytes, DIM, HEADS, noise, type Options, ROW, SHORTEST, SLOPES, STATE_BYTES } from "./layer.ts";
import type { Point } from "./plot.ts";
import { breathe, bytes, count, duration, progress } from "./text.ts";

/** q, k and v of one length: three views into the same noise. */
export interface Operands {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

function operands(length: number): Operands {
  const size = length * ROW, shift = 4099;
  const data = noise(size + 2 * shift);
  return {
    q: data.subarray(0, size),
    k: data.subarray(shift, shift + size),
    v: data.subarray(2 * shift, 2 * shift + size),
  };
}

/** A method at one length, ready to run. */
interface Call {
  run(): void | Promise<void>;
  output(): Float32Array | Promise<Float32Array>;
  /** Bytes of operands, result and work space while it runs. */
  bytes(): number;
  dispose(): void;
}

/** What is compared. */
export interface Method {
  name: string;
  /** How time grows with length. */
  order: 1 | 2;
  /** Whether it computes linear attention, so that results must agree with others that do. */
  linear: boolean;
  prepare(data: Operands, length: number): Call;
}

/** Lightning attention on a backend. */
export function lightningOn(backend: Backend): Method {
  return {
    name: `lightning attention (${backend.name === "wasm" ? "WASM" : "WebGPU"})`,
    order: 1,
    linear: true,
    prepare({ q, k, v }, length) {
      const before = backend.bytesInUse;
      const held: Tensor[] = [];
      try {
        for (const x of [q, k, v]) held.push(backend.tensor(x, [1, HEADS, length, DIM]));
      } catch (error) {
        for (const tensor of held) tensor.dispose();
        throw error;
      }
      let result: ReturnType<typeof lightningAttention> | undefined;
      const drop = () => {
        result?.output.dispose();
        result?.state.dispose();
        result = undefined;
      };
      return {
        async run() {
          drop();
          result = lightningAttention(held[0], held[1], held[2], { slopes: SLOPES });
          await result.state.data(); // small, and ready only when all is computed
        },
        output: () => result!.output.data(),
        bytes: () => backend.bytesInUse - before,
        dispose() {
          drop();
          for (const tensor of held) tensor.dispose();
        },
      };
    },
  };
}

/** A conventional method, in WebAssembly. */
export function baseline(
  name: string,
  linear: boolean,
  make: (data: Operands, length: number) => Prepared,
): Method {
  return {
    name,
    order: 2,
    linear,
    prepare(data, length) {
      const call = make(data, length);
      return {
        run: () => call.run(),
        output: () => call.output(),
        bytes: () => call.bytes,
        dispose: () => call[Symbol.dispose](),
      };
    },
  };
}

/**
 * Runs a call up to ten times, as far as half of the patience reaches, but once and `least` times more in any case.
 * `seconds` is the fastest run: what others do on the machine only ever adds. `steadiness` is its speed over
 * that of the shortest length. That one runs in turns with it and for as long, so that a slow moment meets both.
 */
async function time(
  call: Call,
  length: number,
  shortest: Call,
  { signal, patience, least }: { signal: AbortSignal; patience: number; least: number },
): Promise<{ seconds: number; steadiness: number }> {
  // The first run also touches new memory.
  let fastest = await seconds(() => call.run());
  const duration = Math.max(30, Math.min(1000 * fastest, 1000));
  /** Tokens per second at the shortest length, now. */
  const usual = async () => {
    let runs = 0;
    const taken = await seconds(async () => {
      for (const end = performance.now() + duration; performance.now() < end; runs++) await shortest.run();
    });
    return runs * SHORTEST / taken;
  };
  let before = await usual();
  const steadiness: number[] = [];
  const enough = (spent: number) => steadiness.length >= 9 || spent + fastest > patience / 2;
  for (let spent = fastest; steadiness.length < least || !enough(spent);) {
    await breathe(signal);
    const taken = await seconds(() => call.run());
    const after = await usual();
    steadiness.push(2 * length / taken / (before + after));
    before = after;
    fastest = Math.min(fastest, taken);
    spent += taken;
  }
  return {
    seconds: fastest,
    steadiness: steadiness.length > 0 ? median(steadiness) : length / fastest / before,
  };
}

/** Measures every method at every length, and prints the table row by row. */
export async function compare(
  methods: Method[],
  { maxLength, patience }: Options,
  signal: AbortSignal,
): Promise<{ points: Point[]; disagreement: number }> {
  const lengths: number[] = [];
  for (let length = SHORTEST; length <= maxLength; length *= 2) lengths.push(length);
  if (lengths[lengths.length - 1] !== maxLength) lengths.push(maxLength);

  const data = operands(SHORTEST);
  const shortest: Call[] = [];
  try {
    // The shortest length many times over first: WebAssembly begins in a baseline compiler.
    progress.draw("warming up ...");
    for (const method of methods) {
      const call = method.prepare(data, SHORTEST);
      shortest.push(call);
      await warmUp(() => call.run());
      await breathe(signal);
    }
    return await fillTable(methods, lengths, shortest, patience, signal);
  } finally {
    for (const call of shortest) call.dispose();
  }
}

/** Measures and prints row by row; `shortest` are the methods' calls at the shortest length. */
async function fillTable(
  methods: Method[],
  lengths: number[],
  shortest: Call[],
  patience: number,
  signal: AbortSignal,
): Promise<{ points: Point[]; disagreement: number }> {
  const points: Point[] = [];
  let disagreement = 0;
  progress.draw("");
  console.log(line("", methods.map((method) => method.name), "kept to continue"));
  console.log(line("tokens", methods.map(() => "tokens/s · memory"), "state · keys and values"));
  for (const length of lengths) {
    const data = operands(length);
    const expected = methods.map(({ name, order }) => {
      const last = points.findLast((point) => point.method === name);
      return last === undefined ? 0 : last.seconds * (length / last.length) ** order;
    });
    const comparable = methods.filter(({ linear }, i) => linear && expected[i] <= patience).length > 1;
    /** The first linear result, which the others must repeat. */
    let linear: Float32Array | undefined;
    const cells: string[] = [];
    for (const [i, method] of methods.entries()) {
      const left = duration(expected[i]);
      if (expected[i] > patience) {
        cells.push(`skipped, takes ~${left}`);
        continue;
      }
      progress.draw(`${count(length)} tokens: ${method.name}${expected[i] > 1 ? `, about ${left}` : ""} ...`);
      await breathe(signal);
      let call: Call | undefined;
      try {
        call = method.prepare(data, length);
        // That lightning attention keeps its speed is a claim, so it is measured several times at every length.
        const least = method.order === 1 ? 3 : 0;
        const timed = await time(call, length, shortest[i], { signal, patience, least });
        points.push({ method: method.name, length, bytes: call.bytes(), ...timed });
        cells.push(`${count(length / timed.seconds)} · ${bytes(call.bytes()).padStart(7)}`);
        if (method.linear && comparable) {
          const output = await call.output();
          linear ??= output;
          disagreement = Math.max(disagreement, relativeError(output, linear));
        }
      } catch (error) {
        if (!(error instanceof BackendError && error.reason === "out-of-memory")) throw error;
        cells.push("out of memory");
      } finally {
        call?.dispose();
      }
    }
    progress.draw("");
    console.log(line(count(length), cells, `${bytes(STATE_BYTES)} · ${bytes(cacheBytes(length))}`));
  }
  return { points, disagreement };
}

/** One line of the table. */
function line(length: string, cells: string[], kept: string): string {
  return length.padStart(9) + cells.map((cell) => cell.padStart(28)).join("") + kept.padStart(27);
}
