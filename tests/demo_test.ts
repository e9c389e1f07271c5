import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../", import.meta.url);
const DEMO = new URL("bench/demo.ts", ROOT);
/** As `deno task demo` runs it: locked, with models to read. */
const RUN = [
  ...["run", "--no-prompt", "--frozen", `--lock=${fileURLToPath(new URL("deno.demo.lock", ROOT))}`],
  `--allow-read=${fileURLToPath(new URL("models", ROOT))}`,
];

/** Runs the demo with no permission but to write into one folder, and no terminal. */
async function demo(folder: string, ...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...RUN, `--allow-write=${folder}`, DEMO.href, ...args],
    cwd: folder,
  }).output();
  const decoder = new TextDecoder();
  return { code, output: decoder.decode(stdout), errors: decoder.decode(stderr) };
}

// (A quick run judges results, not speed: that would be luck on a busy machine.)
Deno.test("the demo prints a table, draws a plot, streams, and ends with a verdict", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const plot = `${folder}/plots/demo.svg`;
    const { code, output, errors } = await demo(
      folder,
      "--quick",
      "--backend=wasm",
      "--max-length=3000",
      `--out=${plot}`,
    );
    assert.equal(code, 0, output + errors);
    assert.match(output, /^Backend: wasm, (relaxed|baseline) SIMD/);
    for (const length of ["1,024", "2,048", "3,000"]) {
      const cell = "(?:[\\d,]+ · +[\\d.]+ MiB|skipped, takes ~[\\d.]+ \\w+)";
      assert.match(
        output,
        new RegExp(`^ *${length} +[\\d,]+ · +[\\d.]+ MiB +${cell} +${cell} +64 KiB`, "m"),
      );
    }
    assert.match(output, /\n {2}The state of the Union is [\w ,.;]{100}/);
    assert.match(output, /Verdict\n( {2}(✓|·) .*\n){8}$/);
    assert.equal(output.match(/✓/g)?.length, 6, output);
    assert.ok(!output.includes("\r") && !errors.includes("\r"), "progress without a terminal");

    const svg = await Deno.readTextFile(plot);
    assert.match(svg, /^<svg[^>]*>/);
    assert.match(svg, /<\/svg>\s*$/);
    assert.doesNotMatch(svg, /NaN|undefined|…/);
    for (
      const text of ["Tokens per second", "lightning attention (WASM)", "left product", "softmax attention"]
    ) {
      assert.ok(svg.includes(text), `the plot says ${text}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the demo refuses options that make no sense, with exit code 2", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (
      const [args, complaint] of [
        [["--max-length=12"], /'12' is invalid. It must be a whole number of at least 1024/],
        [["--max-length=many"], /'many' is invalid. It must be a whole number of at least 1024/],
        [["--backend=cuda"], /'cuda' is invalid. Allowed choices are auto, webgpu, wasm/],
        [["--out="], /'--out <file>' argument '' is invalid. It must not be empty/],
        [["--colour"], /unknown option '--colour'/],
        [["file"], /too many arguments/],
      ] as const
    ) {
      const { code, output, errors } = await demo(folder, ...args);
      assert.equal(code, 2, args[0]);
      assert.match(errors, complaint);
      assert.equal(output, "");
    }
    const forbidden = await demo(folder, "--quick", "--out=/levin-demo.svg");
    assert.equal(forbidden.code, 1);
    assert.match(forbidden.errors, /Requires write access/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("Ctrl-C stops the demo", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const process = new Deno.Command(Deno.execPath(), {
      args: [
        ...RUN,
        `--allow-write=${folder}`,
        DEMO.href,
        "--backend=wasm",
        `--out=${folder}/demo.svg`,
      ],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const errors = new Response(process.stderr).text();
    const reader = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; !text.includes("1,024");) {
      const { value, done } = await reader.read();
      assert(!done, "the demo ended early");
      text += value;
    }
    process.kill("SIGINT");
    assert.equal((await process.status).code, 130);
    assert.equal(await errors, "Stopping after this measurement.\n");
    await reader.cancel();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
