/**
 * The packed package where it must run. `deno task test:runtimes` runs this file; it is no part of `deno task test`, as it
 * installs runtimes and bundlers from npm first. The last test holds the tables of README.md and docs/hosts.md to what
 * was seen here.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, stop } from "esbuild";
import { checkResponsive, visitResponsive } from "../browser/responsive_server.ts";
import { textFiles } from "../serve_setup.ts";
import { findBrowser, findFirefox, MAY_LEAVE_OUT, SWIFTSHADER } from "../setup.ts";
import { type Seen, visit } from "./browsers.ts";
import { FOLDER, install, installed, MODEL, run } from "./setup.ts";

const ROOT = new URL("../../", import.meta.url);
const CHROMIUM = findBrowser(), FIREFOX = findFirefox();

/** Marks of what a bundle may hold: shaders by their entry points, kernels by the first bytes in hexadecimal. */
const WGSL = "@compute", WASM = "0061736d";

const tarball = await install();

/** A Node.js of npm's: of a major version, or the newest. */
const nodeOf = (major?: number) => {
  const machine = `linux-${Deno.build.arch === "x86_64" ? "x64" : "arm64"}`;
  return installed(`node-${major === undefined ? "" : `${major}-`}${machine}/bin/node`);
};
const NEWEST_NODE = nodeOf();

/** Rows of the table of support, in its order. */
const rows = new Map<string, readonly string[]>();

/** What `programs/host.mjs` says. */
interface Host {
  readonly attention: boolean;
  readonly gradients: boolean;
  readonly model: string;
  readonly server: boolean;
  readonly threads: number;
  readonly device: string;
}

/** What the model wrote first; temperature is 0, so all hosts write the same. */
let written: string | undefined;

function checkText(text: string): void {
  assert.equal(text.length, 16);
  written ??= text;
  assert.equal(text, written);
}

/** Runs `programs/host.mjs`, and checks what it says. */
async function host(program: string, args: string[] = []): Promise<Host> {
  const seen: Host = JSON.parse(
    await run(program, [...args, "programs/host.mjs", MODEL]),
  );
  assert.deepEqual({ ...seen, model: "", device: "" }, {
    ...{
      attention: true,
      gradients: true,
      server: true,
      threads: 2,
      model: "",
      device: "",
    },
  });
  assert.match(seen.device, /SIMD/);
  checkText(seen.model);
  return seen;
}

Deno.test("publint, attw and TypeScript find nothing", async (t) => {
  await t.step("publint", async () => {
    await run("node", [
      installed("publint/src/cli.js"),
      "run",
      tarball,
      "--strict",
    ]);
  });
  await t.step("are the types wrong?", async () => {
    const attw = installed("@arethetypeswrong/cli/dist/index.js");
    await run("node", [attw, tarball, "--profile", "esm-only"]);
  });
  await t.step("strict TypeScript, in both kinds of resolution", async () => {
    const common = [
      "--noEmit",
      "--strict",
      "--skipLibCheck",
      "false",
      "--target",
      "es2022",
    ];
    const lib = ["--lib", "es2022,dom,esnext.disposable"];
    for (
      const kind of [["--module", "nodenext"], [
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
      ]]
    ) {
      await run("node", [
        installed("typescript/bin/tsc"),
        ...common,
        ...lib,
        ...kind,
        "programs/types.mts",
      ]);
    }
  });
});

Deno.test("Node.js: attention, gradients, a model, the server, threads", async () => {
  const nodes = ["node", nodeOf(22), nodeOf(24), NEWEST_NODE], versions = new Set<string>();
  for (const node of nodes) {
    versions.add((await run(node, ["--version"])).split(".")[0]);
    await host(node);
  }
  assert(versions.has("v22") && versions.has("v24") && versions.size >= 3, `${[...versions]}`);
  rows.set("Node.js 20.16 and later", [
    "yes",
    "yes",
    "yes",
    "yes",
    "npm `webgpu`",
  ]);
});

Deno.test("Node.js: the sources themselves, whose types it strips", async () => {
  const mod = fileURLToPath(new URL("mod.ts", ROOT));
  for (const node of [nodeOf(22), nodeOf(24), NEWEST_NODE]) {
    assert.equal((await run(node, ["programs/sources.mjs", mod])).trim(), "ok");
  }
});

Deno.test({
  name: "Node.js: WebGPU through npm's webgpu",
  ignore: MAY_LEAVE_OUT && SWIFTSHADER === undefined,
  fn: async () => {
    const env = {
      VK_ICD_FILENAMES: SWIFTSHADER!.driver,
      LD_LIBRARY_PATH: SWIFTSHADER!.libraries,
    };
    const { device } = JSON.parse(
      await run(NEWEST_NODE, ["programs/webgpu.mjs"], { env }),
    );
    assert.match(device, /SwiftShader/);
  },
});

Deno.test("Bun: attention, gradients, a model, the server, threads", async () => {
  // Where its script did not run, the package holds a stand-in, and the program is in the package of the platform.
  const bun = [...Deno.readDirSync(installed("@oven"))].map(({ name }) => installed(`@oven/${name}/bin/bun`))
    .find((path) => Deno.statSync(path).isFile);
  await host(bun!);
  rows.set("Bun", ["yes", "yes", "yes", "yes", "no"]);
});

Deno.test("Deno: the same, and attention without any permission", async () => {
  const flags = [
    "run",
    "--quiet",
    "--no-prompt",
    "--no-config",
    "--no-lock",
    "--node-modules-dir=manual",
  ];
  await host(Deno.execPath(), [...flags, "-A"]);
  const { threads } = JSON.parse(
    await run(Deno.execPath(), [...flags, "programs/permissions.mjs"]),
  );
  assert.equal(threads, 2);
  rows.set("Deno 2", ["yes", "yes", "yes", "yes", "yes"]);
});

/** Bundles a Worker with the package as it is installed. */
async function bundleWorker(entry: string, outdir: string): Promise<void> {
  await build({
    entryPoints: [fileURLToPath(new URL(entry, ROOT))],
    nodePaths: [installed("")],
    outdir,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    conditions: ["workerd", "worker", "browser"],
    external: ["node:*"],
    loader: { ".wasm": "copy" },
    assetNames: "[name]",
    logLevel: "warning",
  });
}

Deno.test("Cloudflare's workerd: examples/cloudflare", async () => {
  const out = `${FOLDER}/worker`;
  await bundleWorker("examples/cloudflare/main.ts", out);
  const { size, wgsl } = gzipped(await Deno.readTextFile(`${out}/main.js`));
  assert(!wgsl, "a Worker has no use for shaders");
  console.log(`Worker, KB with gzip: ${size / 1000}`);
  assert(
    size < 1_000_000,
    `${size} bytes of a worker: the limit of Cloudflare's free plan is 3 MB`,
  );
  const { model, memory } = JSON.parse(
    await run("node", ["programs/workerd.mjs", out, MODEL]),
  );
  checkText(model);
  assert.equal(memory.length, 1, "one process of workerd");
  console.log(`workerd, MB: ${memory}`);
  rows.set("Cloudflare Workers", ["yes", "yes", "yes", "no", "no"]);
});

Deno.test("Durable Objects lose no acknowledged turn: four servers, and a runtime that is killed", async () => {
  const out = `${FOLDER}/objects`;
  await bundleWorker("tests/runtimes/programs/objects.mts", out);
  const model = `${FOLDER}/small`;
  await Deno.mkdir(model, { recursive: true });
  for (const [name, bytes] of Object.entries(textFiles())) await Deno.writeFile(`${model}/${name}`, bytes);
  const counts = JSON.parse(await run("node", ["programs/objects.mjs", out, model]));
  assert(counts.turns >= 160 && counts.kills === 3, JSON.stringify(counts));
  console.log(`Durable Objects: ${JSON.stringify(counts)}`);
});

const BUNDLERS = ["esbuild", "vite", "rollup", "webpack"];

Deno.test("bundlers take the package as it is", async () => {
  await Deno.remove(`${FOLDER}/pages`, { recursive: true }).catch(() => {});
  for (const bundler of BUNDLERS) {
    await run("node", [
      "programs/bundle.mjs",
      bundler,
      `${FOLDER}/pages/${bundler}`,
    ]);
  }
});

/** What every page must see, whatever the browser. */
function checkPages(seen: readonly Seen[], cores: number): void {
  for (
    const { error, page, threads, reason, sameBits, isolated, text } of seen
  ) {
    assert.equal(error, undefined, page);
    checkText(text);
    assert(sameBits, page);
    if (page.startsWith("/isolated")) {
      assert(isolated, page);
      assert.equal(threads, cores, `${page}: ${reason}`);
    } else {
      assert.equal(threads, 1, page);
      assert.match(
        reason,
        page.startsWith("/strict") ? /worker-src blob:/ : /cross-origin isolated/,
        page,
      );
    }
  }
}

const PAGES = ["isolated", "strict", "plain"].flatMap((kind) =>
  BUNDLERS.map((bundler) => `/${kind}/${bundler}/index.html`)
);

Deno.test({
  name: "Chromium: pages under strict policies, with threads, and WebGPU",
  ignore: MAY_LEAVE_OUT && CHROMIUM === undefined,
  fn: async () => {
    const profile = await Deno.makeTempDir();
    const flags = [
      "--headless",
      "--no-sandbox",
      "--no-first-run",
      `--user-data-dir=${profile}`,
    ];
    const gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
    const quiet = [
      "--disable-background-networking",
      "--disable-component-update",
    ];
    const pages = [...PAGES, "/strict/esbuild/index.html?webgpu"];
    const seen = await visit(
      (url) => [CHROMIUM!, ...flags, ...gpu, ...quiet, url],
      pages,
    );
    checkPages(seen, navigator.hardwareConcurrency);
    assert.match(seen.at(-1)!.webgpu!, /\w/);
    await Deno.remove(profile, { recursive: true }).catch(() => {});
    rows.set("Chromium", ["yes", "yes", "–", "isolated pages", "yes"]);
  },
});

Deno.test({
  name: "Firefox: pages under strict policies, with threads",
  ignore: MAY_LEAVE_OUT && FIREFOX === undefined,
  fn: async () => {
    const profile = await Deno.makeTempDir();
    const seen = await visit(
      (
        url,
      ) => [FIREFOX!, "--headless", "--no-remote", "--profile", profile, url],
      PAGES,
    );
    checkPages(seen, navigator.hardwareConcurrency);
    await Deno.remove(profile, { recursive: true }).catch(() => {});
    rows.set("Firefox", ["yes", "yes", "–", "isolated pages", "not tried"]);
  },
});

Deno.test({
  name: "Firefox: examples/page, two threads, and the page's own is free",
  ignore: MAY_LEAVE_OUT && FIREFOX === undefined,
  fn: async () => {
    await checkResponsive(
      await visitResponsive((profile, url) => [
        FIREFOX!,
        "--headless",
        "--no-remote",
        "--profile",
        profile,
        url,
      ]),
    );
  },
});

/** A text's size with gzip, and the marks in it. */
function gzipped(text: string): { size: number; wgsl: boolean; wasm: boolean } {
  return {
    size: gzipSync(text, { level: 9 }).length,
    wgsl: text.includes(WGSL),
    wasm: text.includes(WASM),
  };
}

/** A program of one line, bundled and minified to one text. */
async function bundled(line: string): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents: line, resolveDir: FOLDER },
    bundle: true,
    minify: true,
    format: "esm",
    write: false,
    logLevel: "warning",
  });
  return outputFiles[0].text;
}

/** A program of one line, bundled with code splitting: the texts that load at its start, and those that may follow. */
async function split(line: string): Promise<{ start: string[]; later: string[] }> {
  const { outputFiles, metafile: { outputs } } = await build({
    stdin: { contents: line, resolveDir: FOLDER },
    absWorkingDir: FOLDER,
    outdir: "out",
    bundle: true,
    minify: true,
    format: "esm",
    splitting: true,
    metafile: true,
    write: false,
    logLevel: "warning",
  });
  const start = new Set(["out/stdin.js"]);
  for (const name of start) {
    for (const { path, kind } of outputs[name].imports) if (kind === "import-statement") start.add(path);
  }
  const parts = Map.groupBy(outputFiles, ({ path }) => start.has(path.slice(FOLDER.length + 1)));
  const texts = (isStart: boolean) => (parts.get(isStart) ?? []).map(({ text }) => text);
  return { start: texts(true), later: texts(false) };
}

Deno.test("a page on either backend starts with the kernels of none", async () => {
  for (
    const line of [
      'export * from "@levin/attention";',
      'export { createBackend, lightningAttention } from "@levin/attention";',
      'export { TransNormerLLM } from "@levin/attention/tnl";',
    ]
  ) {
    const { start, later } = await split(line);
    assert(start.every((text) => !text.includes(WGSL) && !text.includes(WASM)), line);
    assert(later.some((text) => text.includes(WGSL)) && later.some((text) => text.includes(WASM)), line);
    assert(!later.some((text) => text.includes(WGSL) && text.includes(WASM)), line);
  }
});

Deno.test("a bundle for one backend holds nothing of the other, and only what it calls", async () => {
  const attention = "export { createBackend, lightningAttention, lightningAttentionStep } from";
  const wasm = gzipped(await bundled(`${attention} "@levin/attention/wasm";`));
  assert.deepEqual([wasm.wgsl, wasm.wasm], [false, true]);
  assert(
    wasm.size <= 65_000,
    `attention on WASM takes ${wasm.size} bytes with gzip`,
  );
  const text = await bundled(`${attention} "@levin/attention/webgpu";`),
    webgpu = gzipped(text);
  assert.deepEqual([webgpu.wgsl, webgpu.wasm], [true, false]);
  // Names that only shaders of gradients have.
  assert.doesNotMatch(text, /\b(dWeight|dOutput|dTheta)\b/);
  // A model on one of them.
  const model = 'export { TransNormerLLM } from "@levin/attention/tnl/bare";';
  const models = await Promise.all(
    ["wasm", "webgpu"].map((backend) =>
      bundled(`${model} export { createBackend } from "@levin/attention/${backend}";`)
    ),
  );
  assert.deepEqual(models.map(gzipped).map(({ wgsl, wasm }) => [wgsl, wasm]), [[false, true], [true, false]]);
  console.log("\n| bundle | KB, gzip |\n|---|--:|");
  const whole = gzipped(await bundled(`${attention} "@levin/attention";`));
  const [wasmModel, webgpuModel] = models.map(gzipped);
  const sizes = { wasm, webgpu, whole, "wasm, model": wasmModel, "webgpu, model": webgpuModel };
  for (const [name, { size }] of Object.entries(sizes)) {
    console.log(`| ${name} | ${(size / 1000).toFixed(1)} |`);
  }
});

Deno.test("the first run fetches what the library uses", async () => {
  const cache = await Deno.makeTempDir();
  try {
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["task", "generate", "--max-tokens", "3", "hello"],
      cwd: ROOT,
      env: { DENO_DIR: cache, NO_COLOR: "1" },
      stdin: "null",
    }).output();
    const log = new TextDecoder().decode(stderr);
    assert(success, log);
    const downloads = log.split("\n").filter((line) => line.startsWith("Download")).length;
    const bytes = sizeOf(`${cache}/npm`);
    assert(downloads > 0 && downloads <= 75, `${downloads} downloads`);
    assert(bytes <= 35e6, `${bytes} bytes`);
    console.log(
      `\nfirst run: ${downloads} downloads, ${(bytes / 1e6).toFixed(0)} MB on disk`,
    );
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
});

function sizeOf(folder: string): number {
  let bytes = 0;
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = `${folder}/${name}`;
    bytes += isDirectory ? sizeOf(path) : Deno.statSync(path).size;
  }
  return bytes;
}

Deno.test("README.md's table says what was seen", async () => {
  await stop(); // esbuild's process
  const readme = await Deno.readTextFile(new URL("README.md", ROOT));
  const cells = readme.split("\n").filter((line) => line.startsWith("|"))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()).join(" | "));
  for (const [place, support] of rows) {
    const row = [place, ...support].join(" | ");
    assert(cells.includes(row), `README.md must have the row: | ${row} |`);
  }
});
