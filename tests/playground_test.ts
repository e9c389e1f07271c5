/// <reference lib="dom" />
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright-core";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { createHandler } from "../serve/mod.ts";
import { holdSteps, serve, TEXT, textFiles } from "./serve_setup.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

/** `LEVIN_SCREENSHOTS=docs` writes what the docs show. */
const SCREENSHOTS = Deno.env.get("LEVIN_SCREENSHOTS");
const MODEL = fileURLToPath(new URL("../models/sotu", import.meta.url));

const PROMPT = "Fellow citizens, the state of the Union", YEAR = " In the year that lies ahead, ";

Deno.test({
  name: "the page: a prompt, streamed text, stop, the session goes on, the same in the browser alone",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async (t) => {
    using backend = await createBackend({ prefer: "wasm" });
    using model = await TransNormerLLM.load(MODEL, { backend });
    const steps = holdSteps(model);
    const handler = createHandler({ model, checkpoint: MODEL, apiKeys: ["a key"] });
    const requests: URL[] = [];
    const http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
      const url = new URL(request.url);
      requests.push(url);
      const response = await handler(request);
      if (url.pathname.endsWith("/stop")) steps.allow(); // what was asked to stop may go on, to its end
      return response;
    });
    const origin = `http://127.0.0.1:${http.addr.port}`;
    let browser: Browser | undefined;
    try {
      browser = await chromium.launch({
        executablePath: findBrowser(),
        args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
      });
      const context = await browser.newContext({
        viewport: { width: 1100, height: 760 },
        colorScheme: "light",
      });
      const page = await context.newPage();
      page.setDefaultTimeout(300_000); // a page that hangs ends; one on a busy machine does not
      const problems: string[] = [], elsewhere: string[] = [];
      page.on("pageerror", (error) => problems.push(error.message));
      page.on("console", (message) => {
        if (message.type() === "error" && !/40[14]/.test(message.text())) problems.push(message.text());
      });
      page.on("request", (request) => {
        if (!request.url().startsWith(origin) && !request.url().startsWith("data:")) {
          elsewhere.push(request.url());
        }
      });
      const text = (id: string) => page.locator(`#${id}`).textContent();
      const status = (wanted: RegExp) =>
        page.waitForFunction(
          ([source]) => new RegExp(source).test(document.getElementById("status")!.textContent!),
          [wanted.source],
        );
      const answers = () => page.locator("#transcript .answer").allTextContents();

      await t.step("it asks for a key where one is needed", async () => {
        await page.goto(origin);
        await status(/key is missing or wrong/);
        await page.getByLabel("Key").fill("a key");
        await page.getByLabel("Key").blur();
        await page.waitForFunction(() => /parameters/.test(document.getElementById("about")!.textContent!));
      });

      await t.step("text streams, by keyboard alone", async () => {
        for (
          const [label, value] of Object.entries({ Tokens: 180, Temperature: 0.6, "Top p": 0.9, Seed: 5 })
        ) {
          await page.getByLabel(label, { exact: true }).fill(String(value));
        }
        await page.getByLabel("Prompt", { exact: true }).focus();
        await page.keyboard.type(PROMPT);
        steps.allow(179); // the first token needs none
        await page.keyboard.press("Control+Enter");
        await status(/^Done/);
        const options = { temperature: 0.6, topP: 0.9, seed: 5, maxTokens: 180 };
        const tokens = await Array.fromAsync(model.generate(PROMPT, options));
        assert.deepEqual(await answers(), [tokens.map(({ text }) => text).join("")]);
        assert.equal(await text("tokens"), String(model.tokenizer!.encode(PROMPT).length + 180));
        assert.match((await text("speed"))!, /^\d+ tokens\/s$/);
      });

      await t.step("stop ends the answer, and the session goes on from what is there", async () => {
        const before = Number(await text("tokens"));
        await page.getByLabel("Tokens", { exact: true }).fill("4000");
        await page.getByLabel("Prompt", { exact: true }).fill(YEAR);
        steps.allow(24); // and no more of them until the page has asked to stop
        await page.getByRole("button", { name: "Generate" }).click();
        await page.waitForFunction(() =>
          (document.querySelectorAll(".answer")[1]?.textContent?.length ?? 0) > 20
        );
        await page.getByRole("button", { name: "Stop" }).click();
        await status(/^Done/);
        const read = Number((await text("tokens"))!.replaceAll(",", ""));
        const prompt = model.tokenizer!.encode(YEAR, { addSpecialTokens: false });
        assert.equal(read, before + prompt.length + 1 + 24 + 1, "the step that was held is the last");
        await page.getByLabel("Tokens", { exact: true }).fill("120");
        const more = " My fellow Americans, ";
        await page.getByLabel("Prompt", { exact: true }).fill(more);
        await page.getByRole("button", { name: "Generate" }).click();
        await page.waitForFunction(() => document.querySelectorAll(".answer").length === 3);
        await status(/^Done/);
        assert.equal(Number((await text("tokens"))!.replaceAll(",", "")), read + more.length + 120);
      });

      await t.step("the line of the state is flat", async () => {
        const points = (await page.locator("#line").getAttribute("points"))!.split(" ").map((p) =>
          p.split(",").map(Number)
        );
        assert.equal(points[0][1], points[1][1]);
        assert(points[1][0] > points[0][0]);
        if (SCREENSHOTS) {
          await page.screenshot({ path: `${SCREENSHOTS}/playground-light.png`, fullPage: true });
        }
      });

      await t.step("in this browser, without the server", async () => {
        await page.getByLabel("Tokens", { exact: true }).fill("180");
        await page.getByLabel("Temperature").fill("0"); // a GPU may round otherwise: the likeliest stay so
        await page.getByRole("switch", { name: "Run in this browser" }).check();
        await page.getByLabel("Prompt", { exact: true }).fill(PROMPT);
        await page.getByRole("button", { name: "Generate" }).click();
        await status(/^Done, in this browser, on (WASM|WebGPU)/);
        const tokens = await Array.fromAsync(model.generate(PROMPT, { temperature: 0, maxTokens: 180 }));
        assert.deepEqual(await answers(), [tokens.map(({ text }) => text).join("")]);
        const count = requests.length;
        await page.getByLabel("Prompt", { exact: true }).fill(" And ");
        await page.getByRole("button", { name: "Generate" }).click();
        await page.waitForFunction(() => document.querySelectorAll(".answer").length === 2);
        await status(/^Done/);
        assert.equal(requests.length, count, "the server was asked");
        assert(requests.some(({ pathname }) => pathname === "/model/model.safetensors"));
        // An answer that has no end of its own: nothing but the button stops it.
        await page.locator("#max-tokens").evaluate((input) => input.removeAttribute("max"));
        await page.getByLabel("Tokens", { exact: true }).fill("1000000000");
        await page.getByLabel("Prompt", { exact: true }).fill(" It is my duty to ");
        await page.getByRole("button", { name: "Generate" }).click();
        await page.waitForFunction(() =>
          (document.querySelectorAll(".answer")[2]?.textContent?.length ?? 0) > 40
        );
        await page.getByRole("button", { name: "Stop" }).click();
        await status(/^Stopped/);
        await page.emulateMedia({ colorScheme: "dark" });
        if (SCREENSHOTS) {
          await page.screenshot({ path: `${SCREENSHOTS}/playground-dark.png`, fullPage: true });
        }
      });

      await t.step("every control has a name, and texts stand out, light and dark", async () => {
        for (const colorScheme of ["light", "dark"] as const) {
          await page.emulateMedia({ colorScheme });
          assert.deepEqual(await page.evaluate(unreadable), [], colorScheme);
        }
        for (const control of await page.locator("input, textarea, button").all()) {
          const name = await control.evaluate((element) =>
            (element as HTMLInputElement).labels?.[0]?.textContent?.trim() || element.textContent?.trim()
          );
          assert(name, await control.evaluate((element) => element.outerHTML));
        }
        await page.setViewportSize({ width: 360, height: 700 });
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert(overflow <= 0, `a narrow window scrolls sideways by ${overflow}`);
      });

      assert.deepEqual(problems, [], "the browser reported errors");
      assert.deepEqual(elsewhere, [], "other hosts were asked");
    } finally {
      await browser?.close();
      await http.shutdown();
      await handler.close();
    }
  },
});

/** Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3); disabled controls do not count. */
function unreadable(): string[] {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true })!;
  const luminance = (color: string) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
      const c = value / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element: Element): string => {
    for (let at: Element | null = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
    return "white";
  };
  const bad = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) =>
      node.nodeType === 3 && node.textContent!.trim() !== ""
    );
    if (!own || (element as HTMLButtonElement).disabled || (element as HTMLElement).hidden) continue;
    const style = getComputedStyle(element);
    const [a, b] = [
      luminance(element instanceof SVGElement ? style.fill : style.color),
      luminance(behind(element)),
    ];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) {
      bad.push(`${element.tagName} ${element.textContent!.slice(0, 20)}: ${contrast.toFixed(2)}`);
    }
  }
  return bad;
}

/** Number of open descriptors; only Linux tells. */
function openFiles(): number {
  return Deno.build.os === "linux" ? Array.from(Deno.readDirSync("/proc/self/fd")).length : 0;
}

Deno.test("the page needs no key, its files have types and a policy, and only a model's files are handed out", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, bytes] of Object.entries(textFiles(TEXT))) {
      await Deno.writeFile(`${folder}/${name}`, bytes);
    }
    await Deno.writeTextFile(`${folder}/secret.txt`, "secret");
    await Deno.writeTextFile(`${folder}/secret.json`, "{}");
    await Deno.writeTextFile(`${folder}/secret.safetensors`, "{}");
    await Deno.writeTextFile(`${folder}/generation_config.json`, "{}");
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "a template");
    await using server = await serve({ apiKeys: ["k"], checkpoint: folder });
    const get = (path: string) => server.handler(new Request(`http://localhost${path}`));
    const index = await get("/");
    const html = await index.text();
    assert.match(index.headers.get("content-security-policy")!, /default-src 'none'.*connect-src 'self'/);
    for (const [, path] of html.matchAll(/(?:src|href)="(page\/[^"]+)"/g)) {
      const file = await get(`/${path}`);
      assert.equal(file.status, 200);
      assert.match(
        file.headers.get("content-type")!,
        path.endsWith("css") ? /^text\/css/ : /^text\/javascript/,
      );
      await file.body!.cancel();
    }
    assert.equal((await get("/page/nothing.js")).status, 404);
    assert.equal((await get("/page/__proto__")).status, 404);
    assert.equal((await get("/model/config.json")).status, 401);
    const config = await server.send("/model/config.json");
    assert.deepEqual(
      new Uint8Array(await config.arrayBuffer()),
      await Deno.readFile(`${folder}/config.json`),
    );
    assert.equal(await (await server.send("/model/chat_template.jinja")).text(), "a template");
    assert.equal((await server.send("/model/generation_config.json")).status, 200);
    const weights = await server.send("/model/model.safetensors");
    assert.deepEqual(
      new Uint8Array(await weights.arrayBuffer()),
      await Deno.readFile(`${folder}/model.safetensors`),
    );
    for (
      const name of [
        "secret.txt",
        "secret.json",
        "..%2fsecret.json",
        "%2e%2e/config.json",
        "other.safetensors",
        "secret.safetensors",
        "xconfig.json",
        "config.jsonx",
        "model.safetensors.bak",
        "",
      ]
    ) {
      assert.equal((await server.send(`/model/${name}`)).status, 404, name);
    }
    // HEAD is answered without a body, and no file stays open.
    const before = openFiles();
    const head = (path: string) =>
      server.handler(
        new Request(`http://localhost${path}`, { method: "HEAD", headers: { authorization: "Bearer k" } }),
      );
    for (let i = 0; i < 20; i++) {
      for (const name of ["model.safetensors", "config.json", "secret.txt"]) {
        const response = await head(`/model/${name}`);
        assert.equal(response.body, null);
        assert.equal(response.status, name === "secret.txt" ? 404 : 200);
        if (name !== "secret.txt") {
          const { size } = await Deno.stat(`${folder}/${name}`);
          assert.equal(response.headers.get("content-length"), String(size));
        }
      }
    }
    assert.equal((await head("/")).status, 200);
    assert.equal((await head("/v1/completions")).status, 404);
    // A client that goes in the middle closes the file, and so does one that never reads.
    const reader = (await server.send("/model/model.safetensors")).body!.getReader();
    await reader.read();
    await reader.cancel();
    await (await server.send("/model/model.safetensors")).body!.cancel();
    assert.equal(openFiles(), before);
    // Shards are handed out if the index names them.
    const names = { weight_map: { a: "part-1.safetensors" } };
    await Deno.writeTextFile(`${folder}/model.safetensors.index.json`, JSON.stringify(names));
    await Deno.writeTextFile(`${folder}/part-1.safetensors`, "a shard");
    assert.equal(await (await server.send("/model/part-1.safetensors")).text(), "a shard");
    assert.equal((await server.send("/model/secret.safetensors")).status, 404);
    await using closed = await serve();
    assert.equal((await closed.send("/model/config.json")).status, 404);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
