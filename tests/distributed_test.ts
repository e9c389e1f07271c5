/**
 * Levin over several processes, started by MPICH's `mpiexec`; what each of them checks is in `distributed_program.ts`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { WITHOUT_WEBGPU } from "./harness.ts";
import { findMpiexec, MAY_LEAVE_OUT } from "./setup.ts";

const PROGRAM = fileURLToPath(new URL("distributed_program.ts", import.meta.url));
const CONFIG = fileURLToPath(new URL("../deno.json", import.meta.url));
const mpiexec = findMpiexec();
const ignore = MAY_LEAVE_OUT && mpiexec === undefined;
const wanted = (backend: string) =>
  (Deno.env.get("LEVIN_BACKENDS")?.split(",") ?? [backend]).includes(backend);

/** Arguments of Deno for a program of a rank. `mpiexec` starts the binary itself: a shell or npx would drop descriptors. */
const program = (
  ...args: string[]
) => [Deno.execPath(), "run", "-A", "--no-lock", "--config", CONFIG, ...args];

/** Starts ranks of the test program, and waits for their end. */
async function run(ranks: number, ...args: string[]) {
  const { success, stdout, stderr } = await new Deno.Command(mpiexec!, {
    args: ["-n", String(ranks), ...program(PROGRAM, ...args)],
  }).output();
  const text = new TextDecoder();
  return { success, output: text.decode(stdout), errors: text.decode(stderr) };
}

for (
  const [name, backend, sizes] of [
    ["messages", "wasm", [2, 4]],
    ["attention", "wasm", [2, 4]],
    ["attention", "webgpu", [2]],
    ["prompts", "wasm", [2, 4]],
  ] as const
) {
  for (const size of sizes) {
    Deno.test({
      name: `${name} over ${size} ranks (${backend})`,
      ignore: ignore || !wanted(backend) || backend === "webgpu" && WITHOUT_WEBGPU,
      fn: async () => {
        const { success, output, errors } = await run(size, name, backend);
        assert(success, errors || output);
        const passed = output.match(/rank \d of \d: \w+ passed/g) ?? [];
        assert.equal(new Set(passed).size, size, output);
      },
    });
  }
}

Deno.test({
  name: "a rank that fails says why and ends the others, which wait for it",
  ignore,
  fn: async () => {
    const { success, errors } = await run(3, "failure", "wasm");
    assert(!success);
    assert.match(errors, /rank 1 of 3 failed and ends all: Cannot run failure as rank 1 must fail/);
  },
});

Deno.test({
  name: "ranks that differ all get the error",
  ignore,
  fn: async () => {
    const { success, errors } = await run(3, "disagreement", "wasm");
    assert(!success);
    const sentences = errors.match(
      /RankError: Cannot run disagreement as all ranks must have the same rank/g,
    );
    assert.equal(sentences?.length, 3, errors);
  },
});

const ONE = `
  import { inRanks } from "@levin/attention/distributed";
  const sum = Float32Array.of(3);
  console.log(await inRanks(async (ranks) => (await ranks.allReduce(sum), [ranks.rank, ranks.size, sum[0]])));
`;

/** Runs a program of the text, alone and with some variables of the environment. */
async function alone(env: Record<string, string>) {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(file, ONE);
  try {
    const [command, ...args] = program(file);
    const { success, stdout, stderr } = await new Deno.Command(command, { args, env }).output();
    const text = new TextDecoder();
    return { success, output: text.decode(stdout), errors: text.decode(stderr) };
  } finally {
    await Deno.remove(file);
  }
}

Deno.test({
  name: "one process alone is rank 0 of 1",
  ignore,
  fn: async () => {
    const { success, output, errors } = await alone({});
    assert(success, errors);
    assert.match(output, /\[ 0, 1, 3 \]/);
  },
});

Deno.test("without MPI there is a sentence that names the package", async () => {
  const { success, errors } = await alone({ LEVIN_MPI: "libmissing.so.1" });
  assert(!success);
  assert.match(errors, /RankError: Cannot run ranks as MPI's library must be installed: .*libmissing\.so\.1/);
  assert.match(errors, /apt-get install mpich/);
});

Deno.test({
  name: "a library that is not the launcher's is refused, instead of so many processes of rank 0",
  ignore,
  fn: async () => {
    const { success, errors } = await alone({ OMPI_COMM_WORLD_SIZE: "2", LEVIN_MPI: "libmpich.so.12" });
    assert(!success);
    assert.match(errors, /must be that of the launcher, which started 2 processes: current value is 1/);
  },
});
