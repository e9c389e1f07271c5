/**
 * EleutherAI's lm-evaluation-harness itself against the server with the shipped model: likelihoods, rolling likelihoods
 * and generated text must be the model's.
 *
 *     deno task test:harness [<python with lm-eval>]
 *
 * Not a part of `deno task test`, as it needs Python with `lm-eval` installed, which nothing here installs.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cli, command, UsageError } from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { createHandler } from "../serve/mod.ts";

const PAIRS = [
  ["The state of the Union is", " strong"],
  ["The state of the Union is", " zebra"],
  ["My fellow", " Americans"],
  ["Mr. Speaker, Mr. Vice President, Members of", " Congress"],
];
const TEXTS = ["The state of the Union is strong. ", "Let us"], UNTIL = ["."], TOKENS = 40;
/** Sums of f32 log-probabilities, in another order. */
const LIMIT = 1e-4;

await cli(
  command("test:harness", "EleutherAI's harness itself against the server.")
    .argument("[python]", "a Python that has lm-eval", "python3")
    .action(compare),
);

async function compare(python: string): Promise<void> {
  const found = await new Deno.Command(python, { args: ["-c", "import lm_eval"], stderr: "null" }).output()
    .catch(() => undefined);
  if (!found?.success) {
    throw new UsageError(
      `${python} cannot import lm_eval: pip install "lm-eval[api]", or name another Python`,
    );
  }

  using backend = await createBackend({ prefer: "wasm" });
  using model = await TransNormerLLM.load(new URL("../models/sotu", import.meta.url), { backend });
  const handler = createHandler({ model });
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, handler);
  const { success, stdout } = await new Deno.Command(python, {
    args: [
      fileURLToPath(new URL("./lm_harness.py", import.meta.url)),
      `http://127.0.0.1:${server.addr.port}/v1/completions`,
      JSON.stringify({ pairs: PAIRS, texts: TEXTS, until: UNTIL, tokens: TOKENS }),
    ],
    stderr: "inherit",
  }).output();
  assert(success, "the harness failed");
  const answers = JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").at(-1)!);

  // Its tokenizer adds no special tokens to what it asks for.
  const encode = (text: string) => model.tokenizer!.encode(text, { addSpecialTokens: false });
  for (const [i, [context, continuation]] of PAIRS.entries()) {
    const before = encode(context), all = encode(context + continuation);
    const expected = await model.loglikelihood(before, all.slice(before.length));
    const [logprob, greedy] = answers.loglikelihood[i];
    assert(Math.abs(logprob - expected.logprob) <= LIMIT, `${logprob} is not ${expected.logprob}`);
    assert.equal(greedy, expected.greedy);
  }
  for (const [i, text] of TEXTS.entries()) {
    // Rolling likelihoods begin with the token that begins a text, which is in the model's own encoding.
    const expected = -Math.log(await model.perplexity(text)) * (model.tokenizer!.encode(text).length - 1);
    assert(Math.abs(answers.rolling[i] - expected) <= LIMIT, `${answers.rolling[i]} is not ${expected}`);
    let generated = "";
    for await (const token of model.generate(encode(text), { temperature: 0, maxTokens: TOKENS })) {
      generated += token.text;
    }
    assert.equal(answers.generated[i], generated.split(UNTIL[0])[0]);
  }
  console.log(`lm-eval and the model agree on ${PAIRS.length} pairs and ${TEXTS.length} texts`);
}
