/** Commands with a model's id, as tasks with the permissions that they have. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cut, Hub, sha256 } from "./hub_server.ts";
import { listening } from "./listening.ts";
import { textFiles } from "./serve_setup.ts";

const ROOT = new URL("../", import.meta.url);
const COMMIT = "c".repeat(40), REPO = "owner/tiny", FILES = textFiles(), WEIGHTS = "model.safetensors";
const QUICK = ["--backend", "wasm"];

interface Surroundings {
  readonly hub: Hub;
  /** Where the person stands. */
  readonly here: string;
  /** The model's folder in the cache. */
  readonly cached: string;
  task(name: string, ...args: string[]): Deno.ChildProcess;
}

async function withHub(body: (around: Surroundings) => Promise<void>): Promise<void> {
  const here = await Deno.realPath(await Deno.makeTempDir({ prefix: "levin hub " }));
  await using hub = new Hub({ [REPO]: { refs: { main: COMMIT }, commits: { [COMMIT]: FILES } } });
  try {
    await body({
      hub,
      here,
      cached: `${here}/home/hub/models--owner--tiny`,
      task: (name, ...args) =>
        new Deno.Command(Deno.execPath(), {
          args: ["task", "--quiet", "--config", fileURLToPath(new URL("deno.json", ROOT)), name, ...args],
          cwd: here,
          env: {
            INIT_CWD: here, // not where the person stands who started the tests
            HF_ENDPOINT: hub.endpoint,
            HF_HOME: `${here}/home`,
            HF_HUB_OFFLINE: "",
            HF_TOKEN: "",
            HF_HUB_CACHE: "",
          },
          stdin: "null",
          stdout: "piped",
          stderr: "piped",
        }).spawn(),
    });
  } finally {
    await Deno.remove(here, { recursive: true });
  }
}

async function ended(process: Deno.ChildProcess) {
  const { code, stdout, stderr } = await process.output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

Deno.test("generate, score and convert take a model's id", async () => {
  await withHub(async ({ hub, here, cached, task }) => {
    const generated = await ended(task("generate", "--model", REPO, "--max-tokens", "3", ...QUICK, "hello"));
    assert.equal(generated.code, 0, generated.err);
    assert(generated.out.startsWith("hello"));
    assert.deepEqual(await Deno.readFile(`${cached}/snapshots/${COMMIT}/${WEIGHTS}`), FILES[WEIGHTS]);
    const downloads = hub.downloads.length;

    const scored = await ended(task("score", "--model", `hf:${REPO}@main`, ...QUICK, "hello", " you"));
    assert.equal(scored.code, 0, scored.err);
    assert(JSON.parse(scored.out).logprob < 0, scored.out);

    const converted = await ended(task("convert", REPO, "--out", "tiny-int8", "--weights", "int8"));
    assert.equal(converted.code, 0, converted.err);
    assert((await Deno.stat(`${here}/tiny-int8/${WEIGHTS}`)).isFile);
    assert.equal(hub.downloads.length, downloads, "the cache has it");

    // A folder wins, where the person stands.
    await Deno.rename(`${here}/tiny-int8`, `${here}/tiny`);
    await Deno.mkdir(`${here}/owner`);
    await Deno.rename(`${here}/tiny`, `${here}/owner/tiny`);
    hub.requests.length = 0;
    const local = await ended(task("generate", "--model", REPO, "--max-tokens", "3", ...QUICK, "hello"));
    assert.equal(local.code, 0, local.err);
    assert.deepEqual(hub.requests, []);

    const none = await ended(task("generate", "--model", "owner/none", ...QUICK, "hello"));
    assert.equal(none.code, 1);
    assert.match(
      none.err,
      /^error: Cannot run TransNormerLLM\.load as owner\/none must be a model on http:[^\n]*\n$/,
    );
  });
});

Deno.test("serve takes a model's id, and its page gets the files", async () => {
  await withHub(async ({ task }) => {
    const process = task("serve", "--model", REPO, "--port", "0", ...QUICK);
    const { url, done, log } = listening(process);
    const address = await url;
    const answer = await fetch(`${address}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ model: "levin", prompt: "hello", max_tokens: 3 }),
    });
    assert.equal(answer.status, 200, log());
    assert.equal((await answer.json()).usage.completion_tokens, 3);
    const file = await fetch(`${address}/model/${WEIGHTS}`);
    assert.deepEqual(new Uint8Array(await file.arrayBuffer()), FILES[WEIGHTS]);
    process.kill("SIGTERM");
    await process.status;
    await done;
  });
});

Deno.test("Ctrl-C in a download leaves no half file, and the next command continues it", async () => {
  await withHub(async ({ hub, cached, task }) => {
    const { promise: asked, resolve } = Promise.withResolvers<void>();
    hub.interfere = ({ file, host }, right) => {
      if (file !== WEIGHTS || host !== "cdn") return undefined;
      resolve();
      return cut(right(), 3000);
    };
    const args = ["--model", REPO, "--max-tokens", "3", ...QUICK, "hello"];
    const process = task("generate", ...args);
    await asked;
    process.kill("SIGINT");
    const { code, out, err } = await ended(process);
    assert.equal(out, "", err);
    assert.equal(code, 130, err);
    const blob = `${cached}/blobs/${sha256(FILES[WEIGHTS])}`;
    await assert.rejects(Deno.stat(blob), Deno.errors.NotFound);
    hub.interfere = undefined;
    const again = await ended(task("generate", ...args));
    assert.equal(again.code, 0, again.err);
    assert.deepEqual(await Deno.readFile(blob), FILES[WEIGHTS]);
  });
});
