/**
 * The point of lightning attention, on this machine: its speed and memory at growing lengths beside conventional
 * causal softmax attention and linear attention by the left product; then a million tokens in constant memory; then what
 * it is for, text from a language model that was trained with this library.
 *
 *     deno task demo [--max-length 262144] [--backend auto|webgpu|wasm] [--out out/demo.svg] [--quick]
 *
 * @module
 */
import { parseArgs } from "node:util";
import { dirname } from "node:path";
import {
  alibiSlopes,
  type Backend,
  BackendError,
  createBackend,
  lightningAttention,
  type Tensor,
} from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { Baselines, type Prepared } from "../bench/baselines/mod.ts";
import { median, seconds, warmUp } from "../bench/measure.ts";
import { type Point, renderPlot } from "./demo_plot.ts";

/** One layer's attention: 4 heads of 64. */
const HEADS = 4, DIM = 64;
/** f32 of q, k, v or output per token. */
const ROW = HEADS * DIM;
const SLOPES = alibiSlopes(HEADS);
/** The table begins with it, and it is the yardstick of all longer ones. */
const SHORTEST = 1024;

const HELP = `Lightning attention at growing lengths, beside what it replaces.

Usage: deno task demo [options]

  --max-length N   longest sequence, an integer >= 1024 (default 262144; with --quick 4096)
  --backend NAME   auto, webgpu or wasm (default auto)
  --out FILE       where the plot goes (default out/demo.svg)
  --quick          a few seconds instead of about a minute: shorter sequences, a shorter stream
  --help           this text`;

/** What the command line asks for. */
interface Options {
  maxLength: number;
  backend: "auto" | "webgpu" | "wasm";
  out: string;
  /** A measurement that would take longer than this many seconds is left out. */
  patience: number;
  /** Tokens of the stream, and of each of its segments. */
  stream: number;
  segment: number;
}

/** Options that make no sense end the demo before it starts, with exit code 2. */
class UsageError extends Error {}

function readOptions(args: string[]): Options | "help" {
  let values;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        "max-length": { type: "string" },
        backend: { type: "string", default: "auto" },
        out: { type: "string", default: "out/demo.svg" },
        quick: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const { backend, out, quick } = values;
  const maxLength = Number(values["max-length"] ?? (quick ? 4096 : 262144));
  if (values.help) return "help";
  if (!Number.isSafeInteger(maxLength) || maxLength < SHORTEST) {
    throw new UsageError(
      `--max-length must be an integer >= ${SHORTEST}: current value is ${values["max-length"]}`,
    );
  }
  if (backend !== "auto" && backend !== "webgpu" && backend !== "wasm") {
    throw new UsageError(`--backend must be auto, webgpu or wasm: current value is ${backend}`);
  }
  if (out === "") throw new UsageError("--out must name a file");
  return quick
    ? { maxLength, backend, out, patience: 0.5, stream: 2 ** 16, segment: 2 ** 12 }
    : { maxLength, backend, out, patience: 4, stream: 2 ** 20, segment: 2 ** 14 };
}

/** One line that changes while work goes on; nothing where the output is no terminal. */
const progress = {
  show(text: string): void {
    if (Deno.stderr.isTerminal()) Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`));
  },
  clear(): void {
    progress.show("");
  },
};

/** Lets pending events in, Ctrl-C among them: kernels keep the thread to themselves. */
async function breathe(signal: AbortSignal): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
  signal.throwIfAborted();
}

/** Seeded numbers in [−1, 1), any number of them from one stretch that repeats. */
function noise(length: number): Float32Array<ArrayBuffer> {
  const data = new Float32Array(length);
  const period = Math.min(length, 2 ** 20 + 7);
  let x = 0x9e3779b9;
  for (let i = 0; i < period; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    data[i] = x / 2 ** 31;
  }
  for (let filled = period; filled < length; filled *= 2) data.copyWithin(filled, 0, length - filled);
  return data;
}

/** q, k and v of one length: three views into the same noise. */
interface Operands {
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
interface Method {
  name: string;
  /** How time grows with length. */
  order: 1 | 2;
  /** Whether it computes linear attention, so that results must agree with others that do. */
  linear: boolean;
  prepare(data: Operands, length: number): Call;
}

function lightningOn(backend: Backend): Method {
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

function baseline(
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
 * `seconds` is the fastest run: what others do on the machine only ever adds. `steadiness` is its speed over that of
 * the shortest length, which runs in turns with it and for as long, so that a slow moment meets both.
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

/** RMS of the difference over RMS of the expected values. */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0, norm = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  return Math.sqrt(error / norm);
}

const count = (n: number) => Math.round(n).toLocaleString("en");

function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(n, 1)) / 10));
  const value = n / 2 ** (10 * power);
  return `${value < 10 && value % 1 !== 0 ? value.toFixed(1) : value.toFixed(0)} ${units[power]}`;
}

function duration(seconds: number): string {
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** What softmax attention must keep of n tokens to go on: keys and values. */
const cacheBytes = (length: number) => 2 * 4 * ROW * length;
/** What lightning attention must keep. */
const STATE_BYTES = 4 * HEADS * DIM * DIM;

/** Measures every method at every length, and prints the table row by row. */
async function compare(
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
    progress.show("warming up ...");
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
  progress.clear();
  console.log(line("", methods.map((method) => method.name), "kept to go on"));
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
        cells.push(`left out, takes ~${left}`);
        continue;
      }
      progress.show(`${count(length)} tokens: ${method.name}${expected[i] > 1 ? `, about ${left}` : ""} ...`);
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
    progress.clear();
    console.log(line(count(length), cells, `${bytes(STATE_BYTES)} · ${bytes(cacheBytes(length))}`));
  }
  return { points, disagreement };
}

/** One line of the table. */
function line(length: string, cells: string[], kept: string): string {
  return length.padStart(9) + cells.map((cell) => cell.padStart(28)).join("") + kept.padStart(27);
}

/** What a stream left behind. */
interface Streamed {
  tokensPerSecond: number;
  /** Bytes in tensors after the first segment and at most afterwards. */
  held: [first: number, most: number];
  /** Bytes of the whole process, likewise. */
  process: [first: number, most: number];
  /** Relative error of the state's first rows and of the last token's output. */
  error: number;
}

/**
 * Streams tokens in segments through `lightningAttention` and carries the state. Beside it, a recurrence in float64
 * takes every token and keeps the first row of each head's state: `S[0] ← λ S[0] + k_t[0] v_t`. The last head never
 * forgets, so that it holds the whole stream.
 */
async function stream(
  backend: Backend,
  { stream, segment }: Options,
  signal: AbortSignal,
): Promise<Streamed> {
  const slopes = [...SLOPES.slice(0, HEADS - 1), 0];
  const size = segment * ROW, shift = 65537;
  const data = noise(size + 3 * shift);
  const shape = [1, HEADS, segment, DIM];
  const [q, k, v] = [0, 1, 2].map(() => backend.empty(shape));
  const expected = new Float64Array(HEADS * DIM);
  let state: Tensor | undefined, last: Float32Array | undefined;
  let computing = 0;
  const held: number[] = [], process: number[] = [];
  try {
    for (let start = 0; start < stream; start += segment) {
      progress.show(`${count(start)} of ${count(stream)} tokens streamed ...`);
      await breathe(signal);
      // Every segment is another view of the noise.
      const turn = (start / segment * 7919) % shift;
      const views = [0, 1, 2].map((i) => data.subarray(turn + i * shift, turn + i * shift + size));
      [q, k, v].forEach((tensor, i) => backend.write(tensor, views[i]));
      computing += await seconds(async () => {
        const next = lightningAttention(q, k, v, { slopes, initialState: state });
        state?.dispose();
        state = next.state;
        if (start + segment >= stream) last = await next.output.data();
        next.output.dispose();
        await state.data();
      });
      firstRows(expected, views[1], views[2], segment, slopes);
      held.push(backend.bytesInUse);
      process.push(Deno.memoryUsage().rss);
    }
    return {
      tokensPerSecond: stream / computing,
      held: [held[0], Math.max(...held)],
      process: [process[0], Math.max(...process)],
      error: streamError(await state!.data(), expected, last!, await q.data(), segment),
    };
  } finally {
    for (const tensor of [q, k, v, state]) tensor?.dispose();
    progress.clear();
  }
}

/** The recurrence of the first row of each head's state, over one segment. */
function firstRows(
  rows: Float64Array,
  k: Float32Array,
  v: Float32Array,
  segment: number,
  slopes: number[],
): void {
  for (let head = 0; head < HEADS; head++) {
    const decay = Math.exp(-slopes[head]);
    const row = rows.subarray(head * DIM, (head + 1) * DIM);
    for (let t = head * segment; t < (head + 1) * segment; t++) {
      const key = k[t * DIM];
      for (let j = 0; j < DIM; j++) row[j] = decay * row[j] + key * v[t * DIM + j];
    }
  }
}

/**
 * The larger of two errors, head by head: of the state's first row against the recurrence, and of the last token's
 * output against `qᵀ S` in float64.
 */
function streamError(
  state: Float32Array,
  expected: Float64Array,
  output: Float32Array,
  q: Float32Array,
  segment: number,
): number {
  const errors: number[] = [];
  for (let head = 0; head < HEADS; head++) {
    const S = state.subarray(head * DIM * DIM, (head + 1) * DIM * DIM);
    errors.push(relativeError(S.subarray(0, DIM), expected.subarray(head * DIM, (head + 1) * DIM)));
    const token = ((head + 1) * segment - 1) * DIM;
    const product = new Float64Array(DIM);
    for (let i = 0; i < DIM; i++) {
      for (let j = 0; j < DIM; j++) product[j] += q[token + i] * S[i * DIM + j];
    }
    errors.push(relativeError(output.subarray(token, token + DIM), product));
  }
  return Math.max(...errors);
}

/** Speed at the longest sequence over speed at the shortest. Memory beyond the caches costs some. */
const STEADY_LIMIT = 0.6;
/** f32 sums of the same numbers in different orders. */
const AGREEMENT_LIMIT = 1e-5;
/** f32 sums of a million terms. */
const ERROR_LIMIT = 1e-4;
/** Bytes that a process may grow by for reasons of its own; a leak of every output would be ten times that. */
const GROWTH_LIMIT = 64 * 2 ** 20;

/** One sentence of the verdict, and whether it is good news. */
type Finding = [good: boolean, sentence: string];

/** Compares the methods on one backend, and draws the plot. */
async function comparison(backend: Backend, options: Options, signal: AbortSignal): Promise<Finding[]> {
  const sizes = (seqLen: number) => ({ heads: HEADS, seqLen, headDim: DIM, valueDim: DIM });
  const baselines = new Baselines();
  const methods = [
    lightningOn(backend),
    baseline("left product", true, ({ q, k, v }, length) => {
      return baselines.leftProduct(q, k, v, sizes(length), SLOPES);
    }),
    baseline("softmax attention", false, ({ q, k, v }, length) => {
      return baselines.softmaxAttention(q, k, v, sizes(length));
    }),
  ];
  // Where the library runs on a GPU, it also runs where the others do.
  using wasm = backend.name === "wasm" ? undefined : await createBackend({ prefer: "wasm", signal });
  if (wasm !== undefined) methods.splice(1, 0, lightningOn(wasm));
  console.log(
    `One layer's attention: ${HEADS} heads of ${DIM}, f32. The left product and softmax attention run in`,
  );
  console.log(`WebAssembly SIMD on one thread, with the same register tile as lightning attention there.\n`);

  const { points, disagreement } = await compare(methods, options, signal);
  await Deno.writeTextFile(options.out, await renderPlot(points, STATE_BYTES, cacheBytes));
  console.log(`\nPlot: ${options.out}\n`);

  const findings = methods.map(({ name, order }): Finding => {
    const { length, steadiness } = points.findLast((point) => point.method === name)!;
    return [
      order === 2 || steadiness >= STEADY_LIMIT,
      `${name}: ${count(length)} tokens at ${(100 * steadiness).toFixed(0)} % of the speed at ${
        count(SHORTEST)
      }`,
    ];
  });
  findings.push([
    disagreement <= AGREEMENT_LIMIT,
    `linear attention by either product differs by ${disagreement.toExponential(1)}`,
  ]);
  return findings;
}

/** Streams on a backend of its own: WebAssembly memory that has grown would hide growth. */
async function streaming(
  prefer: "webgpu" | "wasm",
  options: Options,
  signal: AbortSignal,
): Promise<Finding[]> {
  using backend = await createBackend({ prefer, signal });
  const { tokensPerSecond, held, process, error } = await stream(backend, options, signal);
  const tokens = count(options.stream);
  console.log(`Stream of ${tokens} tokens in segments of ${count(options.segment)}, state carried`);
  console.log(`  speed             ${count(tokensPerSecond)} tokens/s`);
  console.log(
    `  tensors           ${bytes(held[0])} after the first segment, at most ${bytes(held[1])} later`,
  );
  console.log(
    `  whole process     ${bytes(process[0])} after the first segment, at most ${bytes(process[1])} later`,
  );
  console.log(`  error             ${error.toExponential(1)} against a float64 recurrence over all tokens\n`);
  return [
    [
      held[0] === held[1] && process[1] - process[0] <= GROWTH_LIMIT,
      `${tokens} tokens streamed: after the first segment tensors grew by ${
        bytes(held[1] - held[0])
      }, the process by ${bytes(process[1] - process[0])}`,
    ],
    [
      error <= ERROR_LIMIT,
      `the state after ${tokens} tokens differs from float64 by ${error.toExponential(1)}`,
    ],
  ];
}

/** Lets the shipped model write, as one reads it: a state of fixed size, however much it has written. */
async function writing(prefer: "webgpu" | "wasm", signal: AbortSignal): Promise<Finding> {
  const prompt = "The state of the Union is", maxTokens = 400;
  using backend = await createBackend({ prefer, signal });
  using model = await TransNormerLLM.load(new URL("../models/sotu", import.meta.url), { backend, signal });
  console.log(
    `A TransNormerLLM of ${(model.parameterCount / 1e6).toFixed(1)} M parameters, trained by this library`,
  );
  const encoder = new TextEncoder();
  Deno.stdout.writeSync(encoder.encode(`  ${prompt}`));
  let tokens = 0;
  const start = performance.now();
  for await (const { text } of model.generate(prompt, { maxTokens, temperature: 0.7, seed: 3, signal })) {
    Deno.stdout.writeSync(encoder.encode(text.replaceAll("\n", "\n  ")));
    tokens++;
  }
  const speed = Math.round(tokens / (performance.now() - start) * 1000);
  console.log("\n");
  return [tokens > 0, `the model wrote ${tokens} bytes, ${speed} a second`];
}

async function main(options: Options, signal: AbortSignal): Promise<boolean> {
  // Before a minute of work, not after it.
  await Deno.mkdir(dirname(options.out), { recursive: true });
  await Deno.writeTextFile(options.out, "", { append: true });

  const findings: Finding[] = [];
  let name: "webgpu" | "wasm";
  {
    using backend = await createBackend({ prefer: options.backend, signal });
    name = backend.name;
    console.log(`Backend: ${name}, ${backend.info.device} (${backend.info.reason})`);
    findings.push(...await comparison(backend, options, signal));
  }
  findings.push(...await streaming(name, options, signal));
  findings.push(await writing(name, signal));

  console.log("Verdict");
  for (const [good, sentence] of findings) {
    console.log(`  ${good ? "✓" : "✗ NOT AS IT SHOULD BE:"} ${sentence}`);
  }
  return findings.every(([good]) => good);
}

if (import.meta.main) {
  const interruption = new AbortController();
  Deno.addSignalListener("SIGINT", () => {
    progress.clear();
    console.error("Stopping after this measurement.");
    interruption.abort();
  });
  try {
    const options = readOptions(Deno.args);
    if (options === "help") console.log(HELP);
    else Deno.exit(await main(options, interruption.signal) ? 0 : 1);
  } catch (error) {
    progress.clear();
    if (interruption.signal.aborted) Deno.exit(130);
    if (error instanceof UsageError) {
      console.error(`${error.message}\n\n${HELP}`);
      Deno.exit(2);
    }
    if (error instanceof BackendError || error instanceof Deno.errors.NotCapable) {
      console.error(error.message);
      Deno.exit(1);
    }
    throw error;
  }
}
