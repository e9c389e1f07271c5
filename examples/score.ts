/**
 * How likely a model finds a text, on the command line.
 *
 *     deno task score --model <folder, URL or id> "The state of the" " Union"     log-likelihood of the second after the first
 *     deno task score --model <folder, URL or id> --file book.txt                 perplexity
 *
 * @module
 */
import {
  backendOption,
  cli,
  command,
  downloadLine,
  groupOption,
  location,
  path,
  pipedText,
  UsageError,
  weightsOption,
  write,
} from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";

const score = command(
  "score",
  "The log-likelihood of a continuation after a context, or the perplexity of a text.",
)
  .argument("[context]")
  .argument("[continuation]")
  .requiredOption("--model <folder, URL or id>", "the model", location)
  .option(
    "--file <text>",
    'a text, in place of context and continuation; "-": what is piped into the command',
    (file) => file === "-" ? file : path(file),
  )
  .option("--ids", "context and continuation are token ids, such as 5,17,9")
  .addOption(backendOption())
  .addOption(weightsOption())
  .addOption(groupOption())
  .action(async (context, continuation, { model: from, file, ids, backend: prefer, weights, group }) => {
    // All that a person can get wrong is read before the model.
    const parts = [context, continuation].filter((part) => part !== undefined);
    if (parts.length !== (file === undefined ? 2 : 0)) {
      throw new UsageError("either context and continuation or --file must be given");
    }
    const [first, second] = ids ? parts.map(tokenIds) : parts;
    const whole = file === undefined
      ? undefined
      : file === "-"
      ? await pipedText()
      : await Deno.readTextFile(file);

    using backend = await createBackend({ prefer });
    using model = await TransNormerLLM.load(from, { backend, weights, group, onDownload: downloadLine() });
    const start = performance.now();
    const result = whole === undefined ? await model.loglikelihood(first, second) : {
      perplexity: await model.perplexity(whole),
      characters: whole.length,
      seconds: (performance.now() - start) / 1000,
    };
    write(`${JSON.stringify(result)}\n`);
  });

function tokenIds(part: string): number[] {
  if (!/^\d+(,\d+)*$/.test(part)) {
    throw new UsageError(`with --ids context and continuation must be ids, such as 5,17,9, not '${part}'`);
  }
  return part.split(",").map(Number);
}

await cli(score);
