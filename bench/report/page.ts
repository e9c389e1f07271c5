/**
 * `docs/benchmarks.md` and its plots, from the results that `report.ts` keeps. Every figure of the page is one of theirs.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import {
  BYTES,
  CONVENTIONAL,
  decades,
  LIGHTNING,
  NEUTRAL,
  NUMBERS,
  type Panel,
  type PlotPoint,
  renderPanels,
} from "./plot.ts";
import { GENERATED, PREFILL } from "../measure/race.ts";
import { median } from "../measure/timing.ts";
import { aloneOf, kindsOf, processes, type RanksReport, renderScaling } from "./ranks.ts";
import {
  type EdgeReport,
  FOLDER,
  type GoalRow,
  keeps,
  kept,
  type KernelRow,
  type LengthPoint,
  type PublishedRow,
  type RaceReport,
  type RaceRow,
  type Report,
  type SpeedPoint,
  type TrainingReport,
} from "./results.ts";

const PAGE = new URL("../benchmarks.md", FOLDER);
const NAMES = { wasm: "WASM", webgpu: "WebGPU" };

/** Writes the page and the plots. */
export async function render(): Promise<void> {
  const sections = [];
  for (const backend of ["wasm", "webgpu"]) {
    const report = await kept<Report>(`${backend}.json`);
    if (report !== undefined) sections.push(await section(report));
  }
  const published = await kept<PublishedRow[]>("published.json");
  if (published !== undefined) sections.push(publishedSection(published));
  const training = await kept<TrainingReport>("training.json");
  if (training !== undefined) sections.push(await trainingSection(training));
  const ranks = await kept<RanksReport>("ranks.json");
  if (ranks !== undefined) sections.push(await ranksSection(ranks));
  const races = await kept<RaceReport[]>("race.json");
  if (races !== undefined) sections.push(raceSection(races));
  const edge = await kept<EdgeReport>("edge.json");
  if (edge !== undefined) sections.push(edgeSection(edge));
  await Deno.writeTextFile(PAGE, `${INTRODUCTION}\n${sections.join("\n")}`);
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", fileURLToPath(PAGE), fileURLToPath(FOLDER)],
  })
    .output();
  if (!success) throw new Error(`Cannot format ${fileURLToPath(PAGE)}`);
}

const INTRODUCTION = `# Benchmarks

Written by \`deno task report\` (\`--help\` lists its options) from the results in [benchmarks/](benchmarks/); edit
neither. Each result was held to a float64 reference before it was timed. "Compared with" says how many times as fast a
kernel is as another, measured in turns within one run, the median of all turns. Such ratios hold where a machine is
shared with other work; absolute figures do not.

* **ceiling**: on WASM the register tile on operands in L1 for what multiplies, a loop that reads the same number of
  bytes for what streams;
* **left product**: \`(Q Kᵀ ⊙ M) V\`, the method of Lightning Attention-1; **softmax attention**: in blocks with a
  running maximum, as FlashAttention-2; **token by token**: the recurrence. All three are ours, in WASM SIMD on the
  same register tile, on one thread;
* **onnxruntime-web**, **tfjs-backend-wasm**: from npm, on one thread; **jax-js**: from npm, compiled by its \`jit\`; on
  WASM it takes as many threads as there are cores. Their attention is softmax attention.
`;

async function section(report: Report): Promise<string> {
  const { backend, device, machine, exclusive, quick, date, versions, results } = report;
  const { goals, kernels, absent } = results;
  const parts = [
    `## ${NAMES[backend]}`,
    facts([
      ["date", `${date}, commit ${report.commit}`],
      ["device", backend === "webgpu" ? device : `${device}, one thread unless a row says otherwise`],
      ["machine", describe(machine)],
      ["versions", describeVersions(versions)],
      ["command", `\`${report.command}\``],
      [
        "absolute figures",
        exclusive ? "of a machine with nothing else to do" : "of a shared machine: only ratios hold",
      ],
      ...quick ? [["extent", "quick: shorter sequences, fewer repeats, a smaller model"] as const] : [],
    ]),
  ];
  if (goals.length > 0) parts.push("### Goals");
  const again = report.goalsMeasured;
  if (again !== undefined) {
    parts.push(`Measured again, ${again.date}, commit ${again.commit}: \`deno task report --goals\`.`);
  }
  if (goals.length > 0) parts.push(goalTable(goals));
  parts.push("### Kernels", kernelTable(kernels));
  for (const { file, title, panels, note } of figures(report)) {
    if (panels.every(({ values }) => values.length === 0)) continue;
    const shown = panels.filter(({ values }) => values.length > 0);
    await Deno.writeTextFile(new URL(file, FOLDER), await renderPanels(shown));
    parts.push(`### ${title}`, ...note === undefined ? [] : [note], `![${title}](benchmarks/${file})`);
    if (file.endsWith("length.svg")) parts.push(lengthTable(results.lengths));
    if (file.endsWith("generation.svg")) parts.push(speedTable(results.generation, "context"));
    if (file.endsWith("training.svg")) parts.push(speedTable(results.training, "tokens per sequence"));
  }
  if (absent.length > 0) {
    parts.push("### Not measured", table(["what", "why"], absent.map(({ what, reason }) => [what, reason])));
  }
  return parts.join("\n\n") + "\n";
}

function edgeSection({ machine, date, commit, versions, command, firstToken, resident }: EdgeReport): string {
  const row = (what: string, values: readonly number[], unit: string) => [
    what,
    ...[median(values), Math.min(...values), Math.max(...values)].map((value) =>
      `${value.toFixed(0)} ${unit}`
    ),
  ];
  return [
    "## Edge function",
    "`examples/edge/main.ts` with the shipped model, as an isolate would run it: a process with no permission but " +
    "loopback, no GPU, no workers, 128 MB of heap. It starts, loads the model by HTTP, and streams its first token.",
    facts([
      ["date", `${date}, commit ${commit}`],
      ["machine", describe(machine)],
      ["versions", describeVersions(versions)],
      ["command", `\`${command}\``],
    ]),
    table(["what", `:median of ${firstToken.length}`, ":least", ":most"], [
      row("cold start to first token", firstToken, "ms"),
      row("resident at most", resident, "MiB"),
    ]),
  ].join("\n\n") + "\n";
}

/** Goals of decoding compared with llama.cpp: int8 with Q8_0, int4 with Q4_K. */
const RACE_GOALS = { prefill: undefined, decode64: 5, decode2000: 15 } as const;
const RACE_TITLES = {
  prefill: "prefill",
  decode64: "decode after 64",
  decode2000: "decode after 2,000",
} as const;
type RaceSpeed = keyof typeof RACE_TITLES;

/** What is compared: weights with weights, of the same bits or any, in its best settings or its defaults. */
const RACE_PAIRS = [
  { ours: "int8", theirs: "Q8_0", settings: "best" },
  { ours: "int4", theirs: "Q4_K", settings: "best" },
  { ours: "int8", theirs: "Q8_0", settings: "defaults" },
  { ours: "int4", theirs: "Q4_K", settings: "defaults" },
  { ours: "int8", theirs: undefined, settings: "best" },
  { ours: "int4", theirs: undefined, settings: "best" },
] as const;

function raceSection(reports: readonly RaceReport[]): string {
  const parts = [
    "## llama.cpp in WebAssembly",
    "Levin and `@wllama/wllama`, llama.cpp for browsers, in one page of Chromium, each in its worker, on the CPU: models of " +
    "141.2 M parameters with random weights. wllama runs a llama (embed 768, 12 layers, 12 heads, feed-forward 2304, " +
    "vocab 32000), Levin a TransNormerLLM (the same with glu 2048). Q4_K keeps its head in Q6_K, as llama.cpp's own " +
    "quantisation does; Levin's integers have a scale per 32 weights, as Q8_0.",
    `Prefill is ${PREFILL} new tokens up to the first one of an answer; decoding is greedy, ${
      GENERATED - 1
    } tokens after ` +
    "64 and after 2,000 tokens of context. wllama's speeds are those that llama.cpp measures in its worker, Levin's those " +
    "of `session.generate` in its own. Two settings of wllama are tried: its defaults, a cache in F16 with flash attention, " +
    "and a cache in F32 without. All contestants run in turns.",
    "They are not the same model: softmax attention reads a cache that grows with the context, linear attention a state of " +
    "fixed size. Random weights say nothing of quality.",
  ];
  const speeds = Object.keys(RACE_TITLES) as RaceSpeed[];
  const titles = speeds.map((speed) => `:${RACE_TITLES[speed]}`);
  const range = (values: readonly number[]) =>
    `${significant(median(values))} (${significant(Math.min(...values))}–${
      significant(Math.max(...values))
    })`;
  // The best of its options for each figure: nobody has to use the same for all.
  const best = (found: readonly RaceRow[], speed: RaceSpeed) =>
    Math.max(...found.map((row) => median(row.speeds[speed])));
  for (const { threads, machine, date, commit, versions, command, rows } of reports) {
    const wllama = rows.filter(({ engine }) => engine === "wllama");
    parts.push(
      threads === 1 ? "### One thread" : `### ${threads} threads`,
      facts([
        ["date", `${date}, commit ${commit}`],
        ["machine", describe(machine)],
        ["versions", describeVersions(versions)],
        ["command", `\`${command}\``],
        ["absolute figures", "of a shared machine: only ratios hold"],
      ]),
      `Tokens per second, medians of ${rows[0].speeds.prefill.length} prefills and ${
        rows[0].speeds.decode64.length
      } decodings in turns, with the least and the most:`,
      table(
        ["engine and weights", ...titles],
        rows.map((row) => [
          `${row.engine} ${row.weights}${row.engine === "wllama" ? `, cache ${row.cache}` : ""}`,
          ...speeds.map((speed) => range(row.speeds[speed])),
        ]),
      ),
      "Levin over wllama. Best: the better of wllama's two settings for each figure, to which the goals apply.",
      table(
        ["what", ...titles],
        RACE_PAIRS.map(({ ours, theirs, settings }) => [
          `${ours} over ${theirs ?? "its fastest weights"}, ${settings}`,
          ...speeds.map((speed) => {
            const own = rows.filter(({ weights }) => weights === ours);
            const others = wllama.filter((row) =>
              (theirs === undefined || row.weights === theirs) &&
              (settings === "best" || row.engine === "wllama" && row.cache !== "F32")
            );
            const ratio = best(own, speed) / best(others, speed), goal = RACE_GOALS[speed];
            const isKept = goal === undefined || theirs === undefined || settings !== "best"
              ? ""
              : ` (goal ≥ ${goal}: ${keeps(ratio, goal) ? "kept" : "not kept"})`;
            return `${significant(ratio)} ×${isKept}`;
          }),
        ]),
      ),
    );
  }
  return parts.join("\n\n") + "\n";
}

function publishedSection(rows: readonly PublishedRow[]): string {
  const title = ({ backend, device, machine, threads }: PublishedRow) =>
    backend === "webgpu"
      ? `WebGPU, ${device}`
      : `WASM, ${device}, ${threads} ${threads === 1 ? "thread" : "threads"}, ${describe(machine)}`;
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
  const parts = [
    "## At the published sizes",
    "Checkpoints with the configurations of the published models and random weights in BF16, from a warm page cache. " +
    "Tokens are generated by `model.generate`, the likeliest each. Host memory is what loading takes besides what the " +
    "backend holds. Where logits were compared with float64, the error is RMS-relative, of a prefill and a step; with " +
    "integers the reference has the same integers.",
  ];
  for (const name of new Set(rows.map(title))) {
    const of = rows.filter((row) => title(row) === name);
    const all = (value: (row: PublishedRow) => string) => [...new Set(of.map(value))].join(", ");
    parts.push(
      `### ${name}`,
      facts([
        ["date", all(({ date, commit }) => `${date}, commit ${commit}`)],
        ["versions", all(({ versions }) => describeVersions(versions))],
        ["command", "`deno task bench:published --keep`"],
      ]),
      table(
        [
          "model",
          "matrices",
          ":load",
          ":file, GB/s",
          ":host, GB",
          ":weights, GB",
          ":held at most, GB",
          ":prompt",
          ":prefill, tokens/s",
          ":first token",
          ":each token",
          ":error of logits",
        ],
        of.map((row) => [
          row.model,
          row.weights,
          duration(row.load),
          significant(row.bytes.file / 1e9 / row.load),
          gigabytes(row.bytes.host),
          gigabytes(row.bytes.weights),
          gigabytes(row.bytes.held),
          row.prompt.toLocaleString("en"),
          Math.round(row.prefill).toLocaleString("en"),
          duration(row.firstToken / 1000),
          duration(row.decode / 1000),
          row.error?.toExponential(1) ?? "",
        ]),
      ),
    );
  }
  return parts.join("\n\n") + "\n";
}

async function trainingSection(report: TrainingReport): Promise<string> {
  const { device, date, commit, versions, commands, config, tokens, speeds } = report;
  const methods = [...new Set(speeds.map(({ method }) => method))];
  const panel: Panel = {
    title: "Tokens per second",
    values: speeds.map(({ method, length, tokensPerSecond }) => ({ method, length, y: tokensPerSecond })),
    methods,
    colors: methods.map((method, i) => method.startsWith("lightning") ? LIGHTNING[0] : CONVENTIONAL[i - 1]),
    labels: NUMBERS,
  };
  await Deno.writeTextFile(new URL("training.svg", FOLDER), await renderPanels([panel]));
  return [
    "## Training on a GPU",
    `Whole steps of the configuration "${config}": forward, backward, clipping and AdamW; ${tokens} tokens in each, in ` +
    "sequences of different length. Softmax attention is the baseline of the same size that docs/training.md describes.",
    facts([
      ["date", `${date}, commit ${commit}`],
      ["device", device],
      ["versions", describeVersions(versions)],
      ["commands", Object.values(commands).map((command) => `\`${command}\``).join(", ")],
    ]),
    "![Training speed against sequence length](benchmarks/training.svg)",
    speedTable(speeds, "tokens per sequence"),
  ].join("\n\n") + "\n";
}

async function ranksSection(report: RanksReport): Promise<string> {
  const { date, commit, versions, command, rows } = report;
  await Deno.writeTextFile(new URL("ranks.svg", FOLDER), await renderScaling(report));
  const tableOf = (what: string) =>
    table(
      [
        "processes",
        ":tokens",
        ":seconds",
        ":least to most",
        ":tokens/s",
        ":MiB that all send",
        ":compared with one",
      ],
      rows.filter((row) => row.what === what).map((row) => {
        const alone = row.ranks === 1 ? undefined : aloneOf(row, rows);
        return [
          processes(row.ranks),
          row.tokens.toLocaleString("en"),
          row.seconds.toFixed(3),
          row.range.map((seconds) => seconds.toFixed(3)).join(" to "),
          row.tokensPerSecond.toLocaleString("en"),
          (row.bytes / 2 ** 20).toFixed(1),
          alone === undefined ? "" : `${(row.tokensPerSecond / alone.tokensPerSecond).toFixed(2)} ×`,
        ];
      }),
    );
  return [
    "## Several processes",
    "The configuration `medium`, 27 M parameters: prompts that processes read together, and steps of training. A prompt is " +
    "compared with one of the same length; a step with one of as many tokens for each process. docs/distributed.md says " +
    "what bounds them.",
    facts([
      ["date", `${date}, commit ${commit}`],
      ["device", `${[...new Set(rows.map(({ device }) => device))].join(", ")}, one for each process`],
      ["versions", describeVersions(versions)],
      ["command", `\`${command}\``],
    ]),
    "![Tokens per second and bytes against length](benchmarks/ranks.svg)",
    ...kindsOf(rows).flatMap((what) => [`### ${what}`, tableOf(what)]),
  ].join("\n\n") + "\n";
}

interface Figure {
  readonly file: string;
  readonly title: string;
  readonly note?: string;
  readonly panels: Panel[];
}

function figures({ backend, results: { lengths, norms, generation, training } }: Report): Figure[] {
  const palette = (methods: readonly string[]) => {
    const others = [...CONVENTIONAL, NEUTRAL];
    return methods.map((method) => method.startsWith("lightning") ? LIGHTNING[0] : others.shift()!);
  };
  const panel = (
    title: string,
    values: PlotPoint[],
    rest: Pick<Panel, "steps" | "labels" | "xTitle">,
  ): Panel => {
    const methods = [...new Set(values.map(({ method }) => method))];
    const all = methods.length > 0 && methods.some((method) => method.startsWith("lightning"))
      ? palette(methods)
      : [LIGHTNING[0], LIGHTNING[1], ...CONVENTIONAL].slice(0, methods.length);
    return { title, values, methods, colors: all, ...rest };
  };
  const ofPass = (pass: LengthPoint["pass"], y: (point: LengthPoint) => number) =>
    lengths.filter((point) => point.pass === pass).map((point) => ({ ...point, y: y(point) }));
  const time = { steps: (power: number) => decades(power - 8), labels: "format(datum.value, '~g') + ' ms'" };
  const memory = { steps: (power: number) => 4 ** power, labels: BYTES };
  const speed = (points: readonly SpeedPoint[]) =>
    points.map(({ method, length, tokensPerSecond }) => ({ method, length, y: tokensPerSecond }));
  return [
    {
      file: `${backend}-length.svg`,
      title: "Run time and memory against sequence length",
      note:
        "One layer's attention, 8 heads × 64, batch 1, f32. Memory is all that the backend holds of the machine: " +
        "operands, results and work space.",
      panels: [
        panel("Forward, time", ofPass("forward", ({ seconds }) => 1000 * seconds), time),
        panel("Backward, time", ofPass("backward", ({ seconds }) => 1000 * seconds), time),
        panel("Forward, memory", ofPass("forward", ({ bytes }) => bytes), memory),
        panel("Backward, memory", ofPass("backward", ({ bytes }) => bytes), memory),
      ],
    },
    {
      file: `${backend}-norm.svg`,
      title: "Norm speed against dimension",
      note:
        "Bytes read and written per second, tensors of 16 MiB. A run of onnxruntime-web copies its operand in and its " +
        "result out, as every use of it does.",
      panels: [
        panel(
          "Norms, GB/s",
          norms.map(({ method, width, gigabytesPerSecond }) => ({
            method,
            length: width,
            y: gigabytesPerSecond,
          })),
          { labels: NUMBERS, xTitle: "dimension (log scale)" },
        ),
      ],
    },
    {
      file: `${backend}-generation.svg`,
      title: "Generation throughput against context",
      note:
        "One sequence, token by token, after so many tokens of context. The model with softmax attention reads the keys and " +
        "values of all of them at every token; its cache was filled with noise.",
      panels: [panel("Tokens per second", speed(generation), { labels: NUMBERS })],
    },
    {
      file: `${backend}-training.svg`,
      title: "Training speed against sequence length",
      note: "Whole steps: forward, backward, clipping and AdamW; the same number of tokens in each.",
      panels: [panel("Tokens per second", speed(training), { labels: NUMBERS })],
    },
  ];
}

function goalTable(goals: readonly GoalRow[]): string {
  return table(
    ["what", ":measured", ":goal", "kept"],
    goals.map(({ what, unit, goal, most, value }) => [
      what,
      `${value.toFixed(unit === "×" ? 2 : 0)} ${unit}`,
      `${most ? "≤" : "≥"} ${goal} ${unit}`,
      keeps(value, goal, most) ? "yes" : "no",
    ]),
  );
}

function kernelTable(kernels: readonly KernelRow[]): string {
  const isCeiling = ({ name }: { name: string }) => name.startsWith("ceiling");
  return table(
    ["what", ":time", ":rate", ":tokens/s", ":of the ceiling", "compared with"],
    kernels.map(({ what, seconds, tokensPerSecond, rate, comparisons }) => {
      const ceiling = comparisons.find(isCeiling);
      return [
        what,
        duration(seconds),
        rate === undefined ? "" : `${significant(rate.value)} ${rate.unit}`,
        Math.round(tokensPerSecond).toLocaleString("en"),
        ceiling === undefined ? "" : `${(100 * ceiling.ratio).toFixed(0)} %`,
        comparisons.filter((one) => !isCeiling(one))
          .map(({ name, ratio }) => `${name.split(",")[0]} ${significant(ratio)}×`).join("; "),
      ];
    }),
  );
}

function lengthTable(lengths: readonly LengthPoint[]): string {
  const columns = [...new Set(lengths.map(({ method, pass }) => `${method}, ${pass}`))];
  const rows = [...new Set(lengths.map(({ length }) => length))].sort((a, b) => a - b);
  return table(
    [":tokens", ...columns.map((column) => `:${column}`)],
    rows.map((length) => [
      length.toLocaleString("en"),
      ...columns.map((column) => {
        const point = lengths.find((one) => one.length === length && `${one.method}, ${one.pass}` === column);
        return point === undefined
          ? ""
          : `${duration(point.seconds)}, ${Math.round(point.bytes / 2 ** 20)} MiB`;
      }),
    ]),
  );
}

function speedTable(points: readonly SpeedPoint[], what: string): string {
  return table(
    ["method", `:${what}`, ":tokens/s", ":over the shortest"],
    points.map(({ method, length, tokensPerSecond }) => {
      const first = points.find((point) => point.method === method)!;
      const share = (100 * tokensPerSecond / first.tokensPerSecond).toFixed(0);
      return [
        method,
        length.toLocaleString("en"),
        Math.round(tokensPerSecond).toLocaleString("en"),
        `${share} %`,
      ];
    }),
  );
}

function describe({ cpu, cores, gibibytes, os }: Report["machine"]): string {
  return `${cpu}, ${cores} cores, ${gibibytes} GiB, ${os}`;
}

function describeVersions(versions: Report["versions"]): string {
  return Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ");
}

function facts(rows: (readonly [string, string])[]): string {
  return rows.map(([name, value]) => `* ${name}: ${value}`).join("\n");
}

/** A Markdown table; columns whose title begins with a colon are of numbers. */
function table(titles: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [
    line(titles.map((title) => title.replace(/^:/, ""))),
    line(titles.map((title) => title.startsWith(":") ? "--:" : "---")),
    ...rows.map(line),
  ].join("\n");
}

function duration(seconds: number): string {
  if (seconds >= 1) return `${significant(seconds)} s`;
  return seconds >= 1e-3 ? `${significant(1e3 * seconds)} ms` : `${significant(1e6 * seconds)} µs`;
}

function significant(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
