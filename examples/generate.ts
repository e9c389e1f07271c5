/**
 * Text from a model on the command line, as it is generated.
 *
 *     deno task generate "The state of the Union is"
 *     deno task generate --model tests/golden/tnl --ids 205,7,19 --temperature 0
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";

const USAGE = `Usage: deno task generate [options] "prompt"

  --model <folder or URL>   default: the model that the project ships, models/sotu
  --ids 5,17,9              token ids instead of a prompt
  --max-tokens 256          at most so many tokens
  --temperature 0.8         0: always the likeliest token; default: what the model's generation_config.json says, else 0.8
  --top-k, --top-p, --min-p, --repetition-penalty, --seed
  --stop "text"             end before this text; several times for several
  --backend auto            auto, webgpu or wasm
`;

const { values, positionals } = parseArgs({
  args: Deno.args,
  allowPositionals: true,
  options: {
    "model": { type: "string", default: fileURLToPath(new URL("../models/sotu", import.meta.url)) },
    "ids": { type: "string" },
    "max-tokens": { type: "string", default: "256" },
    "temperature": { type: "string" },
    "top-k": { type: "string" },
    "top-p": { type: "string" },
    "min-p": { type: "string" },
    "repetition-penalty": { type: "string" },
    "seed": { type: "string" },
    "stop": { type: "string", multiple: true },
    "backend": { type: "string", default: "auto" },
    "help": { type: "boolean", short: "h" },
  },
});
const number = (text: string | undefined) => text === undefined ? undefined : Number(text);
const prompt = values.ids?.split(",").map(Number) ?? positionals.join(" ");
if (values.help || prompt.length === 0) {
  console.error(USAGE);
  Deno.exit(values.help ? 0 : 2);
}

// Ctrl-C ends the generation, not the report.
const interrupt = new AbortController();
Deno.addSignalListener("SIGINT", () => interrupt.abort(new DOMException("interrupted", "AbortError")));

using backend = await createBackend({ prefer: values.backend as "auto" });
using model = await TransNormerLLM.load(values.model, { backend, signal: interrupt.signal });
console.error(
  `${(model.parameterCount / 1e6).toFixed(1)} M parameters on ${backend.name}: ${backend.info.device}`,
);

const write = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(text));
if (typeof prompt === "string") write(prompt);
const start = performance.now();
let first = start, count = 0, finish: string | undefined;
try {
  for await (
    const item of model.generate(prompt, {
      maxTokens: number(values["max-tokens"]),
      temperature: number(values.temperature) ?? model.sampling.temperature ?? 0.8,
      topK: number(values["top-k"]),
      topP: number(values["top-p"]),
      minP: number(values["min-p"]),
      repetitionPenalty: number(values["repetition-penalty"]),
      seed: number(values.seed),
      stop: values.stop,
      signal: interrupt.signal,
    })
  ) {
    if (count++ === 0) first = performance.now();
    write(model.tokenizer === undefined ? `${count === 1 ? "" : " "}${item.token}` : item.text);
    finish = item.finish;
  }
} catch (error) {
  if (!interrupt.signal.aborted) throw error;
  finish = "interrupted";
}
write("\n");
const seconds = (performance.now() - first) / 1000;
console.error(
  `${count} tokens (${finish}): the first after ${(first - start).toFixed(0)} ms, then ` +
    `${count > 1 ? ((count - 1) / seconds).toFixed(1) : "no more"} tokens/s`,
);
