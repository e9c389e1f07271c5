/// <reference lib="dom" />
/** The `openai` package in pages of other origins, in a real browser. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import type { OpenAI as Client } from "openai";
import { chromium } from "playwright-core";
import { holdSteps, serve, until } from "./serve_setup.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

const KEY = "a key";

/** A page with the package and nothing else, at its own origin. */
function site(script: string): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
    return new URL(url).pathname === "/openai.js"
      ? new Response(script, { headers: { "content-type": "text/javascript" } })
      : new Response('<!doctype html><script type="module" src="openai.js"></script>', {
        headers: { "content-type": "text/html" },
      });
  });
}

const originOf = ({ addr }: Deno.HttpServer<Deno.NetAddr>) => `http://127.0.0.1:${addr.port}`;

async function bundled(): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "bundle",
      "--quiet",
      "--platform",
      "browser",
      fileURLToPath(new URL("browser/openai.ts", import.meta.url)),
    ],
    cwd: new URL("..", import.meta.url),
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** Runs in the page: what the package gets from the server. */
async function talk({ baseURL, apiKey }: { baseURL: string; apiKey: string }) {
  const { OpenAI } = globalThis as unknown as { OpenAI: typeof Client };
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, dangerouslyAllowBrowser: true });
  try {
    const models = (await client.models.list()).data.map(({ id }) => id);
    const stream = await client.chat.completions.create({
      model: "levin",
      messages: [{ role: "user", content: "Hi" }],
      max_tokens: 8,
      temperature: 0,
      stream: true,
    });
    let text = "";
    for await (const { choices: [choice] } of stream) text += choice.delta.content ?? "";
    return { models, text };
  } catch (error) {
    const { name, status } = error as { name: string; status?: number };
    return { name: (error as Error).constructor.name || name, status };
  }
}

Deno.test({
  name: "the openai package in a page: from an allowed origin with a key, and no other way",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async () => {
    const script = await bundled();
    await using allowed = site(script);
    await using other = site(script);
    await using server = await serve({
      apiKeys: [KEY],
      cors: [originOf(allowed)],
      limits: { batch: 1, queue: 1 },
    });
    const steps = holdSteps(server.model);
    await using http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, server.handler);
    const baseURL = `${originOf(http)}/v1`;
    const browser = await chromium.launch({ executablePath: findBrowser(), args: ["--no-sandbox"] });
    try {
      const open = async (origin: string) => {
        const page = await browser.newPage();
        page.setDefaultTimeout(300_000);
        await page.goto(origin);
        await page.waitForFunction(() => "OpenAI" in globalThis);
        return page;
      };
      const page = await open(originOf(allowed));
      const ids = server.model.tokenizer!.encode("<user>Hi<|end|><assistant>");
      const expected = await Array.fromAsync(server.model.generate(ids, { temperature: 0, maxTokens: 8 }));
      const text = expected.map(({ text }) => text).join("");
      steps.allow(7); // the first of 8 tokens needs none
      assert.deepEqual(await page.evaluate(talk, { baseURL, apiKey: KEY }), { models: ["levin"], text });
      const refused = await page.evaluate(talk, { baseURL, apiKey: "wrong" });
      assert.equal("status" in refused && refused.status, 401, "the page reads why");
      const stranger = await (await open(originOf(other))).evaluate(talk, { baseURL, apiKey: KEY });
      assert("status" in stranger && stranger.status === undefined, "the browser keeps the answer from it");

      // One request is written, one waits: the next is told when to come back.
      const body = { prompt: "a", max_tokens: 3 };
      const held = [server.ask("/v1/completions", body), server.ask("/v1/completions", body)];
      await until(async () => await server.metric("levin_waiting") === 1);
      const seconds = await page.evaluate(async ({ baseURL, key, body }) => {
        const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
        const init = { method: "POST", headers, body: JSON.stringify(body) };
        const response = await fetch(`${baseURL}/completions`, init);
        return response.status === 429 ? Number(response.headers.get("retry-after")) : undefined;
      }, { baseURL, key: KEY, body });
      assert(seconds !== undefined && seconds >= 1, `${seconds} s`);
      steps.allow();
      await Promise.all(held);
    } finally {
      await browser.close();
    }
  },
});
