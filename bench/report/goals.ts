/**
 * What the library promises of its speed on WASM, each as a ratio within one run. So it holds on a machine
 * that others use too. The report shows them; the guard fails a release that falls far behind.
 *
 * @module
 */
import { createBackend } from "../../mod.ts";
import { BASELINE, RELAXED } from "../../wasm/kernels.ts";
import { Baselines } from "../baselines/mod.ts";
import {
  ATTENTION_SIZES,
  type Case,
  ceilingCase,
  describe,
  lightningBackwardCase,
  lightningCase,
  linearCase,
} from "../measure/cases.ts";
import { coldStart } from "../measure/coldStart.ts";
import { compare } from "../measure/timing.ts";
import { decodeCase, HUNDRED_MILLION, randomModel } from "../measure/models.ts";
import { onnxAttentionCase, onnxLinearCase } from "../peers/onnxruntime.ts";

/** One promise. */
export interface Goal {
  /** What is measured. */
  readonly what: string;
  readonly unit: "%" | "×" | "ms" | "KB";
  /** The value must be at least this much, or, with `most`, at most. */
  readonly goal: number;
  readonly most?: boolean;
  /** Where the guard gives alarm: far behind the goal. Default: none, as the goal needs a quiet machine. */
  readonly alarm?: number;
  /** Measures, `repeats` times in turns. */
  measure(repeats: number): Promise<number>;
}

const LONG = 131072, SHORT = 2048;
const EIGHT_HEADS = { heads: 8, headDim: 64, valueDim: 64 };

/** Share of the ceiling, in percent. */
async function share(make: () => Promise<Case>, repeats: number): Promise<number> {
  using one = await make();
  using ceiling = ceilingCase(new Baselines(), one);
  return 100 * (await compare(one, ceiling, { repeats })).ratio;
}

/** How many times as fast as another. */
async function times(one: Case, other: Case, repeats: number): Promise<number> {
  using _one = one, _other = other;
  return (await compare(one, other, { repeats })).ratio;
}

/** All goals, in the order of the report. */
export const GOALS: readonly Goal[] = [
  ...ATTENTION_SIZES.map((sizes): Goal => ({
    what: `attention forward, ${describe(sizes)}: share of the ceiling`,
    unit: "%",
    goal: 70,
    alarm: 45,
    async measure(repeats) {
      using backend = await createBackend({ prefer: "wasm" });
      return await share(() => lightningCase(backend, sizes), repeats);
    },
  })),
  {
    what: "attention forward, 8 × 64, 2048 tokens, over onnxruntime-web causal attention",
    unit: "×",
    goal: 25,
    alarm: 12,
    async measure(repeats) {
      using backend = await createBackend({ prefer: "wasm" });
      const sizes = { ...EIGHT_HEADS, seqLen: SHORT };
      return await times(await lightningCase(backend, sizes), await onnxAttentionCase(sizes), repeats);
    },
  },
  {
    what: `tokens/s at ${LONG} over ${SHORT} tokens, 8 × 64`,
    unit: "×",
    goal: 0.95,
    alarm: 0.6,
    async measure(repeats) {
      using backend = await createBackend({ prefer: "wasm" });
      using long = await lightningCase(backend, { ...EIGHT_HEADS, seqLen: LONG });
      using short = await lightningCase(backend, { ...EIGHT_HEADS, seqLen: SHORT });
      // The yardstick runs as long as what is measured: a moment of the machine then meets both.
      const many = { run: () => manyTimes(short, LONG / SHORT) };
      return (await compare(long, many, { repeats })).ratio;
    },
  },
  {
    what: "attention forward, 8 × 64, 8192 tokens: two threads over one",
    unit: "×",
    goal: 1.7,
    async measure(repeats) {
      using two = await createBackend({ prefer: "wasm", threads: 2 });
      using one = await createBackend({ prefer: "wasm" });
      const sizes = { ...EIGHT_HEADS, seqLen: 8192 };
      return await times(await lightningCase(two, sizes), await lightningCase(one, sizes), repeats);
    },
  },
  ...[512, 1024].map((size): Goal => ({
    what: `linear ${size}³ over onnxruntime-web MatMul`,
    unit: "×",
    goal: 1.4,
    alarm: 1,
    async measure(repeats) {
      using backend = await createBackend({ prefer: "wasm" });
      const one = await linearCase(backend, size, size, size);
      return await times(one, await onnxLinearCase(size, size, size), repeats);
    },
  })),
  {
    what: "decode of one token, about 100 M parameters, f32: share of the read bandwidth",
    unit: "%",
    goal: 70,
    alarm: 40,
    async measure(repeats) {
      using backend = await createBackend({ prefer: "wasm" });
      using model = await randomModel(backend, HUNDRED_MILLION);
      // deno-lint-ignore require-await -- share takes what may have to be made
      return await share(async () => decodeCase(model), repeats);
    },
  },
  ...([["bf16", 1.7, 1.2], ["int8", 3, 1.5], ["int4", 4.5, 2]] as const).map((
    [dtype, goal, alarm],
  ): Goal => ({
    what: `decode of one token, the same model: ${dtype} weights${
      dtype === "bf16" ? "" : " in groups of 64"
    } over f32`,
    unit: "×",
    goal,
    alarm,
    async measure(repeats) {
      using backend = await createBackend({ prefer: "wasm" });
      using smaller = await randomModel(backend, HUNDRED_MILLION, dtype);
      using whole = await randomModel(backend, HUNDRED_MILLION);
      return await times(decodeCase(smaller), decodeCase(whole), repeats);
    },
  })),
  {
    what: "attention backward, 8 × 64, 2048 tokens: time over that of the forward",
    unit: "×",
    goal: 2.5,
    most: true,
    alarm: 4,
    async measure(repeats) {
      using backend = await createBackend({ prefer: "wasm" });
      const sizes = { ...EIGHT_HEADS, seqLen: SHORT };
      return await times(
        await lightningCase(backend, sizes),
        await lightningBackwardCase(backend, sizes),
        repeats,
      );
    },
  },
  {
    what: "import of mod.ts and createBackend on WASM, cold, over an empty Deno process",
    unit: "ms",
    goal: 60,
    most: true,
    alarm: 200,
    measure: (repeats) => coldStart(2 * repeats),
  },
  {
    what: "embedded kernels, in bytes of WebAssembly",
    unit: "KB",
    goal: 200,
    most: true,
    alarm: 200,
    measure: () => Promise.resolve((RELAXED.length + BASELINE.length) / 2000),
  },
];

async function manyTimes(one: Case, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await one.run();
}
