/** Random input for server and loader, for two seconds of each kind; `deno task attack` takes longer. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { fuzzBodies, fuzzFiles, fuzzHttp, fuzzStores } from "./fuzz.ts";
import { listening } from "./listening.ts";

const SECONDS = 2;

Deno.test("random JSON at the handler", () => fuzzBodies(SECONDS));
Deno.test("random damage in the store of sessions", () => fuzzStores(SECONDS));
Deno.test("random damage in the files of a model", () => fuzzFiles(SECONDS));

// In another process: Deno's node:http rejects a promise that nobody can reach when a request is cut off, which the
// port tolerates and `deno test` does not.
Deno.test("random HTTP at the port of a server", async () => {
  const main = fileURLToPath(new URL("../serve/main.ts", import.meta.url));
  const model = fileURLToPath(new URL("golden/tnl", import.meta.url));
  await using server = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", main, "--model", model, "--port", "0", "--backend", "wasm"],
    env: { NO_COLOR: "1", LEVIN_API_KEYS: "key" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const { url, line, done, log } = listening(server);
  try {
    const address = await url;
    await line("parameters");
    const before = log();
    await fuzzHttp(address, SECONDS);
    // It lives, answers from its model, and had nothing to say.
    const response = await fetch(`${address}/v1/completions`, {
      method: "POST",
      headers: { authorization: "Bearer key" },
      body: JSON.stringify({ prompt: [1], max_tokens: 2 }),
    });
    assert.equal((await response.json()).usage.completion_tokens, 2);
    assert.equal(log(), before);
  } finally {
    server.kill("SIGKILL");
    await done;
  }
});
