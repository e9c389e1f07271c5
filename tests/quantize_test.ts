import fc from "fast-check";
import assert from "node:assert/strict";
import { Backend, createBackend, dequantize, lightningAttention, quantize } from "../mod.ts";
import { embedding, linear, norm } from "../core/ops.ts";
import { createMachine } from "../gpu/machine.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { convertModel } from "../train/convert.ts";
import { inFolder } from "./folder.ts";
import {
  assertClose,
  assertSameBits,
  eachBackend,
  poison,
  randomArray,
  relativeError,
  Scope,
  WITHOUT_WEBGPU,
} from "./harness.ts";
import * as reference from "./reference.ts";

const LIMIT = 2e-6;
const FORMATS = ([8, 4] as const).flatMap((bits) => ([32, 64] as const).map((group) => ({ bits, group })));

Deno.test("quantize: the nearest integers, with scales that leave little", () => {
  // RMS error over RMS of uniform and of normal numbers, as rounding to n levels of the largest of a group gives it.
  for (
    const [distribution, limits] of [["uniform", { 8: 0.0045, 4: 0.075 }], ["normal", {
      8: 0.007,
      4: 0.1,
    }]] as const
  ) {
    const uniform = randomArray([64, 333], 1), more = randomArray([64, 333 * 11], 2);
    const data = distribution === "uniform"
      ? uniform
      : uniform.map((value, i) => value + more.subarray(11 * i, 11 * i + 11).reduce((sum, x) => sum + x));
    for (const format of FORMATS) {
      const weight = quantize(data, [64, 333], format);
      const values = reference.quantizedWeight(weight);
      assert.deepEqual(dequantize(weight), Float32Array.from(values));
      const error = relativeError(values, data);
      assert(
        error <= limits[format.bits] && error > 1e-3,
        `${distribution} ${JSON.stringify(format)}: ${error}`,
      );
    }
  }
});

Deno.test("quantize: zeros, tiny and large numbers; integers stay as they are", () => {
  for (const format of FORMATS) {
    for (const scale of [0, 1e-42, 1e-30, 1, 1e30, 3e38]) {
      const data = Float32Array.from(
        { length: 2 * 70 },
        (_, i) => scale * (i % (format.bits === 8 ? 255 : 15) - (format.bits === 8 ? 127 : 7)) / 127,
      );
      const values = reference.quantizedWeight(quantize(data, [2, 70], format));
      assert(values.every(Number.isFinite), `${scale}`);
      if (scale >= 1e-30) assertClose(values, data, format.bits === 8 ? 0.005 : 0.1, `${scale}`);
    }
    assert.equal(quantize(new Float32Array(0), [0, 5], format).values.length, 0);
    assert.equal(quantize(new Float32Array(0), [5, 0], format).scales.length, 0);
  }
  const integers = Float32Array.from({ length: 64 }, (_, i) => i % 16 - 8);
  assert.deepEqual(dequantize(quantize(integers, [1, 64], { bits: 4 })), integers);
});

Deno.test("quantize: what does not fit is refused", () => {
  const data = new Float32Array(6);
  assert.throws(() => quantize([1] as never, [1, 1], { bits: 8 }), /data must be a Float32Array/);
  assert.throws(
    () => quantize(data, [2, 3], { bits: 5 as never }),
    /bits must be 8 or 4: current value is 5/,
  );
  assert.throws(() => quantize(data, [2, 3], { bits: 4, group: 16 as never }), /group must be 32 or 64/);
  assert.throws(() => quantize(data, [6], { bits: 4 }), /shape must be \[out, in\]/);
  assert.throws(() => quantize(data, [2, 4], { bits: 4 }), /data must hold 8 elements/);
  data[4] = NaN;
  assert.throws(
    () => quantize(data, [2, 3], { bits: 4 }),
    /data must be finite: current value is NaN \(row 1\)/,
  );
});

/** Holds linear to float64: on WASM with the rounded rows that it documents, on WebGPU with x as it is. */
async function checkLinear(
  backend: Backend,
  [rows, inDim, outDim]: readonly [number, number, number],
  format: typeof FORMATS[number],
  extras: { bias?: boolean; residual?: boolean } = {},
): Promise<void> {
  using scope = new Scope();
  const what = `linear ${rows} × ${inDim} → ${outDim} ${JSON.stringify({ ...format, ...extras })}`;
  const weight = quantize(randomArray([outDim, inDim], 2), [outDim, inDim], format);
  const x = randomArray([rows, inDim], 1);
  const bias = extras.bias ? randomArray([outDim], 3) : undefined;
  const residual = extras.residual ? randomArray([rows, outDim], 4) : undefined;
  const tw = scope.keep(backend.quantized(weight));
  const tx = scope.keep(backend.tensor(x, [rows, inDim]));
  poison(backend, [rows, outDim]);
  const y = scope.keep(linear(tx, tw, {
    bias: bias && scope.keep(backend.tensor(bias, [outDim])),
    residual: residual && scope.keep(backend.tensor(residual, [rows, outDim])),
  }));
  assert.deepEqual(y.shape, [rows, outDim]);
  const plain = reference.quantizedWeight(weight);
  const actual = await y.data();
  const exact = reference.linear(x, plain, [rows, inDim, outDim], bias, residual);
  if (backend.name === "webgpu") return assertClose(actual, exact, LIMIT, what);
  const rounded = reference.roundedRows(x, inDim, format);
  assertClose(actual, reference.linear(rounded, plain, [rows, inDim, outDim], bias, residual), LIMIT, what);
  // And compared with what rounding the weight costs, 0.4 and 8 %, rounding x costs little. The mean of few outputs says
  // nothing, as their terms may cancel.
  if (inDim >= 32 && rows * outDim >= 16) assertClose(actual, exact, format.bits === 8 ? 4e-5 : 8e-3, what);
}

eachBackend("quantised linear: any shape, bias and residual", async (backend) => {
  for (const format of FORMATS) {
    for (
      const shape of [
        [0, 40, 5],
        [1, 96, 21],
        [1, 1, 1],
        [1, 256, 8],
        [2, 33, 7],
        [3, 65, 16],
        [5, 127, 9],
        [17, 64, 70],
        [21, 130, 12],
        [4, 8, 0],
      ] as const
    ) await checkLinear(backend, shape, format, { bias: true, residual: true });
    await checkLinear(backend, [3, 0, 4], format);
  }
  const size = fc.integer({ min: 1, max: 100 });
  await fc.assert(
    fc.asyncProperty(
      size,
      size,
      size,
      fc.constantFrom(...FORMATS),
      fc.boolean(),
      fc.boolean(),
      (rows, inDim, outDim, format, bias, residual) =>
        checkLinear(backend, [rows, inDim, outDim], format, { bias, residual }),
    ),
    { numRuns: 25 },
  );
});

Deno.test({
  name: "quantised linear: weights split where a binding holds little (webgpu)",
  ignore: WITHOUT_WEBGPU,
  fn: async () => {
    for (const limits of [{ windowBytes: 8192, workgroups: 7 }, { windowBytes: 3072, workgroups: 3 }]) {
      using backend = new Backend(await createMachine({}, "asked for by the test", { limits }));
      for (const format of FORMATS) {
        await checkLinear(backend, [1, 130, 150], format, { bias: true });
        await checkLinear(backend, [7, 64, 70], format, { residual: true });
        await checkLinear(backend, [20, 96, 33], format);
      }
      assert.equal(backend.bytesInUse, 0);
    }
  },
});

eachBackend("quantised linear: the largest integers do not overflow", async (backend) => {
  using scope = new Scope();
  const x = new Float32Array(5 * 128).fill(-3), tx = scope.keep(backend.tensor(x, [5, 128]));
  for (const { bits, group } of FORMATS) {
    for (const byte of bits === 8 ? [0x7f, 0x81] : [0x00, 0xff]) { // 127 and −127, −8 and 7
      const values = new Uint8Array(9 * 128 * bits / 8).fill(byte);
      const scales = new Uint16Array(9 * 128 / group).fill(0x3f80); // 1
      const weight = { shape: [9, 128], bits, group, values, scales };
      const expected = reference.linear(x, reference.quantizedWeight(weight), [5, 128, 9]);
      const y = scope.keep(linear(tx, scope.keep(backend.quantized(weight))));
      assertClose(await y.data(), expected, LIMIT, `${bits} bits, groups of ${group}`);
    }
  }
});

eachBackend("quantised linear: rows in any magnitude; NaN shows in its row alone", async (backend) => {
  using scope = new Scope();
  const inDim = 100, outDim = 10, magnitudes = [1, 1e-20, 1e20, 0, NaN];
  const x = Float32Array.from(
    randomArray([magnitudes.length, inDim], 1),
    (value, i) => value * magnitudes[Math.floor(i / inDim)],
  );
  for (const format of FORMATS) {
    const weight = quantize(randomArray([outDim, inDim], 2), [outDim, inDim], format);
    const plain = reference.quantizedWeight(weight);
    const y = scope.keep(
      linear(
        scope.keep(backend.tensor(x, [magnitudes.length, inDim])),
        scope.keep(backend.quantized(weight)),
      ),
    );
    const data = await y.data();
    magnitudes.forEach((magnitude, row) => {
      const actual = data.subarray(row * outDim, (row + 1) * outDim);
      if (Number.isNaN(magnitude)) return assert(actual.every(Number.isNaN), `${actual}`);
      const own = x.subarray(row * inDim, (row + 1) * inDim);
      const rounded = backend.name === "webgpu" ? own : reference.roundedRows(own, inDim, format);
      const expected = reference.linear(rounded, plain, [1, inDim, outDim]);
      const unit = magnitude || 1;
      assertClose(
        actual.map((y) => y / unit),
        expected.map((y) => y / unit),
        LIMIT,
        `magnitude ${magnitude}`,
      );
    });
  }
});

eachBackend("quantised linear: a row's bits do not depend on the other rows, nor change", async (backend) => {
  // Beyond 16 rows WebGPU dequantises the weight first: another order of sums.
  using scope = new Scope();
  for (const format of FORMATS) {
    const weight = scope.keep(backend.quantized(quantize(randomArray([530, 513], 2), [530, 513], format)));
    const x = randomArray([15, 513], 1);
    const all = await scope.keep(linear(scope.keep(backend.tensor(x, [15, 513])), weight)).data();
    for (const row of [0, 3, 4, 14]) {
      const one = scope.keep(backend.tensor(x.slice(row * 513, (row + 1) * 513), [1, 513]));
      const own = await scope.keep(linear(one, weight)).data();
      assertSameBits(own, all.slice(row * 530, (row + 1) * 530));
    }
    assertSameBits(await scope.keep(linear(scope.keep(backend.tensor(x, [15, 513])), weight)).data(), all);
  }
});

eachBackend("quantised embedding, and the elements of a quantised weight", async (backend) => {
  using scope = new Scope();
  for (const format of FORMATS) {
    for (const dim of [1, 32, 77, 128]) {
      const table = quantize(randomArray([21, dim], 1), [21, dim], format);
      const tensor = scope.keep(backend.quantized(table));
      assert.deepEqual(tensor.quantization, format);
      assert.deepEqual(await tensor.data(), dequantize(table));
      const ids = [20, 0, 7, 7, 13];
      const rows = await scope.keep(embedding(tensor, ids, { scale: 3 })).data();
      const plain = reference.quantizedWeight(table);
      assertClose(
        rows,
        ids.flatMap((id) => [...plain.subarray(id * dim, (id + 1) * dim)].map((w) => 3 * w)),
        1e-7,
      );
    }
  }
});

eachBackend("quantised weights go nowhere else; damaged ones are refused", (backend) => {
  using scope = new Scope();
  const weight = quantize(randomArray([8, 64], 1), [8, 64], { bits: 4 });
  const tensor = scope.keep(backend.quantized(weight));
  const x = scope.keep(backend.tensor(randomArray([8, 64], 2), [8, 64]));
  assert.throws(
    () => norm(tensor),
    /^TypeError: Cannot run norm as x must not be quantised: current value is "4 bits"/,
  );
  assert.throws(() => linear(tensor, x), /x must not be quantised/);
  assert.throws(() => linear(x, x, { residual: tensor }), /residual must not be quantised/);
  assert.throws(() => lightningAttention(tensor, tensor, tensor), /must not be quantised/);
  assert.throws(() => tensor.reshape([64, 8]), /a quantised weight keeps its shape/);
  assert.throws(
    () => backend.write(tensor, new Float32Array(512)),
    /Cannot run write as tensor must not be quantised/,
  );
  assert.throws(() => backend.quantized(undefined as never), /weight must be a QuantizedWeight/);
  assert.throws(
    () => backend.quantized({ ...weight, values: weight.values.slice(1) }),
    /values must hold 256 bytes/,
  );
  assert.throws(() => backend.quantized({ ...weight, scales: new Uint16Array(3) }), /scales must hold 16/);
  assert.throws(() => backend.quantized({ ...weight, group: 64 }), /scales must hold 8/);
});

const GOLDEN = "tests/golden/tnl";

eachBackend("quantised models: logits near those of the weights that they stand for", async (backend) => {
  await inFolder(async (folder) => {
    using plain = await TransNormerLLM.load(GOLDEN, { backend });
    const ids = [[3, 200, 17, 9, 64, 11]];
    using logits = plain.forward(ids);
    const expected = await logits.data();
    for (const [bits, limit] of [[8, 0.03], [4, 0.35]] as const) {
      const out = `${folder}/int${bits}`;
      const seen: string[] = [];
      await convertModel(GOLDEN, out, { weights: `int${bits}`, onProgress: (name) => seen.push(name) });
      assert.equal(
        seen.length,
        plain.weights.layers.length * 5 + 3,
        "every tensor is reported, θ of one layer too",
      );
      using model = await TransNormerLLM.load(out, { backend });
      assert.deepEqual(model.config.quantization, { bits, group: 32 });
      assert.deepEqual(model.weights.layers[0].l1.weight.quantization, { bits, group: 32 });
      assert.deepEqual(model.weights.embedTokens.quantization, { bits: 8, group: 32 });
      assert.equal(model.parameterCount, plain.parameterCount);
      using quantised = model.forward(ids);
      const actual = await quantised.data();
      const error = relativeError(actual, expected);
      assert(error <= limit && error > 1e-4, `int${bits}: RMS-relative error of the logits ${error}`);

      // Token by token as in one pass, and from a snapshot; never into another model.
      using session = model.session();
      for (const id of ids[0].slice(0, -1)) session.step(id).dispose();
      const snapshot = await session.snapshot();
      using restored = model.restore(snapshot);
      using last = restored.step(ids[0].at(-1)!);
      assertClose(await last.data(), actual.subarray(-256), bits === 8 ? 1e-3 : 3e-2, "token by token");
      assert.throws(() => plain.restore(snapshot), /the snapshot must be of this model/);
    }
  });
});

Deno.test("quantised models: what does not fit together is refused", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  await inFolder(async (folder) => {
    const out = `${folder}/model`;
    await convertModel(GOLDEN, out, { weights: "int4", group: 64 });
    await assert.rejects(
      convertModel(GOLDEN, out, { weights: "int8" }),
      /the folder to write to must not exist/,
    );
    await assert.rejects(
      convertModel(out, `${folder}/again`, { weights: "int8" }),
      /the model must not be quantised/,
    );
    assert.deepEqual(
      [...Deno.readDirSync(folder)].map(({ name }) => name),
      ["model"],
      "nothing is left behind",
    );

    const config = JSON.parse(await Deno.readTextFile(`${out}/config.json`));
    const withConfig = async (quantization_config: unknown, expected: RegExp) => {
      await Deno.writeTextFile(`${out}/config.json`, JSON.stringify({ ...config, quantization_config }));
      await assert.rejects(TransNormerLLM.load(out, { backend }), expected);
    };
    await withConfig(undefined, /the dtype of .* must be F32, F16 or BF16|the shape of/);
    await withConfig({ ...config.quantization_config, group_size: 32 }, /the shape of .*scales/);
    await withConfig({ ...config.quantization_config, version: 2 }, /quant_method "levin" and version 1/);
    await withConfig({ quant_method: "gptq" }, /quant_method "levin" and version 1: current value is "gptq/);
    await Deno.writeTextFile(`${out}/config.json`, JSON.stringify(config));

    const file = new TextDecoder("latin1").decode(await Deno.readFile(`${out}/model.safetensors`));
    const lacking = file.replace("lm_head.weight.scales", "lm_head.weight.scalez");
    await Deno.writeFile(`${out}/model.safetensors`, Uint8Array.from(lacking, (c) => c.charCodeAt(0)));
    await assert.rejects(
      TransNormerLLM.load(out, { backend }),
      /"lm_head.weight" must come with its scales: current value is "integers alone"/,
    );
    assert.equal(backend.bytesInUse, 0);
  });
});
