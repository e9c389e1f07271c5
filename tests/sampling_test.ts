import assert from "node:assert/strict";
import fc from "fast-check";
import { parseConfig } from "../model/config.ts";
import { Decoding, StopText } from "../model/decoding.ts";
import { Tokenizer } from "../model/mod.ts";
import { byteLevelJson, SMALL } from "./reference_model.ts";
import { Sampler, type SamplingOptions } from "../model/mod.ts";
import { argmax, logSumExp } from "../model/sampling.ts";
import { assertClose } from "./harness.ts";

const LOGITS = Float32Array.of(1, 3, 2, -1, 3, 0);
const PROBABILITIES = [...LOGITS].map((x) => Math.exp(x) / [...LOGITS].reduce((s, y) => s + Math.exp(y), 0));

/** How often each token comes in `count` draws. */
function frequencies(options: SamplingOptions, logits: Float32Array = LOGITS, count = 20_000): number[] {
  const sampler = new Sampler({ seed: 1, ...options });
  const seen = new Array(logits.length).fill(0);
  for (let i = 0; i < count; i++) seen[sampler.choose(logits).token]++;
  return seen.map((times) => times / count);
}

/** Holds frequencies to probabilities, at five standard deviations. */
function assertFrequencies(actual: number[], weights: number[], count = 20_000): void {
  const total = weights.reduce((a, b) => a + b);
  weights.forEach((weight, token) => {
    const p = weight / total;
    const limit = 5 * Math.sqrt(p * (1 - p) / count);
    if (!(Math.abs(actual[token] - p) <= limit)) assert.fail(`token ${token}: ${actual[token]} for ${p}`);
  });
}

Deno.test("temperature 0 takes the likeliest, of equal ones the first", () => {
  const sampler = new Sampler({ temperature: 0 });
  assert.equal(sampler.choose(LOGITS).token, 1);
  assert.equal(argmax([-Infinity, -5, -5]), 1);
});

Deno.test("logprob is that of the model, whatever the filters", () => {
  for (
    const options of [{ temperature: 0 }, { temperature: 3, topK: 2, seed: 5 }, { repetitionPenalty: 2 }]
  ) {
    const sampler = new Sampler(options);
    sampler.observe([1]);
    const { token, logprob } = sampler.choose(LOGITS);
    assertClose([logprob], [Math.log(PROBABILITIES[token])], 1e-6);
  }
  assertClose([logSumExp([1000, 1000], "test")], [1000 + Math.log(2)], 1e-12);
});

Deno.test("draws follow the distribution", () => {
  assertFrequencies(frequencies({}), PROBABILITIES);
  assertFrequencies(frequencies({ temperature: 2.5 }), [...LOGITS].map((x) => Math.exp(x / 2.5)));
  assertFrequencies(frequencies({ topK: 3 }), PROBABILITIES.map((p, i) => [1, 2, 4].includes(i) ? p : 0));
  assertFrequencies(frequencies({ topK: 1 }), [0, 1, 0, 0, 0, 0]); // of two equal ones the first
  assertFrequencies(frequencies({ topP: 0.5 }), [0, 1, 0, 0, 1, 0]);
  assertFrequencies(frequencies({ topP: 1e-9 }), [0, 1, 0, 0, 0, 0]);
  assertFrequencies(frequencies({ topP: 0.85 }), PROBABILITIES.map((p, i) => [1, 2, 4].includes(i) ? p : 0));
  assertFrequencies(
    frequencies({ minP: 0.1 }),
    PROBABILITIES.map((p) => p >= 0.1 * PROBABILITIES[1] ? p : 0),
  );
  assertFrequencies(frequencies({ minP: 1 }), [0, 1, 0, 0, 1, 0]);
  assertFrequencies(frequencies({ temperature: 1e-300 }), [0, 1, 0, 0, 1, 0]);
  assertFrequencies(frequencies({}, Float32Array.of(-Infinity, 0, -Infinity)), [0, 1, 0]);
});

Deno.test("filters keep what their definitions say", () => {
  const options = fc.record({
    temperature: fc.double({ min: 0.1, max: 4, noNaN: true }),
    topK: fc.integer({ min: 1, max: 12 }),
    topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
    minP: fc.double({ min: 0, max: 1, noNaN: true }),
    seed: fc.integer(),
  });
  // Quarters: logits are equal or clearly different.
  const logits = fc.array(fc.integer({ min: -32, max: 32 }).map((x) => x / 4), {
    minLength: 1,
    maxLength: 12,
  });
  fc.assert(fc.property(options, logits, (options, values) => {
    const { temperature, topK, topP, minP } = options;
    const weights = values.map((x) => Math.exp(x / temperature));
    const order = weights.map((_, i) => i).sort((a, b) => weights[b] - weights[a] || a - b).slice(0, topK);
    const total = order.reduce((sum, i) => sum + weights[i], 0);
    let before = 0;
    const kept = order.filter((i) => {
      const keep = before < topP * total * (1 + 1e-9);
      before += weights[i];
      return keep;
    }).filter((i) => weights[i] >= minP * weights[order[0]] * (1 - 1e-9));
    const sampler = new Sampler(options);
    for (let i = 0; i < 5; i++) {
      const { token } = sampler.choose(Float32Array.from(values));
      assert(kept.includes(token), `${token} is not among ${kept}`);
    }
  }));
});

Deno.test("the repetition penalty counts the prompt and what was chosen", () => {
  const sampler = new Sampler({ temperature: 0, repetitionPenalty: 2 });
  sampler.observe([1]);
  const chosen = Array.from({ length: 4 }, () => sampler.choose(LOGITS).token);
  assert.deepEqual(chosen, [4, 2, 1, 1]); // 3/2 and 3/2 remain above 2/2 = 1 and 1
  const negative = new Sampler({ temperature: 0, repetitionPenalty: 2 });
  negative.observe([0]);
  assert.equal(negative.choose(Float32Array.of(-1, -1.5)).token, 1); // −1 · 2 < −1.5
});

Deno.test("the same seed gives the same choices, another seed others", () => {
  const draw = (seed: number) => {
    const sampler = new Sampler({ seed });
    return Array.from({ length: 40 }, () => sampler.choose(LOGITS).token).join();
  };
  assert.equal(draw(7), draw(7));
  const all = [0, 1, -1, 7, 2 ** 32, 2 ** 32 + 7, -(2 ** 53 - 1), 2 ** 53 - 1].map(draw);
  assert.equal(new Set(all).size, all.length);
});

Deno.test("options out of range, logits that are none", () => {
  const cases: [options: unknown, name: string, message: RegExp][] = [
    [{ temperature: -1 }, "RangeError", /temperature must be a finite number >= 0: current value is -1/],
    [{ temperature: NaN }, "RangeError", /temperature/],
    [{ temperature: "1" }, "TypeError", /temperature must be a number: current value is "1"/],
    [{ topK: 0 }, "RangeError", /topK must be an integer >= 1/],
    [{ topK: 1.5 }, "RangeError", /topK/],
    [{ topP: 0 }, "RangeError", /topP must be above 0 and at most 1/],
    [{ topP: 1.1 }, "RangeError", /topP/],
    [{ minP: -0.1 }, "RangeError", /minP must be from 0 to 1/],
    [{ minP: NaN }, "RangeError", /minP/],
    [{ repetitionPenalty: 0 }, "RangeError", /repetitionPenalty must be a finite number > 0/],
    [{ seed: 0.5 }, "RangeError", /seed must be an integer/],
    [{ seed: null }, "TypeError", /seed must be a number/],
  ];
  for (const [options, name, message] of cases) {
    assert.throws(() => new Sampler(options as SamplingOptions), (error: Error) => {
      assert.equal(error.name, name);
      assert.match(error.message, message);
      return true;
    });
  }
  for (const temperature of [0, 1]) {
    const sampler = new Sampler({ temperature });
    for (const logits of [[1, NaN], [Infinity, 0], [-Infinity, -Infinity], []]) {
      assert.throws(() => sampler.choose(Float32Array.from(logits)), { name: "RangeError" });
    }
    assert.throws(() => sampler.choose(Float32Array.of(0, NaN)), {
      message: "Cannot run Sampler as logits must be numbers below Infinity: current value is NaN (token 1)",
    });
  }
});

Deno.test("stop strings: nothing of them leaves, nothing before them stays", () => {
  const letters = fc.constantFrom("a", "b", "ä");
  const word = (minLength: number, maxLength: number) =>
    fc.array(letters, { minLength, maxLength }).map((x) => x.join(""));
  fc.assert(
    fc.property(
      fc.array(word(0, 4), { maxLength: 12 }),
      fc.array(word(1, 4), { maxLength: 3 }),
      (parts, stops) => {
        const whole = parts.join("");
        // The stop that a reader of the growing text notices first, and of those the one that begins first.
        let expected = whole, stopped = false;
        let grown = "";
        for (const part of parts) {
          grown += part;
          const at = stops.map((stop) => grown.indexOf(stop)).filter((index) => index >= 0);
          if (at.length > 0) {
            expected = grown.slice(0, Math.min(...at));
            stopped = true;
            break;
          }
        }
        const text = new StopText(stops);
        let out = "";
        for (const part of parts) {
          out += text.push(part);
          assert(expected.startsWith(out), "text that belongs to a stop string left");
          if (text.stopped) break;
        }
        assert.equal(text.stopped, stopped);
        assert.equal(out + text.end(), expected);
      },
    ),
    { numRuns: 500 },
  );
});

Deno.test("an answer: tokens, text, what comes before it, and how it ends", async () => {
  const tokenizer = await Tokenizer.create(byteLevelJson());
  const config = parseConfig({ ...SMALL, vocab_size: 263, eos_token_id: 261 });
  const model = { config, tokenizer, sampling: { temperature: 0, repetitionPenalty: 2 } };
  const logits = (id: number, value = 9) =>
    Float32Array.from({ length: 263 }, (_, i) => i === id ? value : 0);
  const answer = new Decoding(model, [0x61], { before: [0xe2], maxTokens: 5 });
  assert.deepEqual([answer.tokens, answer.length], [0, 0]);
  // Half a character before an "a" is lost there; the one that the answer begins is whole with its last byte.
  assert.equal(answer.next(logits(0x62)).text, "b");
  assert.equal(answer.next(logits(0xe2)).text, "");
  assert.equal(answer.next(logits(0x82)).text, "");
  assert.deepEqual([answer.tokens, answer.length], [3, 1]);
  const { text, finish } = answer.next(logits(0xac), true);
  assert.deepEqual([text, finish, answer.tokens, answer.length], ["€", "stop", 4, 2]);

  const continued = new Decoding(model, [0x82], { before: [0x61, 0xe2] });
  assert.equal(continued.next(logits(0xac)).text, "€", "half a character of earlier turns");
  assert.deepEqual(
    { ...continued.next(logits(261)), logprob: 0 },
    { token: 261, text: "", logprob: 0, finish: "eos" },
  );

  // Defaults of the model count where nothing is given, `undefined` included.
  const penalized = new Decoding(model, [7], { topK: undefined, repetitionPenalty: undefined });
  assert.notEqual(
    penalized.next(Float32Array.from({ length: 263 }, (_, i) => i === 7 ? 3 : i === 8 ? 2 : 0)).token,
    7,
  );
  const given = new Decoding(model, [7], { repetitionPenalty: 1 });
  assert.equal(
    given.next(Float32Array.from({ length: 263 }, (_, i) => i === 7 ? 3 : i === 8 ? 2 : 0)).token,
    7,
  );

  const cut = new Decoding(model, [0x61], { maxTokens: 1 });
  assert.deepEqual({ ...cut.next(logits(0xe2)), logprob: 0 }, {
    token: 0xe2,
    text: "\ufffd",
    logprob: 0,
    finish: "length",
  });
  const stopped = new Decoding(model, [0x61], { stop: ["bc", "<|end|>"], maxTokens: 9 });
  assert.deepEqual([0x64, 0x62, 0x63].map((id) => stopped.next(logits(id)).text), ["d", "", ""]);
});
