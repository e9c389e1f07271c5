/**
 * A page whose model computes with two threads is never blocked by it: `examples/page` in Chromium. `test:runtimes` tries
 * the same in Firefox.
 *
 * @module
 */
import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { checkResponsive, servePage, visitResponsive } from "./browser/responsive_server.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

Deno.test({
  name: "examples/page in Chromium: two threads, and the page's own is free",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async () => {
    const flags = [
      "--headless",
      "--no-sandbox",
      "--no-first-run",
      "--disable-gpu",
      "--disable-background-networking",
      "--disable-component-update",
    ];
    await checkResponsive(
      await visitResponsive((profile, url) => [findBrowser()!, ...flags, `--user-data-dir=${profile}`, url]),
    );
  },
});

Deno.test({
  name: "examples/page as its header says",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async () => {
    const example = new URL("../examples/page/", import.meta.url), site = await Deno.makeTempDir();
    const source = await Deno.readTextFile(new URL("main.ts", example));
    const [, line] = /^ \* {5}deno (bundle .*)$/m.exec(source) ?? [];
    assert(line, "the header of main.ts must have its command");
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: line.split(" ").map((part) => part === "site" ? site : part),
      cwd: new URL("..", import.meta.url),
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    const scripts = ["main.js", "worker.js"].map(async (name) => (
      [`/${name}`, await Deno.readTextFile(`${site}/${name}`)] as const
    ));
    await using server = servePage(
      await Deno.readTextFile(new URL("index.html", example)),
      new Map(await Promise.all(scripts)),
    );
    const browser = await chromium.launch({
      timeout: 0,
      executablePath: findBrowser(),
      args: ["--no-sandbox", "--disable-gpu"],
    });
    try {
      const page = await browser.newPage();
      page.setDefaultTimeout(0); // what is waited for is the page itself, or its error
      const failed = new Promise<never>((_, reject) => page.on("pageerror", reject));
      failed.catch(() => {});
      await page.goto(server.url);
      await Promise.race([page.getByText(/^Ready, on wasm with \d+ threads\.$/).waitFor(), failed]);
      await page.getByRole("button").click();
      await Promise.race([page.locator("button:enabled").waitFor(), failed]);
      // What follows the prompt is sampled anew each time: it may begin within a word, and its length is its own.
      const prompt = "The state of the Union is", written = await page.locator("output").innerText();
      assert(written.startsWith(prompt) && written.length > prompt.length, written);
    } finally {
      await browser.close();
      await Deno.remove(site, { recursive: true });
    }
  },
});
