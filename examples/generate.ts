/**
 * Text from a model on the command line, as it is generated.
 *
 *     deno task generate "The state of the Union is"
 *     echo "The state of the Union is" | deno task generate --no-echo
 *     deno task generate --model tests/golden/tnl --ids 205,7,19 --temperature 0
 *
 * @module
 */
import {
  backendOption,
  cli,
  command,
  downloadLine,
  groupOption,
  integer,
  interruption,
  items,
  location,
  number,
  pipedText,
  several,
  text,
  UsageError,
  weightsOption,
  write,
} from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";

const generate = command("generate", "Text from a model, as it is generated.")
  .argument("[prompt...]", '"-", or none: what is piped into the command')
  .option("--model <folder, URL or id>", "default: the model that the project ships, models/sotu", location)
  .option("--ids <5,17,9>", "token ids instead of a prompt", items(integer(0, 2 ** 32 - 1)))
  .option("--max-tokens <n>", "at most so many tokens", integer(0), 256)
  .option(
    "--temperature <x>",
    "0: always the likeliest token (default: what generation_config.json says, else 0.8)",
    number("of at least 0", (x) => x >= 0),
  )
  .option("--top-k <n>", "only the n likeliest tokens", integer(1))
  .option(
    "--top-p <x>",
    "only the likeliest tokens that together are as probable as this",
    number("above 0 and at most 1", (x) => x > 0 && x <= 1),
  )
  .option(
    "--min-p <x>",
    "only tokens that are, compared with the likeliest, as probable as this",
    number("from 0 to 1", (x) => x >= 0 && x <= 1),
  )
  .option(
    "--repetition-penalty <x>",
    "above 1: tokens that came before become less likely",
    number("above 0", (x) => x > 0),
  )
  .option("--seed <n>", "the same seed gives the same text", integer(Number.MIN_SAFE_INTEGER))
  .option("--stop <text>", "end before this text; may be repeated", several(text))
  .option("--no-echo", "only what is generated, without the prompt")
  .addOption(backendOption())
  .addOption(weightsOption())
  .addOption(groupOption())
  .action(async (words, { model: from, ids, echo, backend: prefer, weights, group, ...options }) => {
    if (ids !== undefined && words.length > 0) throw new UsageError("--ids takes the place of a prompt");
    const isPiped = words.length === 0 ? !Deno.stdin.isTerminal() : words.join() === "-";
    const prompt = ids ?? (isPiped ? await pipedText() : words.join(" "));
    if (prompt.length === 0) throw new UsageError("a prompt is missing");

    const signal = interruption(); // Ctrl-C ends the generation, not the report.
    using backend = await createBackend({ prefer, signal });
    using model = await TransNormerLLM.load(from ?? new URL("../models/sotu", import.meta.url), {
      backend,
      weights,
      group,
      signal,
      onDownload: downloadLine(),
    });
    console.error(
      `${(model.parameterCount / 1e6).toFixed(1)} M parameters on ${backend.name}: ${backend.info.device}`,
    );

    if (echo && typeof prompt === "string") write(prompt);
    const start = performance.now();
    let first = start, count = 0, finish = "length";
    try {
      const temperature = options.temperature ?? model.sampling.temperature ?? 0.8;
      for await (const item of model.generate(prompt, { ...options, temperature, signal })) {
        if (count++ === 0) first = performance.now();
        write(model.tokenizer === undefined ? `${count === 1 ? "" : " "}${item.token}` : item.text);
        finish = item.finish ?? finish;
      }
    } catch (error) {
      if (error !== signal.reason) throw error;
      finish = "interrupted";
    }
    write("\n");
    const milliseconds = (first - start).toFixed(0), seconds = (performance.now() - first) / 1000;
    console.error(
      `${count} tokens (${finish})` + (count === 0 ? "" : `: the first after ${milliseconds} ms`) +
        (count > 1 ? `, then ${((count - 1) / seconds).toFixed(1)} tokens/s` : ""),
    );
    signal.throwIfAborted();
  });

await cli(generate);
