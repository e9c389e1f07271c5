/**
 * Tokens per second and bytes exchanged against the length, over the ranks of `mpiexec`: prefill of one prompt, and
 * training on long sequences, shared or one per rank. The first rank prints one line of JSON per measurement.
 * `deno task bench:ranks` starts it.
 *
 * `mpiexec -n 2 deno run -A bench/measure/ranks.ts webgpu 8192,131072,1048576 8192,32768 8192,32768`: backend, lengths of
 * prompts, tokens of a training step for each rank, with its own sequences and with a part of each, and if need be layers and
 * embed of the model, 8 and 512, and tokens of a part of a prompt.
 *
 * @module
 */
import { createBackend } from "../../backend.ts";
import type { Backend } from "../../core/tensor.ts";
import { inRanks, prefill, type Ranks, trainingRanks } from "../../distributed/mod.ts";
import { parseConfig } from "../../model/config.ts";
import { TransNormerLLM } from "../../model/mod.ts";
import { encodeSafetensors } from "../../model/safetensors.ts";
import { stateShapes } from "../../model/transnormer.ts";
import { lossAndGradients } from "../../train/backward.ts";
import { configByName, initialWeights } from "../../train/configs.ts";
import { Parameters } from "../../train/optimizer.ts";
import { columnsOf, GradientSums } from "../../train/ranks.ts";
import { median } from "./timing.ts";

const [prefer, prompts, batches, sequences, layers = "8", embed = "512", pass] = Deno.args;
const passTokens = pass === undefined ? undefined : Number(pass);
const numbers = (text: string | undefined) => (text ?? "").split(",").filter(Boolean).map(Number);
const config = {
  ...configByName("medium"),
  decoder_layers: Number(layers),
  decoder_embed_dim: Number(embed),
  hidden_dim: Number(embed),
  decoder_attention_heads: Number(embed) / 64,
  glu_dim: Math.round(Number(embed) * 2.75),
  linear_use_lrpe_list: Array.from({ length: Number(layers) }, (_, l) => Number(l === 0)),
};
/**
 * Runs before any is timed, in which pipelines are compiled and buffers learnt, and what is timed: at least so many runs,
 * more where they are short.
 */
const WARM_UPS = 3, LEAST = 3, MOST = 15, SECONDS = 1.5;
/** Most tokens of a pass of training with sequences of one rank; longer steps accumulate gradients, as trainers do. */
const PASS_TOKENS = 32_768;

/** What some runs that begin together took. */
interface Found {
  /** Of the slowest rank: the median, the least and the most. */
  readonly seconds: number;
  readonly range: readonly [number, number];
  /** That all ranks send in one run. */
  readonly bytes: number;
}

async function measure(ranks: Ranks, run: () => Promise<void>): Promise<Found> {
  const seconds: number[] = [];
  let bytes = 0;
  const enough = () =>
    seconds.length >= LEAST &&
    (seconds.length >= MOST || seconds.reduce((sum, one) => sum + one, 0) > SECONDS);
  for (let i = 0; !enough(); i++) { // all ranks know the same times
    await ranks.agree("bench", { i });
    const before = ranks.bytesSent, start = performance.now();
    await run();
    const own = Float64Array.of((performance.now() - start) / 1000, ranks.bytesSent - before);
    const all = await ranks.allGather(own);
    if (i >= WARM_UPS) seconds.push(Math.max(...all.map(([time]) => time)));
    bytes = all.reduce((sum, [, sent]) => sum + sent, 0);
  }
  return { seconds: median(seconds), range: [Math.min(...seconds), Math.max(...seconds)], bytes };
}

function report(ranks: Ranks, backend: Backend, what: string, tokens: number, found: Found) {
  if (ranks.rank > 0) return;
  const { seconds } = found;
  const { device } = backend.info;
  const line = { what, ranks: ranks.size, tokens, tokensPerSecond: Math.round(tokens / seconds), ...found };
  console.log(JSON.stringify({ ...line, layers, embed, passTokens, device }));
}

async function measurePrompts(ranks: Ranks, backend: Backend): Promise<void> {
  const lengths = numbers(prompts);
  if (lengths.length === 0) return;
  const network = parseConfig(config), folder = await Deno.makeTempDir();
  try {
    const initial = initialWeights(network, 1),
      tensors: { name: string; shape: readonly number[]; data: Float32Array }[] = [];
    using _ = new Parameters(backend, network, (name, shape) => {
      const { value } = initial(name, shape);
      tensors.push({ name, shape, data: value });
      return { value };
    });
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
    await Deno.writeFile(`${folder}/model.safetensors`, encodeSafetensors(tensors, { format: "pt" }));
    using model = await TransNormerLLM.load(folder, { backend });
    for (const length of lengths) {
      const ids = Uint32Array.from({ length }, (_, i) => (i * 7919) % 256);
      const found = await measure(ranks, async () => {
        using session = model.session();
        await (await prefill(ranks, session, ids, { passTokens })).data();
      });
      report(ranks, backend, "prefill", length, found);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function measureTraining(ranks: Ranks, backend: Backend, split: "batch" | "sequence"): Promise<void> {
  const lengths = numbers(split === "batch" ? batches : sequences);
  if (lengths.length === 0) return;
  const network = parseConfig(config), { rank, size } = ranks;
  using parameters = new Parameters(backend, network, initialWeights(network, 1));
  const shared = await trainingRanks(ranks, backend, split);
  const sums = size === 1 ? undefined : new GradientSums(shared, backend); // alone, a trainer exchanges nothing
  let count = 0;
  for (const perRank of lengths) {
    const tokens = perRank * size;
    const passes = split === "batch" ? Math.ceil(perRank / PASS_TOKENS) : 1;
    // One sequence of each pass per rank, or one that all share.
    const own = split === "batch" ? Math.ceil(perRank / passes) : tokens;
    const ids = Uint32Array.from(
      { length: own },
      (_, i) => (i * 7919 + rank * Number(split === "batch")) % 256,
    );
    const labels = Int32Array.from(ids, (_, i) => ids[(i + 1) % own]);
    const whole = { ids, labels, batch: 1, seqLen: own, positions: [0] };
    const segment = split === "batch" || size === 1 ? whole : columnsOf(whole, rank, size);
    const found = await measure(ranks, async () => {
      using gradients = parameters.gradients();
      using total = backend.zeros([1]);
      for (let pass = 1; pass <= passes; pass++) {
        const options = {
          chain: size > 1 ? shared.chain : undefined,
          ...pass === passes && sums && { onFinal: sums.add.bind(sums) },
        };
        const states = await lossAndGradients(
          parameters,
          gradients.tree,
          segment,
          1 / tokens,
          total,
          options,
        );
        for (const state of states) state.dispose();
      }
      await sums?.finish([...gradients.list, total], 0);
      const options = { learningRate: 1e-4, beta1: 0.9, beta2: 0.95, weightDecay: 0.1, clip: 1 };
      using squares = parameters.step(gradients, { ...options, count: ++count }, () => false);
      await squares.data();
    });
    report(ranks, backend, `training, shared ${split}`, tokens, found);
  }
}

await inRanks(async (ranks) => {
  using backend = await createBackend({ prefer: prefer as "wasm" | "webgpu" });
  const stateBytes = 4 * stateShapes(parseConfig(config), 1)
    .reduce((sum, shape) => sum + shape.reduce((product, size) => product * size, 1), 0);
  if (ranks.rank === 0) console.log(JSON.stringify({ what: "states of a sequence", bytes: stateBytes }));
  await measurePrompts(ranks, backend);
  await measureTraining(ranks, backend, "batch");
  await measureTraining(ranks, backend, "sequence");
});
