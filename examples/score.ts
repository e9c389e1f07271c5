/**
 * How likely a model finds a text, on the command line.
 *
 *     deno task score --model <folder or URL> "The state of the" " Union"     log-likelihood of the second after the first
 *     deno task score --model <folder or URL> --file book.txt                 perplexity
 *
 * @module
 */
import { parseArgs } from "node:util";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { localPath } from "../train/path.ts";

const USAGE = `Usage: deno task score --model <folder or URL> "context" "continuation"
       deno task score --model <folder or URL> --file <text>

  --ids             context and continuation are token ids, such as 5,17,9
  --backend auto    auto, webgpu or wasm
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: "string" },
    file: { type: "string" },
    ids: { type: "boolean" },
    backend: { type: "string", default: "auto" },
    help: { type: "boolean", short: "h" },
  },
});
if (values.help || values.model === undefined || positionals.length !== (values.file === undefined ? 2 : 0)) {
  console.error(USAGE);
  Deno.exit(values.help ? 0 : 2);
}

using backend = await createBackend({ prefer: values.backend as "auto" });
using model = await TransNormerLLM.load(values.model, { backend });
if (values.file !== undefined) {
  const text = await Deno.readTextFile(localPath(values.file));
  const start = performance.now();
  const perplexity = await model.perplexity(text);
  const seconds = (performance.now() - start) / 1000;
  console.log(JSON.stringify({ perplexity, characters: text.length, seconds }));
} else {
  const parse = (text: string) => values.ids ? text.split(",").map(Number) : text;
  const [context, continuation] = positionals.map(parse);
  console.log(JSON.stringify(await model.loglikelihood(context, continuation)));
}
