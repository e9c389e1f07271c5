/**
 * Weights in their own precision: bf16 gives the bits that the same values give as f32, whatever the sizes.
 */
import assert from "node:assert/strict";
import { Backend, type Tensor } from "../mod.ts";
import { fromBfloat16s, toBfloat16s } from "../core/bfloat16.ts";
import { embedding, linear } from "../core/ops.ts";
import { elementCount } from "../core/shape.ts";
import { createMachine } from "../gpu/machine.ts";
import { parseConfig } from "../model/config.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { mapWeights } from "../model/weights.ts";
import {
  assertClose,
  assertSameBits,
  eachBackend,
  poison,
  randomArray,
  Scope,
  WITHOUT_WEBGPU,
} from "./harness.ts";
import * as reference from "./reference.ts";
import { randomTensors, referenceLogits, rounded, SMALL, type Tensors } from "./reference_model.ts";

/** Registers the body for every backend that stores bf16. */
function eachWithBfloat16(name: string, body: (backend: Backend) => Promise<void>): void {
  eachBackend(name, async (backend) => {
    if (backend.machine.dtypes.includes("bf16")) await body(backend);
  });
}

/** The same values twice: as bits of bf16, and as f32. */
function weights(scope: Scope, backend: Backend, shape: readonly number[], seed: number) {
  const bits = toBfloat16s(randomArray(shape, seed)), values = fromBfloat16s(bits);
  return {
    values,
    packed: scope.keep(backend.tensor(bits, shape, { dtype: "bf16" })),
    plain: scope.keep(backend.tensor(values, shape)),
  };
}

async function checkLinear(
  backend: Backend,
  [rows, inDim, outDim]: readonly [number, number, number],
  extras = false,
): Promise<void> {
  using scope = new Scope();
  const what = `linear ${rows} × ${inDim} → ${outDim}`;
  const { values, packed, plain } = weights(scope, backend, [outDim, inDim], inDim);
  const x = randomArray([rows, inDim], 1), tx = scope.keep(backend.tensor(x, [rows, inDim]));
  const bias = extras ? randomArray([outDim], 2) : undefined;
  const residual = extras ? randomArray([rows, outDim], 3) : undefined;
  const options = {
    bias: bias && scope.keep(backend.tensor(bias, [outDim])),
    residual: residual && scope.keep(backend.tensor(residual, [rows, outDim])),
  };
  poison(backend, [rows, outDim], [rows, outDim]);
  const actual = await scope.keep(linear(tx, packed, options)).data();
  assertSameBits(actual, await scope.keep(linear(tx, plain, options)).data(), what);
  assertClose(actual, reference.linear(x, values, [rows, inDim, outDim], bias, residual), 2e-6, what);
}

eachWithBfloat16("linear: a weight of bf16 gives the bits of f32, in any number of rows", async (backend) => {
  for (const rows of [1, 2, 5, 17, 64, 65, 200]) {
    for (
      const [inDim, outDim] of [[1, 1], [2, 3], [7, 5], [12, 9], [63, 66], [64, 64], [100, 36], [130, 31]]
    ) {
      await checkLinear(backend, [rows, inDim, outDim], (inDim + outDim) % 2 === 0);
    }
  }
  for (const rows of [1, 4, 70]) await checkLinear(backend, [rows, 2056, 20]); // all threads share a column
});

eachWithBfloat16("embedding: a table of bf16 gives its elements", async (backend) => {
  for (const width of [1, 2, 7, 64, 129]) {
    for (const count of [1, 2, 5, 17, 64, 65, 200]) {
      using scope = new Scope();
      const { packed, plain } = weights(scope, backend, [33, width], width);
      const ids = Array.from({ length: count }, (_, i) => (i * 7 + 32) % 33);
      poison(backend, [count, width], [count, width]);
      for (const scale of [1, Math.sqrt(width)]) {
        const options = { scale, shape: [count] };
        const actual = await scope.keep(embedding(packed, ids, options)).data();
        const expected = await scope.keep(embedding(plain, ids, options)).data();
        assertSameBits(actual, expected, `${count} rows of ${width}`);
      }
    }
  }
});

eachWithBfloat16(
  "bf16 is written and read back, whole and in parts, by bits and by values",
  async (backend) => {
    for (const size of [1, 2, 3, 6, 257]) {
      const bits = toBfloat16s(randomArray([size], size)), values = fromBfloat16s(bits);
      using fromBits = backend.tensor(bits, [size], { dtype: "bf16" });
      using fromValues = backend.tensor(values, [size], { dtype: "bf16" });
      assert.equal(fromBits.dtype, "bf16");
      assertSameBits(await fromBits.data(), values);
      assertSameBits(await fromValues.data(), values);
      for (const start of [0, 2, 4]) {
        if (start > size) continue;
        const part = new Uint16Array(Math.min(2, size - start)).fill(0x3f80);
        values.fill(1, start, start + part.length);
        backend.write(fromBits, part, start);
        assertSameBits(await fromBits.data(), values, `${part.length} of ${size} from ${start}`);
      }
    }
    using nearest = backend.tensor(Float32Array.of(1 + 2 ** -9, 1 + 3 * 2 ** -9, NaN), [3], {
      dtype: "bf16",
    });
    assert.deepEqual([...await nearest.data()], [1, 1 + 2 ** -7, NaN]);
    using zeros = backend.zeros([3, 3], "bf16");
    assert.deepEqual(await zeros.data(), new Float32Array(9));
  },
);

/** A small model over these values, its matrices stored as `dtype`. */
function model(backend: Backend, tensors: Tensors, dtype: "f32" | "bf16"): TransNormerLLM {
  const config = parseConfig({ ...SMALL, model_type: "transnormer" });
  const parameters: Tensor[] = [];
  const weights = mapWeights(config, false, (name, shape) => {
    const { data } = tensors.get(name)!;
    assert.equal(data.length, elementCount(shape), name);
    const isMatrix = shape.length === 2;
    const parameter = backend.tensor(
      Float32Array.from(data),
      shape.length === 3 ? [shape[0], shape[2]] : shape,
      { dtype: isMatrix ? dtype : "f32" },
    );
    parameters.push(parameter);
    return parameter;
  });
  return new TransNormerLLM(backend, {
    config,
    weights,
    parameters,
    tokenizer: undefined,
    fingerprint: `a small model of ${dtype}`,
  });
}

eachWithBfloat16("a whole model of bf16 gives the logits of the same weights as f32", async (backend) => {
  const tensors = rounded(randomTensors(SMALL, 5), "BF16");
  using packed = model(backend, tensors, "bf16"), plain = model(backend, tensors, "f32");
  const ids = Array.from({ length: 80 }, (_, i) => i * 7 % SMALL.vocab_size);
  using read = packed.session(), readPlain = plain.session();
  for (const part of [ids.slice(0, 70), ids.slice(70, 79), ids.slice(79)]) {
    using logits = read.prefill(part), expected = readPlain.prefill(part);
    assertSameBits(await logits.data(), await expected.data(), `${part.length} tokens`);
  }
  using last = read.step(3);
  const exact = referenceLogits(SMALL, tensors, [[...ids, 3]]).subarray(-SMALL.vocab_size);
  assertClose(await last.data(), exact, 1e-4, "logits of a step");
});

for (const windowBytes of [768, 1024, 4096]) {
  Deno.test({
    name: `WebGPU: weights of bf16 that are split where a binding holds ${windowBytes} bytes`,
    ignore: WITHOUT_WEBGPU,
    fn: async () => {
      const limits = { windowBytes, workgroups: 5 };
      using backend = new Backend(await createMachine({}, "asked for by the test", { limits }));
      for (const rows of [1, 5, 70]) {
        for (const [inDim, outDim] of [[24, 70], [16, 130], [9, 50]]) {
          await checkLinear(backend, [rows, inDim, outDim], true);
        }
      }
      using scope = new Scope();
      const { packed, values } = weights(scope, backend, [101, 7], 4);
      const ids = [0, 100, 36, 37, 73, 5];
      const picked = await scope.keep(embedding(packed, ids, { shape: [6] })).data();
      assert.deepEqual([...picked], ids.flatMap((id) => [...values.subarray(id * 7, id * 7 + 7)]));
    },
  });
}
