/// <reference lib="dom" />
/**
 * What the tests of the page share: a server with the shipped model, and the page in a real Chromium.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { createHandler, type HandlerOptions } from "../serve/mod.ts";
import { holdSteps, type Steps } from "./serve_setup.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

/** Where the shipped model is. */
export const MODEL: string = fileURLToPath(new URL("../models/sotu", import.meta.url));

/** A template for clients that only chat. */
export const CONTINUE: string = await Deno.readTextFile(`${MODEL}/continue.jinja`);

/** The page, and what is behind it. */
export interface Opened {
  readonly page: Page;
  readonly origin: string;
  readonly model: TransNormerLLM;
  /** Decode steps of the server: none passes unasked. */
  readonly steps: Steps;
  /** Requests that the server got, with a method and a path, such as `"POST /v1/completions"`, and a body. */
  readonly requests: { readonly what: string; readonly body: string }[];
  /** The server's handler. */
  readonly handler: (request: Request) => Promise<Response>;
  /** What the server does with a request, in place of its handler. */
  answer(handle: ((request: Request) => Response | Promise<Response>) | undefined): void;
  /** The text of an element. */
  text(id: string): Promise<string>;
  /** Waits until the status is as wanted, and returns it. */
  status(wanted: RegExp): Promise<string>;
  /** What the model wrote, turn by turn. */
  answers(): Promise<string[]>;
  /** Fills in settings by their labels. */
  set(values: Record<string, string | number>): Promise<void>;
  /** Presses a button. */
  press(name: string): Promise<void>;
  /** Writes a prompt and presses Enter. */
  prompt(text: string): Promise<void>;
  /** Waits until the page knows its model. */
  ready(): Promise<void>;
}

/** How a test opens the page. */
export interface OpenOptions {
  readonly handler?: Partial<HandlerOptions>;
  readonly context?: BrowserContextOptions;
  /** Errors in the browser's console that the test provokes. */
  readonly expected?: RegExp;
}

/** A test of the page. It fails where the browser reports an error or asks another host. */
export function pageTest(
  name: string,
  options: OpenOptions,
  body: (opened: Opened, t: Deno.TestContext) => Promise<void>,
): void {
  Deno.test({
    name: `the page: ${name}`,
    ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
    fn: (t) => withPage(options, (opened) => body(opened, t)),
  });
}

async function withPage(options: OpenOptions, body: (opened: Opened) => Promise<void>): Promise<void> {
  using backend = await createBackend({ prefer: "wasm" });
  using model = await TransNormerLLM.load(MODEL, { backend });
  const steps = holdSteps(model);
  const handler = createHandler({ model, checkpoint: MODEL, ...options.handler });
  const requests: { what: string; body: string }[] = [];
  let answer: ((request: Request) => Response | Promise<Response>) | undefined;
  const http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const body = await request.clone().text();
    requests.push({ what: `${request.method} ${new URL(request.url).pathname}`, body });
    return await (answer ?? handler)(request);
  });
  const origin = `http://127.0.0.1:${http.addr.port}`;
  const browser = await chromium.launch({
    executablePath: findBrowser(),
    args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
  });
  try {
    const context = await browser.newContext({
      viewport: { width: 1100, height: 900 },
      colorScheme: "light",
      ...options.context,
    });
    const page = await context.newPage();
    page.setDefaultTimeout(300_000); // a page that hangs ends; one on a busy machine does not
    const problems: string[] = [], elsewhere: string[] = [];
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => {
      // Files that a model may lack are asked for, and browsers report that they are not there.
      const isAbsent = message.location().url.startsWith(`${origin}/model/`) && /404/.test(message.text());
      const isExpected = isAbsent || options.expected?.test(message.text());
      if (message.type() === "error" && !isExpected) problems.push(message.text());
    });
    page.on("request", (request) => {
      const isOwn = [origin, "data:"].some((start) => request.url().startsWith(start));
      if (!isOwn) elsewhere.push(request.url());
    });
    const opened: Opened = {
      page,
      origin,
      model,
      steps,
      requests,
      handler,
      answer: (handle) => void (answer = handle),
      text: async (id) => (await page.locator(`#${id}`).textContent())!,
      async status(wanted) {
        await page.waitForFunction(
          ([source]) => new RegExp(source).test(document.getElementById("message")?.textContent ?? ""),
          [wanted.source],
        );
        return (await page.locator("#message").textContent())!;
      },
      answers: () => page.locator("#transcript .answer").allTextContents(),
      async set(values) {
        for (const [label, value] of Object.entries(values)) {
          await page.locator("#settings").getByLabel(label, { exact: true }).fill(String(value));
        }
      },
      press: (name) => page.getByRole("button", { name, exact: true }).click(),
      async prompt(text) {
        await page.getByLabel("Prompt", { exact: true }).fill(text);
        await page.getByLabel("Prompt", { exact: true }).press("Enter");
      },
      async ready() {
        await page.waitForFunction(() => /parameters/.test(document.getElementById("about")!.textContent!));
      },
    };
    try {
      await body(opened);
    } catch (error) {
      const says = await page.locator("#message").textContent({ timeout: 1000 }).catch(() => undefined);
      throw new Error(`The page said ${JSON.stringify(says)}`, { cause: error });
    }
    assert.deepEqual(problems, [], "the browser reported errors");
    assert.deepEqual(elsewhere, [], "other hosts were asked");
  } finally {
    steps.allow(); // what a failed test left under way ends
    await browser.close();
    await http.shutdown();
    await handler.close();
  }
}

/** What a model writes after a text, likeliest token by token. */
export async function continued(model: TransNormerLLM, text: string, maxTokens: number): Promise<string> {
  const tokens = await Array.fromAsync(model.generate(text, { temperature: 0, maxTokens }));
  return tokens.map(({ text }) => text).join("");
}

/** Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3); disabled controls do not count. */
export function unreadable(): string[] {
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
    if (!(contrast >= 4.5)) {
      bad.push(`${element.tagName} ${element.textContent!.slice(0, 20)}: ${contrast.toFixed(2)}`);
    }
  }
  return bad;
}
