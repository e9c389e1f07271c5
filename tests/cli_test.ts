/** The commands as processes: what they take, how they tell what is wrong, and how they end. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { inFolder } from "./folder.ts";
import { silentHost } from "./listening.ts";
import { textFiles } from "./serve_setup.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** The scripts of all tasks that run one: what Deno is started with, the script last. */
const COMMANDS: Readonly<Record<string, readonly string[]>> = Object.fromEntries(
  Object.entries<{ command: string }>(JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`)).tasks)
    .flatMap(([name, { command }]) => {
      // What the shell puts there is the cache of models from the hub; these tests have none.
      const bare = command.replace(/"\$\(.*?\)"/, "no-cache").replaceAll('"', "");
      const words = bare.split(" "), script = words.at(-1)!;
      if (words[0] !== "deno" || words[1] !== "run" || words.includes("&&")) return [];
      const flags = words.slice(1, -1).map((word) => word.replace(/^--lock=/, `--lock=${ROOT}`));
      return [[name, [...flags, "--no-check", ROOT + script]]];
    }),
);

interface Surroundings {
  cwd?: string;
  env?: Record<string, string>;
  /** What is piped into the command. */
  stdin?: string;
}

function spawn(
  name: string,
  args: readonly string[],
  { cwd = ROOT, env, stdin }: Surroundings = {},
): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: [...COMMANDS[name], ...args],
    cwd,
    env: { INIT_CWD: cwd, ...env },
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function run(name: string, args: readonly string[], around: Surroundings = {}) {
  const process = spawn(name, args, around);
  if (around.stdin !== undefined) await new Response(around.stdin).body!.pipeTo(process.stdin);
  const { code, stdout, stderr } = await process.output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

/** Holds a run to one line on stderr, nothing on stdout, and a status. */
async function assertTold(
  status: number,
  line: RegExp,
  name: string,
  args: readonly string[],
  around?: Surroundings,
) {
  const { code, out, err } = await run(name, args, around);
  const what = `${name} ${args.join(" ")}: ${err}`;
  assert.match(err, line, what);
  assert.match(err, /^error: [^\n]*\n$/, what);
  assert.equal(code, status, what);
  assert.equal(out, "", what);
}

/** A folder that holds a model, `model/`. */
async function withModel(body: (folder: string) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    await Deno.mkdir(`${folder}/model`);
    for (const [name, bytes] of Object.entries(textFiles())) {
      await Deno.writeFile(`${folder}/model/${name}`, bytes);
    }
    await body(folder);
  });
}

const ON_SOTU = ["--data", "sotu", "--model"] as const;

const QUICK = ["--backend", "wasm", "--temperature", "0", "--max-tokens", "8"];

Deno.test("every command says on stdout what it takes, without colours", async () => {
  const names = Object.keys(COMMANDS);
  for (
    const name of ["generate", "score", "serve", "train", "convert", "demo", "build", "package", "attack"]
  ) {
    assert(names.includes(name));
  }
  for (const name of names) {
    const source = await Deno.readTextFile(COMMANDS[name].at(-1)!);
    assert.match(source, /\bawait cli\(/, name);
    assert.doesNotMatch(source, /\bparseArgs\b|\bDeno\.args(?!\.filter|\.join| \}\))/, name);
    const { code, out, err } = await run(name, ["--help"], {
      env: { FORCE_COLOR: "1" },
    });
    assert.equal(code, 0, err);
    assert.equal(err, "");
    assert(out.startsWith(`Usage: deno task ${name} `), out);
    assert(!out.includes("\x1b"), out);
  }
});

Deno.test("of every command: a typo is told in a line that names the nearest option", async () => {
  for (const name of Object.keys(COMMANDS)) {
    await assertTold(2, /unknown option '--hlep' \(Did you mean --help\?\)/, name, ["--hlep"]);
  }
  await assertTold(2, /Did you mean --temperature\?/, "generate", ["--temprature", "1", "x"]);
  // Also of an option that must be given.
  await assertTold(2, /Did you mean --model\?/, "serve", ["--modle", "x"]);
});

Deno.test("what is wrong on the command line is told before anything is loaded, with status 2", async () => {
  const wrong: [string, RegExp, ...string[]][] = [
    ["generate", /'--max-tokens <n>' argument missing/, "--max-tokens"],
    ["generate", /'ten' is invalid\. It must be a whole number of at least 0/, "--max-tokens", "ten", "x"],
    ["generate", /It must be a number of at least 0/, "--temperature", "-1", "x"],
    ["generate", /It must be a number of at least 0/, "--temperature", "", "x"],
    ["generate", /above 0 and at most 1/, "--top-p", "0", "x"],
    ["generate", /choices are auto, webgpu, wasm/, "--backend", "cuda", "x"],
    ["generate", /It must be a whole number from 0/, "--ids", "1,,2"],
    ["generate", /takes the place of a prompt/, "--ids", "1", "x"],
    ["generate", /a prompt is missing/],
    ["score", /'--model <folder, URL or id>' not specified/, "a", "b"],
    ["score", /either context and continuation or --file/, "--model", "nowhere", "a"],
    ["score", /must be ids, such as 5,17,9, not 'a'/, "--model", "nowhere", "--ids", "1", "a"],
    ["serve", /'--model <folder, URL or id>' not specified/],
    ["serve", /too many arguments/, "--model", "nowhere", "models/sotu"],
    ["serve", /from 0 to 65535/, "--model", "nowhere", "--port", "abc"],
    ["serve", /of at least 1/, "--model", "nowhere", "--threads", "0"],
    ["serve", /of at least 0/, "--model", "nowhere", "--drain", "soon"],
    ["train", /'--data <path>' not specified/],
    ["train", /of at least 1/, "--data", "sotu", "--out", "none", "--steps", "0"],
    ["train", /below 1/, "--data", "sotu", "--out", "none", "--beta1", "1"],
    ["convert", /one of bf16, f16, int8, int4/, "nowhere", "--out", "out", "--weights", "int3"],
    ["convert", /missing required argument/, "--out", "out"],
    ["convert", /'--out <folder>' not specified/, "nowhere"],
    ["evaluate", /'--data <path>' not specified/, "--model", "nowhere"],
    ["evaluate", /a number of tokens, such as 500, 8K or 1M/, ...ON_SOTU, "nowhere", "--lengths", "1K,8G"],
    ["evaluate", /a percentage of at least 0%/, ...ON_SOTU, "nowhere", "--max-loss", "-1%"],
    ["evaluate", /a percentage of at least 0%/, ...ON_SOTU, "nowhere", "--max-slowdown", "0.1"],
    ["evaluate", /need a --baseline/, ...ON_SOTU, "nowhere", "--max-loss", "1%"],
    [
      ...["evaluate", /needs at least one of --repeats/, ...ON_SOTU, "nowhere", "--baseline", "x"] as const,
      ...["--repeats", "0", "--max-slowdown", "1%"],
    ],
    ["curve", /must be <name>=<folder>, not 'a'/, "out.svg", "a"],
    ["bench:train-baseline", /one of /, "--data", "sotu", "--out", "none", "--mixer", "none"],
  ];
  for (const [name, line, ...args] of wrong) await assertTold(2, line, name, args);
  await assertTold(2, /LEVIN_API_KEYS must hold a key/, "serve", ["--model", "nowhere"], {
    env: { LEVIN_API_KEYS: "," },
  });
});

Deno.test("what is missing is told in a line, with status 1", async () => {
  await inFolder(async (folder) => {
    const around = { cwd: folder };
    await Deno.mkdir(`${folder}/empty`);
    const wrong: [string, RegExp, ...string[]][] = [
      ["generate", /must have config\.json.*\/nowhere/, "--backend", "wasm", "--model", "nowhere", "x"],
      ["score", /No such file.*none\.txt/, "--model", "nowhere", "--file", "none.txt"],
      ["convert", /must have config\.json.*\/nowhere/, "nowhere", "--out", "out"],
      ["evaluate", /data must exist/, "--model", "nowhere", "--data", "none.txt"],
      ["evaluate", /must have config\.json.*\/nowhere/, ...ON_SOTU, "nowhere", "--backend", "wasm"],
      ["curve", /no such file.*nowhere/, "out.svg", "a=nowhere"],
      ["train", /data must exist/, "--backend", "wasm", "--data", "nowhere", "--out", "out"],
    ];
    for (const [name, line, ...args] of wrong) await assertTold(1, line, name, args, around);
  });
});

Deno.test("a prompt comes from the arguments, from a pipe, or from where - says", async () => {
  await withModel(async (cwd) => {
    const text = async (args: string[], stdin?: string) => {
      const { code, out, err } = await run("generate", ["--model", "model", ...QUICK, ...args], {
        cwd,
        stdin,
      });
      assert.equal(code, 0, err);
      assert.match(err, /8 tokens \(length\)/);
      return out;
    };
    const wanted = await text(["hello", "there"]);
    assert(wanted.startsWith("hello there"));
    assert.equal(await text(["hello there"], "something else\n"), wanted);
    // The line's end is echo's, not the prompt's.
    assert.equal(await text([], "hello there\n"), wanted);
    assert.equal(await text(["-"], "hello there"), wanted);
    assert.equal(await text(["--no-echo"], "hello there"), wanted.slice("hello there".length));
    const { code, err } = await run("generate", ["--model", "model"], { cwd, stdin: "\n" });
    assert.deepEqual([code, err], [2, "error: a prompt is missing (--help lists all options)\n"]);
  });
});

Deno.test("no tokens are as many as were asked for", async () => {
  await withModel(async (cwd) => {
    const args = ["--model", "model", "--backend", "wasm", "--max-tokens", "0", "hello"];
    const { code, out, err } = await run("generate", args, { cwd });
    assert.equal(code, 0, err);
    assert.equal(out, "hello\n");
    assert.match(err, /^0 tokens \(length\)$/m);
  });
});

Deno.test("relative paths begin where the person stands", async () => {
  await withModel(async (folder) => {
    const args = ["--model", "../model", ...QUICK, "hello"], elsewhere = `${folder}/elsewhere`;
    await Deno.mkdir(elsewhere);
    // As `deno task` runs a command: in the project's folder, INIT_CWD says where the person stands.
    const byTask = await run("generate", args, { cwd: ROOT, env: { INIT_CWD: elsewhere } });
    assert.equal(byTask.code, 0, byTask.err);
    // A command that runs elsewhere was not started by a task: what INIT_CWD says is of another program.
    const byHand = await run("generate", args, { cwd: elsewhere, env: { INIT_CWD: "/" } });
    assert.equal(byHand.code, 0, byHand.err);
    assert.equal(byHand.out, byTask.out);
    // For writing, too; and what is no terminal shows no progress.
    const { code, out, err } = await run("convert", ["../model", "--weights", "int8", "--out", "small"], {
      env: { INIT_CWD: elsewhere },
    });
    assert.equal(code, 0, err);
    assert.equal(err, "");
    assert(out.startsWith(`${elsewhere}/small: `), out);
    assert((await Deno.stat(`${elsewhere}/small/model.safetensors`)).isFile);
  });
});

Deno.test("a command whose reader goes ends without a word", async () => {
  await withModel(async (cwd) => {
    const endless = ["--model", "model", "--backend", "wasm", "--max-tokens", "1000000000", "hello"];
    const process = spawn("generate", endless, { cwd });
    const reader = process.stdout.getReader();
    assert(!(await reader.read()).done);
    await reader.cancel();
    const err = await new Response(process.stderr).text();
    assert.equal((await process.status).code, 141, err);
    assert.match(err, /^[\d.]+ M parameters on wasm[^\n]*\n$/);
  });
});

Deno.test("Ctrl-C ends a generation with its report, and status 130", async () => {
  await withModel(async (cwd) => {
    const endless = ["--model", "model", "--backend", "wasm", "--max-tokens", "1000000000", "hello"];
    const process = spawn("generate", endless, { cwd });
    const err = new Response(process.stderr).text();
    let out = "";
    for await (const part of process.stdout.pipeThrough(new TextDecoderStream())) {
      if (out.length <= "hello".length && (out + part).length > "hello".length) process.kill("SIGINT");
      out += part;
    }
    assert.equal((await process.status).code, 130, await err);
    assert.match(await err, /^\d+ tokens \(interrupted\): the first after /m);
    assert(out.endsWith("\n"));
  });
});

Deno.test("Ctrl-C while a model loads ends without a word", async () => {
  await using host = silentHost();
  const process = spawn("generate", ["--model", host.url, "--backend", "wasm", "hello"]);
  await host.asked(process);
  process.kill("SIGINT");
  const { code, stdout, stderr } = await process.output();
  assert.deepEqual([code, stdout.length, stderr.length], [130, 0, 0], new TextDecoder().decode(stderr));
});

Deno.test("a defect shows where it is, and no colours where there is no terminal", async () => {
  const script = 'import { cli, command } from "./cli/mod.ts";\n' +
    'await cli(command("x", "x.").action(() => { throw new TypeError("x is undefined"); }));\n';
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", script],
    cwd: ROOT,
  }).output();
  assert.equal(code, 1);
  const text = new TextDecoder().decode(stderr);
  assert.match(text, /^TypeError: x is undefined\n +at /);
  assert(!text.includes("\x1b"));
});

Deno.test("train --permissions prints a command that is enough to train, and may do nothing else", async () => {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  try {
    await Deno.writeTextFile(`${folder}/text.txt`, "The state of the Union is strong. ".repeat(400));
    const small = [
      "--config",
      "tiny",
      "--steps",
      "1",
      "--seq-len",
      "32",
      "--batch",
      "2",
      "--backend",
      "wasm",
    ];
    const options = ["--data", `${folder}/text.txt`, "--out", `${folder}/run`, ...small, "--threads", "1"];
    const { code, out, err } = await run("train", [...options, "--permissions"]);
    assert.equal(code, 0, err);
    assert.equal(
      out.slice(0, out.indexOf(" --data")).replace(/ \S*\/train\/main\.ts$/, ""),
      `deno run --frozen --no-prompt --allow-read=${folder}/text.txt,${folder}/run,${ROOT} --allow-write=${folder}/run`,
    );
    const { code: trained, stderr } = await new Deno.Command("sh", {
      args: ["-c", `exec ${out.trim().replace(/^deno/, '"$0"')}`, Deno.execPath()],
      cwd: ROOT,
    }).output();
    assert.equal(trained, 0, new TextDecoder().decode(stderr));
    assert((await Deno.stat(`${folder}/run/step-000001/model.safetensors`)).isFile);
    // Dawn is a native library, and nothing else needs one.
    const { out: units } = await run("train", [...options, "--precision", "f16", "--permissions"]);
    assert.match(units, / --allow-ffi \S*train\/main\.ts .* --precision f16$/m);
    assert(!out.includes("ffi"));
    await assertTold(1, /Requires ffi access/, "train", [...options, "--precision", "f16"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("evaluate ends with 1 exactly where a model is worse than it may be, and says in what", async () => {
  await withModel(async (cwd) => {
    await Deno.writeTextFile(`${cwd}/text.txt`, "The state of the Union is strong. ".repeat(20));
    const evaluate = (...args: string[]) =>
      run("evaluate", ["--data", "text.txt", "--backend", "wasm", "--threads", "1", ...args], { cwd });
    const kept = await evaluate(
      ...["--model", "model", "--lengths", "64,256", "--repeats", "2", "--json", "new/kept.json"],
    );
    assert.equal(kept.code, 0, kept.err);
    assert.match(kept.out, /^model, f32: text\.txt, 680 bytes; wasm, /);
    assert.match(kept.out, /^\| +256 \|/m);
    const report = JSON.parse(await Deno.readTextFile(`${cwd}/new/kept.json`));
    assert.deepEqual(report.lengths.map(({ length }: { length: number }) => length), [64, 256]);
    assert(!JSON.stringify(report).includes(cwd), "a report names no path of this machine");

    // The model itself as its baseline, in turns; then what was kept of it, at the lengths that were kept.
    const same = await evaluate(
      ...["--model", "model", "--baseline", "model", "--lengths", "64", "--repeats", "0"],
    );
    assert.equal(same.code, 0, same.err);
    assert.match(same.out, /^model, f32, compared with model, f32: /);
    assert.match(same.out, /\+0\.00 %/);
    const again = await evaluate("--model", "model", "--baseline", "new/kept.json", "--repeats", "0");
    assert.equal(again.code, 0, again.err);
    assert.match(again.out, /^\| +64 \|.*\n\| +256 \|/m);

    // A baseline that is better, and one that is faster than any machine.
    const better = structuredClone(report), faster = structuredClone(report);
    better.lengths[1].bitsPerByte *= 0.95;
    for (const field of ["median", "least", "most"]) faster.lengths[0].read[field] *= 1e9;
    await Deno.writeTextFile(`${cwd}/better.json`, JSON.stringify(better));
    await Deno.writeTextFile(`${cwd}/faster.json`, JSON.stringify(faster));
    const worse = await evaluate(
      ...["--model", "model", "--baseline", "better.json", "--repeats", "0", "--json", "worse.json"],
    );
    assert.equal(worse.code, 1);
    assert.equal(
      worse.err,
      "error: a regression: at 256 bits per byte change by +5.26 %, +1.00 % is allowed\n",
    );
    assert.match(worse.out, /\+5\.26 %/);
    assert.equal(JSON.parse(await Deno.readTextFile(`${cwd}/worse.json`)).regressions.length, 1);
    const allowed = ["--model", "model", "--baseline", "better.json", "--repeats", "0", "--max-loss", "6%"];
    assert.equal((await evaluate(...allowed)).code, 0);
    const slower = await evaluate("--model", "model", "--baseline", "faster.json", "--repeats", "1");
    assert.equal(slower.code, 1);
    assert.match(slower.err, /at 64 the speed of reading changes by −100\.0 %, −10\.0 % is allowed/);

    // What cannot be compared is told.
    faster.backend.cores = 4096;
    await Deno.writeTextFile(`${cwd}/elsewhere.json`, JSON.stringify(faster));
    const elsewhere = ["--model", "model", "--baseline", "elsewhere.json", "--repeats", "1"];
    const untimed = await evaluate(...elsewhere);
    assert.equal(untimed.code, 0, untimed.err);
    assert.match(untimed.out, /of another device, and not compared/);
    const around = { cwd };
    const all = ["--data", "text.txt", "--backend", "wasm", ...elsewhere];
    await assertTold(1, /of the same device to limit a slowdown.*4096 cores/, "evaluate", [
      ...all,
      "--max-slowdown",
      "5%",
    ], around);
    await assertTold(1, /lengths must be at most 6\d\d/, "evaluate", [...all, "--lengths", "1K"], around);
    await assertTold(1, /lengths must be among those of the baseline, 64,256/, "evaluate", [
      ...all,
      "--lengths",
      "65",
    ], around);
    await assertTold(1, /must be the text of the baseline/, "evaluate", [...all, "--bytes", "600"], around);
  });
});

Deno.test("Ctrl-C ends an evaluation without a word, and status 130", async () => {
  await withModel(async (cwd) => {
    await Deno.writeTextFile(`${cwd}/text.txt`, "The state of the Union is strong. ".repeat(20));
    await using host = silentHost();
    const args = ["--data", "text.txt", "--model", "model", "--backend", "wasm", "--json", "none.json"];
    const process = spawn("evaluate", [...args, "--baseline", host.url], { cwd });
    await host.asked(process); // the model is loaded, and the baseline is awaited
    process.kill("SIGINT");
    const { code, stdout, stderr } = await process.output();
    assert.deepEqual([code, stdout.length, stderr.length], [130, 0, 0], new TextDecoder().decode(stderr));
    await assert.rejects(Deno.stat(`${cwd}/none.json`), Deno.errors.NotFound);
  });
});

Deno.test("commands that users start ask for no more than kinds of permissions", () => {
  for (const name of ["train", "curve", "convert", "evaluate", "generate", "score", "serve", "demo"]) {
    const { tasks } = JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`));
    assert.doesNotMatch(tasks[name].command, / -A | --allow-(all|run|ffi|sys)\b/, name);
  }
});

Deno.test("tasks take what the lock says and nothing else", () => {
  const { tasks } = JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`));
  for (const [name, { command }] of Object.entries<{ command: string }>(tasks)) {
    if (name === "lock") continue; // which writes it
    for (const part of command.replace(/"\$\(.*?\)"/, "").split("&&").map((part) => part.trim())) {
      if (/^deno (run|test|bench|check) /.test(part)) {
        assert.match(part, / --lock=deno\.(run\.|demo\.)?lock --frozen\b/, `${name}: ${part}`);
      }
    }
  }
});
