/**
 * Levin over several processes, started by MPICH's `mpiexec`; what each of them checks is in `distributed_program.ts`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath, pathToFileURL } from "node:url";
import { checkpointPath, findCheckpoints } from "../train/checkpoint.ts";
import { configByName } from "../train/configs.ts";
import { assertClose, WITHOUT_WEBGPU } from "./harness.ts";
import { listening } from "./listening.ts";
import { type RanksRow, renderScaling, speedups } from "../bench/report/ranks.ts";
import { runOnHosts, WITHOUT_HOSTS } from "./hosts.ts";
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
async function run(ranks: number, name: string, backend: string, env: Record<string, string> = {}) {
  const { success, stdout, stderr } = await new Deno.Command(mpiexec!, {
    args: ["-n", String(ranks), ...program(PROGRAM, name, backend)],
    env,
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
    ["prompts", "webgpu", [2]],
    ["gradients", "wasm", [2, 4]],
    ["gradients", "webgpu", [2]],
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

for (const [name, size] of [["messages", 2], ["messages", 4], ["prompts", 2], ["gradients", 4]] as const) {
  const why = WITHOUT_HOSTS === undefined ? "" : `, ignored as this machine has none: ${WITHOUT_HOSTS}`;
  Deno.test({
    name: `${name} over ${size} hosts, which are network namespaces (wasm)${why}`,
    ignore: ignore || WITHOUT_HOSTS !== undefined || !wanted("wasm"),
    fn: async () => {
      const { success, output, errors } = await runOnHosts(mpiexec!, size, program(PROGRAM, name, "wasm"));
      assert(success, errors || output);
      const passed = output.match(/rank \d of \d: \w+ passed/g) ?? [];
      assert.equal(new Set(passed).size, size, output + errors);
    },
  });
}

Deno.test({
  name: "the measurement of ranks keeps its rows and draws them",
  ignore: ignore || !wanted("wasm"),
  fn: async () => {
    const folder = await Deno.makeTempDir();
    try {
      const script = fileURLToPath(new URL("../bench/ranks.ts", import.meta.url));
      const given =
        "--backend wasm --prompts 200,400 --batches 64 --sequences 64 --layers 2 --embed 64 --pass-tokens 100"
          .split(" ");
      const [command, ...args] = program(script, "--out", `${folder}/ranks`, ...given);
      const { success, stderr } = await new Deno.Command(command, { args }).output();
      assert(success, new TextDecoder().decode(stderr));
      const kept = JSON.parse(await Deno.readTextFile(`${folder}/ranks.json`));
      const rows: RanksRow[] = kept.rows;
      const prompts = rows.filter(({ what }) => what === "prefill");
      assert.deepEqual(prompts.map(({ ranks, tokens }) => [ranks, tokens]), [[1, 200], [1, 400], [2, 200], [
        2,
        400,
      ]]);
      // States of 2 layers, once per pass but the last, and with the logits to the other rank.
      const states = 4 * (64 * 128 + 64 * 64), last = states + 4 * 259;
      assert.deepEqual(prompts.map(({ bytes }) => bytes), [0, 0, states + last, 3 * states + last]);
      assert.equal(rows.length, 8);
      assert(rows.every(({ tokensPerSecond }) => tokensPerSecond > 0));
      const svg = await renderScaling(kept);
      assert.equal(await Deno.readTextFile(`${folder}/ranks.svg`), `${svg}\n`);
      for (const title of ["prefill: tokens per second", "prefill: MiB that all send", "2 processes"]) {
        assert(svg.includes(title), title);
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
    // Prompts of the same length; training steps of as many tokens for each process.
    const rows = ["prefill", "training"].flatMap((what) =>
      [[1, 8, 100], [2, 8, 150], [2, 16, 190]].map(
        ([ranks, tokens, tokensPerSecond]): RanksRow => {
          return { what, ranks, tokens, tokensPerSecond, seconds: 1, range: [1, 1], bytes: 0, device: "" };
        },
      )
    );
    assert.deepEqual(speedups(rows), [
      "prefill, 8 tokens: 1.50 × with 2 processes",
      "training, 8 tokens for each: 1.90 × with 2 processes",
    ]);
  },
});

Deno.test({
  name:
    "a message arrives while its sender is blocked, also where processes may not read each other's memory",
  ignore,
  fn: async () => {
    const file = await Deno.makeTempFile();
    try {
      const env = { RECEIVED: file, UCX_TLS: "posix,sysv,self" }; // MPICH's transport without cma
      const { success, errors, output } = await run(2, "blocked", "wasm", env);
      assert(success, errors || output);
    } finally {
      await Deno.remove(file);
    }
  },
});

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

const LAUNCH = fileURLToPath(new URL("../distributed/launch.ts", import.meta.url));
const TRAIN = fileURLToPath(new URL("../train/main.ts", import.meta.url));
const TRAIN_RANKS = fileURLToPath(new URL("../distributed/train.ts", import.meta.url));

/** A folder with a text and a small configuration, gone at the end of the test. */
class Workshop implements AsyncDisposable {
  readonly path: string = Deno.makeTempDirSync({ prefix: "levin ranks " });

  constructor() {
    const line = "All states are small, and each is a sum of what came before. ";
    Deno.writeTextFileSync(`${this.path}/a.txt`, line.repeat(40));
    Deno.writeTextFileSync(`${this.path}/other.txt`, line.repeat(41));
    const sizes = { decoder_embed_dim: 16, decoder_layers: 2, decoder_attention_heads: 2, hidden_dim: 16 };
    const config = { ...configByName("tiny"), ...sizes, glu_dim: 24, linear_use_lrpe_list: [1, 0] };
    Deno.writeTextFileSync(`${this.path}/config.json`, JSON.stringify(config));
  }

  /** Starts a training run with 100 tokens per sequence; with 0 ranks, by `deno task train`. */
  start(ranks: number, out: string, ...more: string[]): Deno.ChildProcess {
    const given = [
      "--data",
      `${this.path}/a.txt`,
      "--config",
      `${this.path}/config.json`,
      "--out",
      this.out(out),
    ];
    const run = "--backend wasm --threads 1 --seq-len 100 --seed 7 --log-every 1 --save-every 4 --warmup 3"
      .split(" ");
    const [command, ...args] = ranks === 0 ? program(TRAIN) : program(TRAIN_RANKS, String(ranks));
    return new Deno.Command(command, {
      args: [...args, ...given, ...run, ...more],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  }

  /** Runs one to its end. */
  async train(ranks: number, out: string, ...more: string[]) {
    const { success, stderr } = await this.start(ranks, out, ...more).output();
    return { success, errors: new TextDecoder().decode(stderr) };
  }

  out(name: string): string {
    return `${this.path}/${name}`;
  }

  /** Losses of all steps that the log of a run holds, and of its evaluations. */
  losses(out: string): number[] {
    const lines = Deno.readTextFileSync(`${this.out(out)}/log.jsonl`).trim().split("\n").map((line) =>
      JSON.parse(line)
    );
    return lines.map(({ loss, heldOutLoss }) => loss ?? heldOutLoss);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

Deno.test({
  name: "several processes train as one does, and with the same bits every time",
  ignore,
  fn: async () => {
    await using workshop = new Workshop();
    const steps = ["--steps", "6", "--accumulate", "2", "--learning-rate", "0.01"];
    const runs = {
      one: await workshop.train(0, "one", "--batch", "4", ...steps),
      two: await workshop.train(2, "two", "--batch", "2", ...steps),
      again: await workshop.train(2, "again", "--batch", "2", ...steps),
      four: await workshop.train(4, "four", "--batch", "1", ...steps),
      parts: await workshop.train(2, "parts", "--batch", "4", "--split", "sequence", ...steps),
      quarters: await workshop.train(4, "quarters", "--batch", "4", "--split", "sequence", ...steps),
    };
    for (const [name, { success, errors }] of Object.entries(runs)) assert(success, `${name}: ${errors}`);
    const one = workshop.losses("one");
    assert.equal(one.length, 7);
    assert(one[5] < one[0] - 0.1, "it learns");
    for (const name of Object.keys(runs)) assertClose(workshop.losses(name), one, 2e-6, name);
    assert.deepEqual(workshop.losses("again"), workshop.losses("two"));
    // The checkpoint is the first process's, and says how many there were.
    const [model, same] = await Promise.all(
      ["two", "again"].map((name) => Deno.readFile(`${workshop.out(name)}/step-000006/model.safetensors`)),
    );
    assert.deepEqual(model, same);
    const { success, errors } = await workshop.train(4, "two", "--resume");
    assert(!success);
    assert.match(errors, /processes must be as in the checkpoint to resume, 2: current value is 4/);
  },
});

Deno.test({
  name: "a training process that is killed ends all with a sentence, and the last checkpoint resumes",
  ignore: ignore || Deno.build.os !== "linux",
  fn: async () => {
    await using workshop = new Workshop();
    /** Trains until a line says that a checkpoint is written, then kills rank 1. */
    const killedAfter = async (line: string, out: string, ...more: string[]) => {
      const process = workshop.start(2, out, "--batch", "2", "--steps", "1000000", ...more);
      const heard = listening(process);
      await heard.line(line);
      const ranks = descendants(process.pid).filter(({ environment }) => "PMI_RANK" in environment);
      assert.deepEqual(ranks.map(({ environment }) => environment.PMI_RANK).sort(), ["0", "1"], heard.log());
      Deno.kill(ranks.find(({ environment }) => environment.PMI_RANK === "1")!.pid, "SIGKILL");
      const { success } = await process.status;
      await heard.done;
      assert(!success);
      assert.match(
        heard.log(),
        /on 2 ranks as one of them ended before its time, and so all did .* --resume/,
      );
      // Those that mpiexec has killed are gone as soon as the system has cleaned up.
      for (const { pid } of ranks) while (isAlive(pid)) await new Promise((next) => setTimeout(next, 5));
    };
    await killedAfter("saved ", "killed");
    const before = (await findCheckpoints(workshop.out("killed"))).at(-1)!;
    await killedAfter("saved ", "killed", "--resume");
    const last = (await findCheckpoints(workshop.out("killed"))).at(-1)!;
    assert(before >= 4 && last > before);
    await killedAfter(`saved ${checkpointPath(workshop.out("whole"), last)}`, "whole");
    assert.deepEqual(workshop.losses("killed").slice(0, last), workshop.losses("whole").slice(0, last));
  },
});

Deno.test({
  name: "processes with other data, lengths or settings all say so, and write nothing",
  ignore,
  fn: async () => {
    await using workshop = new Workshop();
    /** What rank 1 is given in place of, or besides, what rank 0 is given. */
    const differing = async (...other: string[]) => {
      const command = program(TRAIN_RANKS, "2");
      const common = [
        "--config",
        `${workshop.path}/config.json`,
        "--out",
        workshop.out("none"),
        "--backend",
        "wasm",
      ];
      const options = [...command, ...common, "--threads", "1", "--seq-len", "100", "--steps", "2"];
      const data = ["--data", `${workshop.path}/a.txt`];
      const { success, stderr } = await new Deno.Command(mpiexec!, {
        args: [
          "-n",
          "1",
          ...options,
          ...data,
          ":",
          "-n",
          "1",
          ...options,
          ...other.includes("--data") ? [] : data,
          ...other,
        ],
      }).output();
      assert(!success);
      return new TextDecoder().decode(stderr);
    };
    for (
      const [other, name] of [
        [["--data", `${workshop.path}/other.txt`], "data"],
        [["--seq-len", "75"], "seqLen"],
        [["--seed", "8"], "seed"],
        [["--save-every", "8"], "saveEvery"],
        [["--split", "sequence"], "split"],
        [["--config", "tiny"], "config"],
      ] as const
    ) {
      const errors = await differing(...other);
      const sentence = `Cannot run train as all ranks must have the same ${name}: current values are`;
      assert.equal(errors.split(sentence).length - 1, 2, errors);
    }
    const errors = await differing("--data", `${workshop.path}/absent.txt`);
    assert.equal(errors.split("as rank 1 failed: Cannot run train as data must exist").length - 1, 2, errors);
    assert.throws(() => Deno.statSync(`${workshop.out("none")}/step-000002`), Deno.errors.NotFound);
  },
});

Deno.test({
  name: "processes that cannot share the work are told so, and write nothing",
  ignore,
  fn: async () => {
    await using workshop = new Workshop();
    for (
      const [given, sentence] of [
        [
          ["--packed"],
          "Cannot run train as packed must be false with several processes: current value is true",
        ],
        [
          ["--split", "sequence", "--seq-len", "25"],
          "Cannot run train as seqLen must give each of 2 processes a part: current value is 25 (26 does)",
        ],
      ] as const
    ) {
      const { success, errors } = await workshop.train(2, "none", "--batch", "2", "--steps", "2", ...given);
      assert(!success);
      assert(errors.includes(sentence), errors);
      assert.throws(() => Deno.statSync(workshop.out("none")), Deno.errors.NotFound);
    }
  },
});

Deno.test({
  name: "processes with other versions of the library all say so",
  ignore,
  fn: async () => {
    const folder = await Deno.makeTempDir();
    try {
      // Rank 1 reads another deno.json than rank 0, which is where the library has its version from.
      const root = new URL("../", import.meta.url), { version } = JSON.parse(await Deno.readTextFile(CONFIG));
      await Deno.writeTextFile(`${folder}/other.json`, JSON.stringify({ version: "99.0.0" }));
      const { imports } = JSON.parse(await Deno.readTextFile(new URL("imports.json", root)));
      const absolute = Object.entries<string>(imports).map((
        [name, to],
      ) => [name, to.startsWith(".") ? new URL(to, root).href : to]);
      const map = {
        imports: {
          ...Object.fromEntries(absolute),
          [new URL("deno.json", root).href]: pathToFileURL(`${folder}/other.json`).href,
        },
      };
      await Deno.writeTextFile(`${folder}/imports.json`, JSON.stringify(map));
      const [command, ...args] = program(
        "--import-map",
        `${folder}/imports.json`,
        PROGRAM,
        "prompts",
        "wasm",
      );
      const { success, stderr } = await new Deno.Command(mpiexec!, {
        args: ["-n", "1", ...program(PROGRAM, "prompts", "wasm"), ":", "-n", "1", command, ...args],
      }).output();
      const errors = new TextDecoder().decode(stderr);
      assert(!success);
      const sentence = `Cannot run prefill as all ranks must have the same version: current values are ` +
        `"${version}" on rank 0, "99.0.0" on rank 1`;
      assert.equal(errors.split(sentence).length - 1, 2, errors);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

/** Processes that a process has started, and those that they have, with their environment. */
function descendants(of: number): { pid: number; environment: Record<string, string> }[] {
  const parents = new Map<number, number>();
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = Deno.readTextFileSync(`/proc/${name}/stat`);
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      continue; // ended meanwhile
    }
  }
  const isBelow = (pid: number | undefined): boolean =>
    pid !== undefined && (parents.get(pid) === of || isBelow(parents.get(pid)));
  return [...parents.keys()].filter(isBelow).flatMap((pid) => {
    try {
      const variables = Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0");
      return [{
        pid,
        environment: Object.fromEntries(variables.map((one) => one.split(/=(.*)/s).slice(0, 2))),
      }];
    } catch {
      return []; // ended meanwhile
    }
  });
}

/** Whether a process runs: one that has ended and was not waited for does not. */
function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(Deno.readTextFileSync(`/proc/${pid}/stat`));
  } catch {
    return false;
  }
}

const SEES = `
  const seen = Deno.args.map((path) => Deno.statSync(path).isFile ? "own" : "hidden").join(" ");
  console.log(Deno.env.get("PMI_RANK") + ": " + seen);
`;

/** Whether this process may give others mount namespaces. */
function mayUnshare(): boolean {
  try {
    return Deno.uid() === 0 && new Deno.Command("unshare", { args: ["-m", "true"] }).outputSync().success;
  } catch {
    return false;
  }
}

Deno.test({
  name: "the launcher leaves each rank one device",
  ignore: ignore || Deno.build.os !== "linux" || !mayUnshare(),
  fn: async () => {
    const folder = await Deno.makeTempDir();
    try {
      const devices = [0, 1, 2].map((device) => `${folder}/device${device}`);
      for (const device of devices) await Deno.writeTextFile(device, "");
      await Deno.writeTextFile(`${folder}/sees.ts`, SEES);
      const [command, ...args] = program(LAUNCH, "3", "--gpus", `${folder}/sees.ts`, ...devices);
      const env = { LEVIN_DEVICES: `${folder}/device[0-9]` };
      const { stdout, stderr } = await new Deno.Command(command, { args, env }).output();
      const lines = new TextDecoder().decode(stdout).trim().split("\n").sort();
      const expected = ["0: own hidden hidden", "1: hidden own hidden", "2: hidden hidden own"];
      assert.deepEqual(lines, expected, new TextDecoder().decode(stderr));
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
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

Deno.test("without its launcher there is one, too, and nothing is written", async () => {
  await using workshop = new Workshop();
  const [command, ...args] = program(TRAIN_RANKS, "2", "--data", `${workshop.path}/a.txt`, "--out");
  const { code, stderr } = await new Deno.Command(command, {
    args: [...args, workshop.out("none")],
    env: { PATH: workshop.path },
  }).output();
  const sentence =
    "error: Cannot run ranks as MPI must be installed. On Debian and Ubuntu: apt-get install mpich\n";
  assert.deepEqual([code, new TextDecoder().decode(stderr)], [1, sentence]);
  assert.throws(() => Deno.statSync(workshop.out("none")), Deno.errors.NotFound);
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
