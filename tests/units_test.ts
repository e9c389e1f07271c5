/**
 * Matrix units: that they are used where an adapter grants them and was asked to, and nowhere else; and the tests of
 * operations on them, in a process of Dawn.
 *
 * The software GPU of Debian 12 grants none, that of Mesa 25.2 and later does. `LEVIN_UNITS` names a program that starts
 * another with such a driver: `tests/mesa.sh` makes one.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { linear } from "../core/ops.ts";
import { units } from "../gpu/units/mod.ts";
import { createBackend as createWebgpu } from "../gpu/mod.ts";
import { BackendError, createBackend } from "../mod.ts";
import { countingAdapter, Counts } from "./counting_gpu.ts";

const FEATURES = ["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"];
const MATRIX = { componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 };
const GRANTS = {
  subgroupMinSize: 32,
  subgroupMaxSize: 32,
  subgroupMatrixConfigs: [{ ...MATRIX, resultComponentType: "f16" }, MATRIX, { ...MATRIX, N: 8, K: 8 }],
};

/** A GPU whose adapter says that it has these features, and computes zeros. */
function gpu(features: readonly string[], info: object) {
  const counts = new Counts(), adapter = countingAdapter(counts, { features, info });
  return { counts, gpu: { requestAdapter: () => Promise.resolve(adapter) } };
}

/** Holds a promise to a `BackendError` that says why there is no such backend. */
async function assertUnavailable(promise: Promise<unknown>, why: RegExp): Promise<void> {
  await assert.rejects(promise, (error: Error) => {
    assert(error instanceof BackendError && error.reason === "unavailable", `${error.stack}`);
    assert.match(error.message, why);
    return true;
  });
}

Deno.test(`precision "f16" is what one gets, or an error that says why not`, async () => {
  const cases: [readonly string[], object, RegExp][] = [
    [
      [],
      {},
      /precision is f16 and counts has no matrix units: it does not offer shader-f16, subgroups, chrom/,
    ],
    [FEATURES.slice(0, 2), GRANTS, /does not offer chromium-experimental-subgroup-matrix/],
    [FEATURES, {}, /its subgroups have undefined to undefined threads/],
    [FEATURES, { ...GRANTS, subgroupMinSize: 16 }, /its subgroups have 16 to 32 threads/],
    [FEATURES, { ...GRANTS, subgroupMatrixConfigs: [] }, /none of its matrices is f16 with sums in f32/],
    [FEATURES, { ...GRANTS, subgroupMatrixConfigs: [{ ...MATRIX, K: 4 }] }, /none of its matrices/],
  ];
  for (const [features, info, why] of cases) {
    for (const prefer of ["auto", "webgpu"] as const) {
      const fake = gpu(features, info);
      await assertUnavailable(createBackend({ prefer, gpu: fake.gpu, precision: "f16" }), why);
      assert.deepEqual(fake.counts, new Counts(), "no device was requested");
    }
  }
  await assert.rejects(
    createBackend({ precision: "f8" as never }),
    /^RangeError: Cannot run createBackend as precision must be "f32" or "f16": current value is "f8"/,
  );
  await assert.rejects(
    createBackend({ prefer: "wasm", precision: "f16" }),
    /^RangeError: .* precision must be "f32" on WebAssembly: current value is "f16"/,
  );
  const { gpu: granting } = gpu(FEATURES, GRANTS);
  await assertUnavailable(
    createWebgpu({ gpu: granting, precision: "f16" }),
    /the units of @levin\/attention\/webgpu\/units were not passed/,
  );
});

Deno.test("units that compute wrong are caught by the self-test", async () => {
  const { gpu: zeros, counts } = gpu(FEATURES, GRANTS);
  const why = /self-test disagrees .* off by 1, relative \(units: f16 → f32 16×16×16\)/;
  await assertUnavailable(createBackend({ gpu: zeros, precision: "f16" }), why);
  assert(FEATURES.every((feature) => counts.features.includes(feature)));
});

Deno.test("without being asked for, units are neither requested nor compiled", async () => {
  const { gpu: granting, counts } = gpu(FEATURES, GRANTS);
  using backend = await createBackend({ prefer: "webgpu", gpu: granting });
  assert.equal(backend.info.units, "f32");
  using x = backend.zeros([200, 64]), y = linear(x, x);
  await y.data();
  assert.deepEqual(counts.features, ["shader-f16"]);
  assert(counts.shaders.length > 0 && !counts.shaders.some((code) => /subgroup/.test(code)));
});

Deno.test("with units few rows stay on the kernels of f32, many go to matrices", async () => {
  const { gpu: granting, counts } = gpu(FEATURES, GRANTS);
  using backend = await createWebgpu({ gpu: granting, precision: "f16", units });
  assert.equal(backend.info.units, "f16 → f32 16×16×16");
  using few = backend.zeros([64, 64]), many = backend.zeros([65, 64]);
  linear(few, many).dispose();
  assert(!counts.shaders.some((code) => /subgroup/.test(code)));
  linear(many, few).dispose();
  assert(counts.shaders.some((code) => /^enable f16;\nenable subgroups;/.test(code)));
});

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const prefix = Deno.env.get("LEVIN_UNITS");
const program = prefix === undefined ? [Deno.execPath()] : [prefix, Deno.execPath()];

/** Runs Deno with the driver that has units. */
async function deno(args: string[]): Promise<{ success: boolean; output: string }> {
  const { success, stdout, stderr } = await new Deno.Command(program[0], {
    args: [...program.slice(1), ...args],
    cwd: ROOT,
    env: { LEVIN_BACKENDS: "webgpu-f16", NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { success, output: decoder.decode(stdout) + decoder.decode(stderr) };
}

/** What Dawn's adapter grants here, as a sentence; undefined: matrices. */
async function lacking(): Promise<string | undefined> {
  const code = `
    const { dawn } = await import(${JSON.stringify(new URL("../cli/dawn.ts", import.meta.url).href)});
    const { matricesOf } = await import(${
    JSON.stringify(new URL("../gpu/units/matrices.ts", import.meta.url).href)
  });
    const gpu = globalThis.kept = await dawn(), adapter = await gpu.requestAdapter();
    const matrices = adapter === null ? "Dawn finds no adapter" : matricesOf(adapter);
    console.log("found " + JSON.stringify(matrices));
    Deno.exit();`;
  const { output } = await deno(["eval", "--lock=deno.lock", "--frozen", code]);
  const found = /^found (.*)$/m.exec(output);
  if (found === null) return `Dawn does not start: ${output.trim().split("\n").at(-1)}`;
  const matrices = JSON.parse(found[1]);
  return typeof matrices === "string" ? matrices : undefined;
}

const lack = await lacking();
assert(prefix === undefined || lack === undefined, `LEVIN_UNITS=${prefix} grants no matrix units: ${lack}`);

// Tests whose products are large enough for units, and what is for units alone.
for (
  const [file, filter] of [
    ["precision_test.ts", "products"],
    ["ops_test.ts", "linear"],
    ["gradients_test.ts", "linearBackward"],
    // (Software takes minutes to compile kernels of large heads.)
    ["lightning_test.ts", "/lightningAttention: [^l]/"],
    ["lightningBackward_test.ts", "/lightningAttentionBackward: [^l]/"],
    ["backward_test.ts", "authors"],
  ]
) {
  Deno.test({
    name: `${file} on matrix units` +
      (lack === undefined ? "" : ` (ignored: no adapter here grants matrix units: ${lack})`),
    ignore: lack !== undefined,
    fn: async () => {
      const { output } = await deno(
        ["test", "--lock=deno.lock", "--frozen", "-A", "--no-check", `--filter=${filter}`, `tests/${file}`],
      );
      // Not the exit status: a driver in the same process may fail when the process ends, after all tests.
      assert.match(output, /^ok \| [1-9]\d* passed .*\| 0 failed/m, output);
    },
  });
}
