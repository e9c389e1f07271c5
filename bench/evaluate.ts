/**
 * A model on a text, by the length of context: loss, bits per byte, tokens per second; compared with a baseline, another
 * model or a report that was kept. It ends with 1 where the model is worse than it may be.
 *
 *     deno task evaluate --model <folder, URL or id> --data <text> [--lengths 1K,8K,64K]
 *       [--baseline <model or report.json>] [--max-loss 1%] [--max-slowdown 10%] [--json <file>] [--svg <file>]
 *
 * @module
 */
import { mkdir, writeFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import {
  backendOption,
  cli,
  command,
  downloadLine,
  Failure,
  groupOption,
  integer,
  interruption,
  items,
  location,
  path,
  percent,
  several,
  StatusLine,
  threads,
  tokens,
  UsageError,
  weightsOption,
  write,
} from "../cli/mod.ts";
import { message, rangeError } from "../core/errors.ts";
import { createBackend } from "../mod.ts";
import type { Backend } from "../core/tensor.ts";
import { type LoadOptions, TransNormerLLM } from "../model/mod.ts";
import { SOTU } from "../train/data.ts";
import {
  type EvaluationText,
  type EvaluationTokens,
  evaluationTokens,
  lossAt,
  readEvaluationText,
  speedsAt,
} from "./measure/evaluation.ts";
import {
  compare,
  type Evaluation,
  isSameMachine,
  plot,
  readReport,
  regressions,
  type Report,
  shortLength,
  table,
} from "./report/evaluation.ts";

/** Lengths where none are given: those of them that the text has. */
const LENGTHS = [2 ** 10, 2 ** 13, 2 ** 16];
const MAX_LOSS = 0.01, MAX_SLOWDOWN = 0.1;

/** A model that is evaluated. */
interface Side {
  readonly from: string;
  readonly model: TransNormerLLM;
  readonly tokens: EvaluationTokens;
}

await cli(
  command("evaluate", "Loss and speed of a model on a text, by the length of context.")
    .requiredOption("--model <folder, URL or id>", "the model", location)
    .requiredOption(
      "--data <path>",
      'text, a folder of .txt and .md files, or what is held out of "sotu"; may be given several times',
      several((name) => name === SOTU ? name : path(name)),
    )
    .option("--held-out", "of files and folders, too, only what training on them holds out")
    .option("--bytes <n>", "of the text, no more than the first so many bytes", integer(1))
    .option(
      "--lengths <tokens>",
      "of windows, such as 1K,8K,64K (default: these, or those of a report that is the baseline)",
      items(tokens),
    )
    .option("--baseline <model or report>", "what --json has written, or another model", location)
    .option("--max-loss <percent>", "how many more bits per byte than the baseline (default: 1%)", percent)
    .option("--max-slowdown <percent>", "how many fewer tokens per second (default: 10%)", percent)
    .option("--repeats <n>", "turns of measuring speed; 0: only the loss", integer(0), 5)
    .option("--json <file>", "where the report goes", path)
    .option("--svg <file>", "where a plot goes", path)
    .addOption(backendOption())
    .option("--threads <n>", 'of WASM; "auto": one per core', threads, "auto")
    .addOption(weightsOption())
    .addOption(groupOption())
    .action(async (options) => {
      const { model: from, data, baseline: other, maxLoss, maxSlowdown, repeats, weights, group } = options;
      if (other === undefined && (maxLoss ?? maxSlowdown) !== undefined) {
        throw new UsageError("--max-loss and --max-slowdown need a --baseline");
      }
      if (maxSlowdown !== undefined && repeats === 0) {
        throw new UsageError("--max-slowdown needs at least one of --repeats");
      }
      const stop = interruption(), status = new StatusLine();
      // All that a person can get wrong is read before the models.
      const kept = other !== undefined && await isReport(other) ? await readReport(other) : undefined;
      for (const file of [options.json, options.svg]) {
        if (file !== undefined) await mkdir(dirname(file), { recursive: true });
      }
      const text = await readEvaluationText(data, { heldOut: options.heldOut, bytes: options.bytes });
      let report: Report;
      try {
        using backend = await createBackend({ prefer: options.backend, threads: options.threads });
        const load = async (from: string, options: LoadOptions) => {
          const onDownload = downloadLine(status);
          return await TransNormerLLM.load(from, { ...options, backend, onDownload, signal: stop });
        };
        using model = await load(from, { weights, group });
        using rival = other === undefined || kept !== undefined ? undefined : await load(other, {});
        const sides = [{ from, model, tokens: evaluationTokens(model, text, from) }];
        if (rival !== undefined) {
          sides.push({ from: other!, model: rival, tokens: evaluationTokens(rival, text, other!) });
        }
        const lengths = lengthsThatFit(sides, options.lengths, kept);
        const [current, measured] = await evaluateAll(sides, { text, data, lengths, repeats, stop, status });
        const baseline = kept ?? measured;
        if (baseline !== undefined && maxSlowdown !== undefined) checkTimed(current, baseline);
        const comparison = baseline && compare(current, baseline, { inTurns: kept === undefined });
        const limits = { maxLoss: maxLoss ?? MAX_LOSS, maxSlowdown: maxSlowdown ?? MAX_SLOWDOWN };
        report = {
          ...current,
          ...comparison && { baseline, comparison, regressions: regressions(comparison, limits) },
        };
      } finally {
        status.end();
      }
      if (options.json !== undefined) {
        await writeFile(options.json, `${JSON.stringify(report, undefined, 2)}\n`);
      }
      if (options.svg !== undefined) await writeFile(options.svg, `${await plot(report)}\n`);
      write(`${heading(report)}\n\n${table(report)}`);
      const { regressions: worse = [] } = report;
      if (worse.length > 0) throw new Failure(`a regression: ${worse.join("; ")}`);
    }),
);

/** Whether a baseline is a file, which a model is not. */
async function isReport(baseline: string): Promise<boolean> {
  try {
    return (await Deno.stat(baseline)).isFile;
  } catch {
    return false; // a URL, an id, or nothing: loading says what is wrong
  }
}

/** The lengths to evaluate. Of those that nobody asked for, only what the text has. */
function lengthsThatFit(
  sides: readonly Side[],
  asked: readonly number[] | undefined,
  kept: Evaluation | undefined,
): number[] {
  const most = Math.min(...sides.map(({ tokens }) => tokens.ids.length - 1));
  const wanted = asked ?? kept?.lengths.map(({ length }) => length);
  const tooLong = wanted?.find((length) => length > most);
  if (tooLong !== undefined) {
    rangeError("evaluate", `lengths must be at most ${most}, the tokens of data to predict`, tooLong);
  }
  const lengths = wanted ?? LENGTHS.filter((length) => length <= most);
  if (lengths.length === 0) {
    const least = `at least ${shortLength(LENGTHS[0])} tokens to predict, or lengths must be given`;
    rangeError("evaluate", `data must have ${least}`, most);
  }
  return [...new Set(lengths)].sort((a, b) => a - b);
}

/** Speeds that are to be compared must be there, and of one machine. */
function checkTimed(current: Evaluation, baseline: Evaluation): void {
  const isTimed = baseline.lengths.every(({ read }) => read !== undefined);
  if (isTimed && isSameMachine(current, baseline)) return;
  const { name, device, threads, cores, os } = baseline.backend;
  throw new RangeError(message(
    "evaluate",
    "a report must hold speeds of the same device to limit a slowdown",
    isTimed ? `${name}, ${device}, ${threads} threads, ${cores} cores, ${os}` : "no speeds",
  ));
}

/** Measures all models at all lengths. */
async function evaluateAll(
  sides: readonly Side[],
  { text, data, lengths, repeats, stop, status }: {
    text: EvaluationText;
    data: readonly string[];
    lengths: readonly number[];
    repeats: number;
    stop: AbortSignal;
    status: StatusLine;
  },
): Promise<Evaluation[]> {
  const found = sides.map((): Evaluation["lengths"] => []);
  // Tokens that are read stand for time.
  const total = lengths.reduce(
    (sum, length) =>
      sum + sides.reduce((sum, { tokens }) => sum + tokens.ids.length - 1 + repeats * length, 0),
    0,
  );
  let done = 0;
  const advance = (what: string) => (tokens: number) => {
    done += tokens;
    status.draw(`${(100 * done / total).toFixed(0).padStart(3)} %  ${what}`);
  };
  for (const length of lengths) {
    const at = shortLength(length);
    const losses = [];
    for (const { from, model, tokens } of sides) {
      const onTokens = advance(`loss at ${at}: ${nameOf(from)}`);
      losses.push(await lossAt(model, tokens, length, { onTokens, signal: stop }));
    }
    const advanced = advance(`speed at ${at}`), onTurn = () => advanced(length);
    const speeds = repeats === 0 ? [] : await speedsAt(sides, length, { repeats, onTurn, signal: stop });
    for (const [i, loss] of losses.entries()) found[i].push({ length, ...loss, ...speeds[i] });
  }
  return sides.map(({ from, model }, i) => ({
    format: "levin evaluation 1",
    model: nameOf(from),
    fingerprint: model.fingerprint,
    parameters: model.parameterCount,
    weights: model.weights.layers[0].qkvuProj.weight.dtype,
    backend: about(model.backend),
    date: new Date().toISOString().slice(0, 10),
    data: {
      sources: data.map(nameOf),
      documents: text.documents.length,
      bytes: text.bytes,
      sha256: text.sha256,
    },
    lengths: found[i],
  }));
}

/** A model or a text by a name that means something elsewhere, too: of a path the last part. */
function nameOf(from: string): string {
  return /^[a-z][a-z0-9+.-]+:/i.test(from) ? from : basename(from);
}

function about({ name, info: { device, threads } }: Backend): Evaluation["backend"] {
  return {
    name,
    device,
    threads,
    cores: navigator.hardwareConcurrency,
    os: `${Deno.build.os} ${Deno.build.arch}`,
    runtime: navigator.userAgent,
  };
}

function heading(report: Report): string {
  const of = ({ model, weights }: Evaluation) => `${model}, ${weights}`;
  const { name, device, threads } = report.backend, { baseline } = report;
  const against = baseline === undefined ? "" : `, compared with ${of(baseline)}`;
  const isUntimed = baseline !== undefined && !isSameMachine(report, baseline);
  return `${of(report)}${against}: ${report.data.sources.join(", ")}, ${report.data.bytes} bytes; ` +
    `${name}, ${device}, threads: ${threads}` +
    (isUntimed ? "\nThe baseline's speeds are of another device, and not compared." : "");
}
