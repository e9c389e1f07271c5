/// <reference lib="dom" />
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { CONTINUE, continued, MODEL, pageTest, unreadable } from "./playground_setup.ts";
import { serve, TEXT, textFiles } from "./serve_setup.ts";

/** `LEVIN_SCREENSHOTS=docs` writes what the docs show. */
const SCREENSHOTS = Deno.env.get("LEVIN_SCREENSHOTS");

const PROMPT = "Fellow citizens, the state of the Union", YEAR = " In the year that lies ahead, ";

const SIDES = ["on the server", "in the browser"] as const;

pageTest(
  "a key, streamed text by keyboard alone, stop, and the session continues",
  {
    handler: { apiKeys: ["a key"] },
    expected: /401/,
  },
  async (
    { page, origin, model, steps, text, status, answers, set, press, prompt, ready, handler, answer },
  ) => {
    await page.goto(origin);
    await status(/key is missing or wrong/);
    await set({ "Access key": "a key" });
    await page.getByLabel("Access key").blur();
    await ready();
    await set({ "Maximum length": 180, "Temperature": 0.6, "Share of likely tokens": 0.9, "Seed": 5 });
    await page.getByLabel("Prompt", { exact: true }).focus();
    await page.keyboard.type(PROMPT);
    steps.allow(179); // the first token needs none
    await page.keyboard.press("Enter");
    await status(/^Stopped at 180 tokens\.$/);
    const options = { temperature: 0.6, topP: 0.9, seed: 5, maxTokens: 180 };
    const tokens = await Array.fromAsync(model.generate(PROMPT, options));
    assert.deepEqual(await answers(), [tokens.map(({ text }) => text).join("")]);
    const before = model.tokenizer!.encode(PROMPT).length + 180;
    assert.equal(await text("tokens"), String(before));
    assert.match(await text("speed"), /^\d+ tokens\/s$/);

    // Stop ends the answer, and the session continues from what is there.
    answer(async (request) => {
      const response = await handler(request);
      if (request.url.endsWith("/stop")) steps.allow(); // what was asked to stop may come to its end
      return response;
    });
    await set({ "Maximum length": 4000 });
    steps.allow(24); // and no more of them until the page has asked to stop
    await prompt(YEAR);
    await page.waitForFunction(() =>
      (document.querySelectorAll(".answer")[1]?.textContent?.length ?? 0) > 20
    );
    await press("Stop");
    await status(/^Stopped\.$/);
    const read = before + model.tokenizer!.encode(YEAR, { addSpecialTokens: false }).length + 1 + 24 + 1;
    assert.equal(await text("tokens"), String(read), "the step that was held is the last");
    await set({ "Maximum length": 120 });
    const more = " My fellow Americans, ";
    await prompt(more);
    await status(/^Stopped at 120/);
    assert.equal(await text("tokens"), (read + more.length + 120).toLocaleString("en"));
    const stopped = (await answers())[1];
    const [, , last] = await answers();
    assert.equal(stopped.length, 26);
    assert.equal(last.length, 120);
  },
);

pageTest(
  "a request that fails gives the prompt back and offers to try again",
  {
    expected: /Failed to load resource/,
  },
  async (
    { page, origin, model, steps, text, status, answers, set, press, prompt, ready, handler, answer },
  ) => {
    steps.allow();
    await page.goto(origin);
    await ready();
    await set({ "Maximum length": 40, "Temperature": 0 });
    const box = page.getByLabel("Prompt", { exact: true });
    const first = await continued(model, PROMPT, 40);

    // No connection.
    await page.route("**/v1/completions", (route) => route.abort());
    await prompt(PROMPT);
    await status(/^The server cannot be reached$/);
    assert.equal(await box.inputValue(), PROMPT);
    assert.deepEqual(await answers(), [], "nothing is left of the turn");
    await page.unroute("**/v1/completions");
    await press("Try again");
    await status(/^Stopped at 40/);
    assert.deepEqual(await answers(), [first]);
    assert.equal(await box.inputValue(), "");
    assert.equal(await page.getByRole("button", { name: "Try again" }).isVisible(), false);

    // The server refuses, in its own words.
    answer((request) =>
      request.url.endsWith("/fork")
        ? Response.json({ error: { message: "Too much to do", code: null } }, { status: 429 })
        : handler(request)
    );
    await prompt(YEAR);
    await status(/^Too much to do$/);
    assert.equal(await box.inputValue(), YEAR);

    // The answer breaks off in the middle; what was written in the meantime stays too.
    const midway = Promise.withResolvers<void>();
    answer(async (request) => {
      const response = await handler(request);
      if (!request.url.endsWith("/v1/completions")) return response;
      const reader = response.body!.getReader();
      let chunks = 0;
      return new Response(
        new ReadableStream({
          async pull(controller) {
            const { value } = await reader.read();
            if (chunks++ < 3) return controller.enqueue(value!);
            await midway.promise;
            await reader.cancel();
            controller.close();
          },
        }),
        response,
      );
    });
    await press("Try again");
    await page.waitForFunction(() => document.querySelectorAll(".answer")[1]?.textContent !== "");
    await box.fill("More");
    midway.resolve();
    await status(/^The connection to the server broke off$/);
    assert.equal(await box.inputValue(), `${YEAR}\nMore`);
    assert.deepEqual(await answers(), [first]);

    // A continuation and another answer that fail leave what was there, and can be tried again.
    answer(() => new Response("<html>", { status: 502 }));
    await press("Regenerate");
    await status(/^The server answered 502$/);
    assert.deepEqual(await answers(), [first]);
    await press("Continue");
    await status(/^The server answered 502$/);
    answer(undefined);
    await press("Try again");
    await status(/^Stopped at 40/);
    assert.equal((await answers()).join(""), await continued(model, PROMPT, 80));
    assert.equal(await box.inputValue(), `${YEAR}\nMore`);
    assert.equal(await text("tokens"), String(model.tokenizer!.encode(PROMPT).length + 80));

    // So can the first question, what the model is.
    answer((request) =>
      request.url.endsWith("/v1/models") ? new Response("<html>", { status: 502 }) : handler(request)
    );
    await page.reload();
    await status(/^The server answered 502$/);
    answer(undefined);
    await press("Try again");
    await ready();
  },
);

pageTest("reloading and changing sides keep text and settings", {
  handler: { chatTemplate: CONTINUE },
  expected: /404/,
}, async ({ page, origin, model, steps, text, status, answers, set, prompt, ready, handler, requests }) => {
  steps.allow();
  await page.goto(origin);
  await ready();
  await set({
    "Maximum length": 30,
    "Temperature": 0,
    "Share of likely tokens": 0.5,
    "Number of likely tokens": 7,
    "Minimum probability": 0.25,
    "Seed": 11,
    "Stop before": "###",
  });
  await prompt(PROMPT);
  await status(/^Stopped at 30/);
  let whole = PROMPT + await continued(model, PROMPT, 30);
  const box = page.getByLabel("Prompt", { exact: true });
  await box.pressSequentially(YEAR);

  await page.reload();
  await ready();
  assert.equal(await box.inputValue(), YEAR);
  assert.equal(await page.locator(".turn").allTextContents().then((all) => all.join("")), whole);
  const values = ["max-tokens", "temperature", "top-p", "top-k", "min-p", "seed", "stop-text"];
  assert.deepEqual(
    await Promise.all(values.map((id) => page.locator(`#${id}`).inputValue())),
    ["30", "0", "0.5", "7", "0.25", "11", "###"],
  );

  /** Continues the text, whatever has happened; returns the prompts that the server was sent. */
  const turn = async (end: RegExp): Promise<unknown[]> => {
    requests.length = 0;
    await prompt(YEAR);
    await status(end);
    const answer = await continued(model, whole + YEAR, 30);
    assert.equal((await answers()).at(-1), answer);
    whole += YEAR + answer;
    assert.equal(await text("tokens"), String(model.tokenizer!.encode(whole).length));
    return requests.filter(({ what }) => what === "POST /v1/completions").map(({ body }) =>
      JSON.parse(body).prompt
    );
  };
  assert.deepEqual(await turn(/^Stopped at 30 tokens\.$/), [YEAR], "the session continues after a reload");

  // The browser reads what the server has read, and the other way round.
  const before = whole;
  const side = page.getByRole("switch", { name: "Run in this browser" });
  await side.check();
  assert.deepEqual(await turn(/^Stopped at 30 tokens, in this browser, on (WASM|WebGPU)\.$/), []);
  assert.equal(page.workers().length, 1, "the model runs in a worker");
  assert.deepEqual(await turn(/^Stopped at 30 tokens, in this browser/), []);
  await side.uncheck();
  const unread = whole.slice(before.length);
  assert.deepEqual(await turn(/^Stopped at 30 tokens\.$/), [unread + YEAR]);

  // A server that has lost the session gets the text again.
  const { session } = JSON.parse(requests.find(({ what }) => what === "POST /v1/completions")!.body);
  await handler(new Request(`${origin}/v1/sessions/${session}`, { method: "DELETE" }));
  const all = whole;
  assert.deepEqual(await turn(/^Stopped at 30/), [all + YEAR]);

  // A chat is another conversation: neither drops the other.
  await page.getByRole("switch", { name: "Chat" }).check();
  assert.deepEqual(await answers(), []);
  await page.reload();
  await ready();
  assert.equal(await page.getByRole("switch", { name: "Chat" }).isChecked(), true);
  await page.getByRole("switch", { name: "Chat" }).uncheck();
  assert.equal((await page.locator(".turn").allTextContents()).join(""), whole);

  // "New session" is one step that can be taken back.
  await page.getByRole("button", { name: "New session" }).click();
  assert.deepEqual(await answers(), []);
  await page.getByRole("button", { name: "Undo" }).click();
  assert.equal((await page.locator(".turn").allTextContents()).join(""), whole);
  assert.deepEqual(await turn(/^Stopped at 30/), [YEAR]);
});

pageTest("a new visitor finds what the model is, and prompts to begin with", {}, async (opened) => {
  const { page, origin, model, steps, status, answers, set, ready } = opened;
  steps.allow();
  await page.goto(origin);
  await ready();
  const { about, examples } = JSON.parse(await Deno.readTextFile(`${MODEL}/introduction.json`));
  assert.equal(await page.locator("#introduction").textContent(), about);
  assert.deepEqual(await page.locator("#examples button").allTextContents(), examples);
  assert.equal(examples.length, 3);
  await set({ "Maximum length": 40, "Temperature": 0 });
  await page.getByLabel("Prompt", { exact: true }).fill("My own");
  await page.getByRole("button", { name: examples[1] }).click();
  await status(/^Stopped at 40/);
  assert.deepEqual(await answers(), [await continued(model, examples[1], 40)]);
  assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), "My own");
  assert.equal(await page.locator("#empty").isVisible(), false);
});

for (const side of SIDES) {
  pageTest(`an answer can be continued, begun again and taken back, ${side}`, {}, async (opened) => {
    const { page, origin, model, steps, text, status, answers, set, press, prompt, ready, requests } = opened;
    steps.allow();
    await page.goto(origin);
    await ready();
    const button = (name: string) => page.getByRole("button", { name, exact: true });
    const enabled = () =>
      Promise.all(["Continue", "Regenerate", "Undo"].map((name) => button(name).isEnabled()));
    assert.deepEqual(await enabled(), [false, false, false]);
    if (side === SIDES[1]) await page.getByRole("switch", { name: "Run in this browser" }).check();
    await set({ "Maximum length": 25, "Temperature": 0 });
    await prompt(PROMPT);
    await status(/^Stopped at 25 tokens/);
    assert.deepEqual(await enabled(), [true, true, true]);
    const long = await continued(model, PROMPT, 75);

    await press("Continue");
    await status(/^Stopped at 25/);
    // An empty prompt continues as well.
    await page.getByLabel("Prompt", { exact: true }).press("Enter");
    await status(/^Stopped at 25/);
    assert.deepEqual(await answers(), [long.slice(0, 25), long.slice(25, 50), long.slice(50)]);

    // Another answer in place of the last, from the same state: with the seed that the library would take.
    const ids = model.tokenizer!.encode(PROMPT + long.slice(0, 50));
    await set({ "Temperature": 1.5, "Seed": 8 });
    await press("Regenerate");
    await status(/^Stopped at 25/);
    const options = { temperature: 1.5, topP: 0.95, seed: 8, maxTokens: 25 };
    const other = await Array.fromAsync(model.generate(ids, options));
    const [, , last] = await answers();
    assert.notEqual(last, long.slice(50));
    // A GPU may round otherwise; the server computes as this test does.
    if (side === SIDES[0]) assert.equal(last, other.map(({ text }) => text).join(""));
    await set({ "Temperature": 0 });
    await press("Regenerate");
    await status(/^Stopped at 25/);
    assert.deepEqual(await answers(), [long.slice(0, 25), long.slice(25, 50), long.slice(50)]);

    requests.length = 0;
    const before = model.tokenizer!.encode(PROMPT).length;
    for (const left of [2, 1]) {
      await press("Undo");
      assert.equal(await text("tokens"), String(before + 25 * left));
      assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), "");
    }
    assert(requests.every(({ what }) => what.startsWith("DELETE")), "taking back reads nothing");
    await prompt(YEAR);
    await status(/^Stopped at 25/);
    assert.equal((await answers())[1], await continued(model, PROMPT + long.slice(0, 25) + YEAR, 25));
    await press("Undo");
    assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), YEAR);
    await press("Undo");
    assert.deepEqual(await answers(), []);
    assert.equal(await text("tokens"), "0");
    assert.deepEqual(await enabled(), [false, false, false]);

    // No more sessions are kept than the last turns need, and what is older is read again.
    if (side === SIDES[1]) return;
    await set({ "Maximum length": 2 });
    let whole = "";
    for (let i = 0; i < 11; i++) {
      await prompt(`${i} `);
      await status(/^Stopped at 2 tokens\.$/);
      whole += `${i} ${(await answers())[i]}`;
    }
    for (let i = 0; i < 10; i++) await press("Undo");
    await page.waitForFunction(() =>
      (document.getElementById("undo") as HTMLButtonElement).disabled === false
    );
    await set({ "Maximum length": 20 });
    await prompt("");
    await status(/^Stopped at 20/);
    const start = whole.slice(0, 4);
    assert.equal((await answers())[1], await continued(model, start, 20));
    const prompts = requests.filter(({ what }) => what === "POST /v1/completions");
    assert.equal(JSON.parse(prompts.at(-1)!.body).prompt, start);
  });
}

pageTest(
  "stop ends an answer in the browser, and what has not begun gives its prompt back",
  {},
  async (opened) => {
    const { page, origin, model, steps, status, answers, set, press, prompt, ready, handler, answer } =
      opened;
    steps.allow();
    await page.goto(origin);
    await ready();
    await set({ "Temperature": 0 });
    const box = page.getByLabel("Prompt", { exact: true });

    // The server does not get to the answer.
    const arrived = Promise.withResolvers<void>(), held = Promise.withResolvers<void>();
    answer(async (request) => {
      if (request.url.endsWith("/v1/completions")) {
        arrived.resolve();
        await held.promise;
      }
      return await handler(request);
    });
    await prompt(PROMPT);
    await arrived.promise;
    await press("Stop");
    await status(/^Stopped before there was an answer\.$/);
    held.resolve();
    assert.equal(await box.inputValue(), PROMPT);
    assert.deepEqual(await answers(), []);
    answer(undefined);

    // Nor does the model get here.
    const asked = Promise.withResolvers<void>(), sent = Promise.withResolvers<void>();
    answer(async (request) => {
      if (request.url.endsWith("/model/model.safetensors")) {
        asked.resolve();
        await sent.promise;
      }
      return await handler(request);
    });
    await page.getByRole("switch", { name: "Run in this browser" }).check();
    await box.press("Enter");
    await asked.promise;
    await press("Stop");
    await status(/^Stopped before there was an answer\.$/);
    sent.resolve();
    assert.equal(await box.inputValue(), PROMPT);
    answer(undefined);

    // An answer that would not end: nothing but the button stops it.
    await page.locator("#max-tokens").evaluate((input) => input.removeAttribute("max"));
    await set({ "Maximum length": 1_000_000_000 });
    await box.press("Enter");
    await page.waitForFunction(() => (document.querySelector(".answer")?.textContent?.length ?? 0) > 40);
    await press("Stop");
    await status(/^Stopped, in this browser, on (WASM|WebGPU)\.$/);
    await set({ "Maximum length": 20 });
    await press("Continue");
    await status(/^Stopped at 20/);
    const whole = (await answers()).join("");
    assert.equal(whole, await continued(model, PROMPT, whole.length));
  },
);

pageTest("a long text that the browser has no room for is not kept, and its session is", {
  expected: /404/,
}, async (opened) => {
  const { page, origin, model, steps, text, status, answers, set, press, ready, handler, requests } = opened;
  steps.allow();
  await page.addInitScript(() => {
    const { setItem } = Storage.prototype;
    Storage.prototype.setItem = function (name, value) {
      if (value.length > 4000) throw new DOMException("no room", "QuotaExceededError");
      setItem.call(this, name, value);
    };
  });
  await page.goto(origin);
  await ready();
  await set({ "Maximum length": 20, "Temperature": 0 });
  const report = "All is well in the States. ".repeat(200);
  await press("Read a long text …");
  await page.getByLabel("Or a text that you paste").fill(report);
  await press("Read");
  await status(/^Read the pasted text/);
  await page.reload();
  await ready();
  assert.equal(await page.locator(".note").textContent(), "[the pasted text]");
  assert.equal(await text("tokens"), (report.length + 1).toLocaleString("en"));
  await press("Continue");
  await status(/^Stopped at 20/);
  assert.deepEqual(await answers(), [await continued(model, report, 20)]);
  // Without the session there is nothing to read again, and the page says so.
  for (const { what } of requests.filter(({ what }) => what.endsWith("/fork"))) {
    const id = what.split("/").at(-2);
    await handler(new Request(`${origin}/v1/sessions/${id}`, { method: "DELETE" }));
  }
  for (const { what, body } of requests.filter(({ what }) => what.endsWith("/completions"))) {
    assert.equal(what, "POST /v1/completions");
    const { session } = JSON.parse(body);
    await handler(new Request(`${origin}/v1/sessions/${session}`, { method: "DELETE" }));
  }
  await press("Continue");
  await status(/^The model would have to read the pasted text again/);
});

pageTest("the text can be copied", {}, async (opened) => {
  const { page, origin, model, steps, status, set, press, prompt, ready } = opened;
  steps.allow();
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.goto(origin);
  await ready();
  await set({ "Maximum length": 25, "Temperature": 0 });
  await prompt(PROMPT);
  await status(/^Stopped at 25/);
  const whole = PROMPT + await continued(model, PROMPT, 25);
  await press("Copy all");
  await status(/^Copied\.$/);
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), whole);
  // Over plain HTTP from another machine there is no clipboard object.
  await page.evaluate(async () => {
    await navigator.clipboard.writeText("something else");
    const { clipboard } = navigator;
    Object.assign(globalThis, { clipboard });
    Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true });
    document.getElementById("message")!.textContent = "";
  });
  await press("Copy all");
  await status(/^Copied\.$/);
  const copied = await page.evaluate(() =>
    (globalThis as unknown as { clipboard: Clipboard }).clipboard.readText()
  );
  assert.equal(copied, whole);
});

for (const side of SIDES) {
  pageTest(`tokens are shaded by their likelihood, ${side}`, {}, async (opened) => {
    const { page, origin, model, steps, status, set, prompt, ready } = opened;
    steps.allow();
    await page.goto(origin);
    await ready();
    if (side === SIDES[1]) await page.getByRole("switch", { name: "Run in this browser" }).check();
    await set({ "Maximum length": 60, "Temperature": 0 });
    await prompt(PROMPT);
    await status(/^Stopped at 60/);
    const tokens = await Array.fromAsync(model.generate(PROMPT, { temperature: 0, maxTokens: 60 }));
    const shades = tokens.map(({ logprob }) =>
      [0.5, 0.2, 0.05, 0.01].filter((least) => Math.exp(logprob) < least).length
    );
    assert(new Set(shades).size > 2, "the text has likely tokens and others");
    const pieces = page.locator(".piece");
    assert.deepEqual(await pieces.allTextContents(), tokens.map(({ text }) => text));
    const shown = await pieces.evaluateAll((all) =>
      all.map((piece) => Number((piece as HTMLElement).dataset.shade))
    );
    assert.deepEqual(shown, shades);
    const colors = () =>
      pieces.evaluateAll((all) => new Set(all.map((piece) => getComputedStyle(piece).backgroundColor)).size);
    assert.equal(await colors(), 1);
    assert.equal(await page.locator("#legend").isVisible(), false);
    await page.getByRole("switch", { name: "Show how likely each piece was" }).check();
    assert.equal(await colors(), new Set(shades).size);
    assert.equal(await page.locator("#legend").isVisible(), true);
    assert.match((await pieces.first().getAttribute("title"))!, /^\d+(\.\d+)? % likely$/);
    await page.reload();
    await ready();
    assert.equal(await colors(), new Set(shades).size, "text and shading outlive a reload");
  });
}

for (const side of SIDES) {
  pageTest(`a long text is read, and the state stays what it is, ${side}`, {
    expected: /429/,
  }, async (opened) => {
    const {
      page,
      origin,
      model,
      steps,
      text,
      status,
      answers,
      set,
      press,
      ready,
      requests,
      handler,
      answer,
    } = opened;
    steps.allow();
    await page.goto(origin);
    await ready();
    const isLocal = side === SIDES[1];
    if (isLocal) await page.getByRole("switch", { name: "Run in this browser" }).check();
    await set({ "Maximum length": 20, "Temperature": 0 });
    const book = Array.from({ length: 330 }, (_, i) => `Paragraph ${i} of a long report to the Congress.\n`)
      .join("");
    const mimeType = "text/plain", ending = "It is – after all – the end.";
    const open = async () => {
      await press("Read a long text …");
      await page.getByRole("dialog").waitFor();
    };

    // What is no text is refused, in the dialog.
    await open();
    await press("Read");
    assert.equal(await page.getByRole("alert").textContent(), "Choose a file or paste a text.");
    const file = page.getByLabel("A text file from this device");
    await file.setInputFiles({
      name: "picture.png",
      mimeType: "image/png",
      buffer: Buffer.from([137, 80, 0, 1]),
    });
    await press("Read");
    await page.getByText("picture.png holds no text.").waitFor();
    await file.setInputFiles({ name: "report.txt", mimeType, buffer: Buffer.from(book + ending) });
    await press("Read");
    const count = model.tokenizer!.encode(book + ending).length.toLocaleString("en");
    const end = await status(/^Read report\.txt: after/);
    assert(end.startsWith(`Read report.txt: after ${count} tokens the state has 448 KiB`), end);
    assert.equal(await text("tokens"), count);
    assert.equal(await text("state"), "448 KiB");
    assert.match(await text("cache-size"), /^\d+ MiB$/);
    assert.match(await text("comparison"), /^A cache would take \d+ times as much/);
    const points = (await page.locator("#line").getAttribute("points"))!.split(" ").map((point) =>
      point.split(",").map(Number)
    );
    assert(points.length > book.length / 4096, "the line has the sizes that were measured");
    assert.equal(new Set(points.map(([, y]) => y)).size, 1, "the line is flat");
    assert(points.every(([x], i) => i === 0 || x >= points[i - 1][0]));
    const prompts = requests.filter(({ what }) => what === "POST /v1/completions")
      .map(({ body }) => JSON.parse(body).prompt);
    if (!isLocal) assert.equal(prompts.join(""), book + ending);
    if (SCREENSHOTS && !isLocal) {
      await page.screenshot({ path: `${SCREENSHOTS}/playground-long.png`, fullPage: true });
    }

    // It can be continued, and taken back.
    await press("Continue");
    await status(/^Stopped at 20/);
    assert.equal((await answers()).at(-1), await continued(model, book + ending, 20));
    await press("Undo");
    await press("Undo");
    assert.equal(await text("tokens"), "0");
    if (isLocal) return;

    // Stop keeps what was read.
    const asked = Promise.withResolvers<void>(), held = Promise.withResolvers<void>();
    let pieces = 0;
    answer(async (request) => {
      if (request.url.endsWith("/v1/completions") && ++pieces === 3) {
        asked.resolve();
        await held.promise;
      }
      return await handler(request);
    });
    await open();
    await file.setInputFiles([]);
    await page.getByLabel("Or a text that you paste").fill(book);
    await press("Read");
    await asked.promise;
    await press("Stop");
    held.resolve();
    await status(/^Stopped within the pasted text: after/);
    const read = Number((await text("tokens")).replaceAll(",", ""));
    assert(read > 3 * 4000 && read <= 3 * 4096 + 1, String(read));
    await press("Continue");
    await status(/^Stopped at 20/);
    assert.equal((await answers()).at(-1), await continued(model, book.slice(0, read - 1), 20));
    await press("Undo");
    await press("Undo");

    // Reading that breaks off keeps what was read, and the rest can be read later.
    pieces = 0;
    answer(async (request) =>
      request.url.endsWith("/v1/completions") && ++pieces === 4
        ? Response.json({ error: { message: "No more", code: null } }, { status: 429 })
        : await handler(request)
    );
    await open();
    await press("Read");
    await status(/^Stopped within the pasted text: .* No more\.$/);
    await press("Try again");
    await status(/^Read the pasted text: after/);
    assert.equal(await text("tokens"), (book.length + 1).toLocaleString("en"));
  });
}

for (const side of SIDES) {
  pageTest(
    `a chat, where the model has a template, ${side}`,
    { handler: { chatTemplate: CONTINUE } },
    async (opened) => {
      const { page, origin, model, steps, status, answers, set, press, prompt, ready, requests } = opened;
      steps.allow();
      await page.goto(origin);
      await ready();
      if (side === SIDES[1]) await page.getByRole("switch", { name: "Run in this browser" }).check();
      await page.getByRole("switch", { name: "Chat" }).check();
      await set({ "Maximum length": 30, "Temperature": 0 });
      await prompt("What is the state of the Union?");
      await status(/^Stopped at 30/);
      // Templates say themselves how a text begins: nothing is added to it.
      const answerTo = async (text: string, maxTokens: number) => {
        const ids = model.tokenizer!.encode(text, { addSpecialTokens: false });
        const tokens = await Array.fromAsync(model.generate(ids, { temperature: 0, maxTokens }));
        return tokens.map(({ text }) => text).join("");
      };
      let whole = "What is the state of the Union?\n\n";
      const first = await answerTo(whole, 50);
      assert.deepEqual(await answers(), [first.slice(0, 30)]);
      await set({ "Maximum length": 20 });
      await press("Continue");
      await status(/^Stopped at 20/);
      assert.deepEqual(await answers(), [first.slice(0, 30), first.slice(30)]);
      whole += `${first}And the Treasury?\n\n`;
      await prompt("And the Treasury?");
      await status(/^Stopped at 20/);
      const second = await answerTo(whole, 20);
      assert.deepEqual((await answers()).at(-1), second);
      assert.deepEqual(await page.locator(".who").allTextContents(), [
        ...["You", "Model", "You", "Model"],
      ]);

      // The other side gets the messages, with whole answers, and cannot continue in the middle of one.
      const other = page.getByRole("switch", { name: "Run in this browser" });
      await other.setChecked(side !== SIDES[1]);
      assert.equal(await page.getByRole("button", { name: "Continue" }).isEnabled(), false);
      await prompt("Thank you.");
      await status(/^Stopped at 20/);
      const chat = ["What is the state of the Union?", first, "And the Treasury?", second, "Thank you."];
      assert.deepEqual(
        (await answers()).at(-1),
        await answerTo(chat.map((text) => `${text}\n\n`).join(""), 20),
      );
      if (side === SIDES[1]) {
        const [{ body }] = requests.filter(({ what }) => what === "POST /v1/chat/completions");
        assert.deepEqual(
          JSON.parse(body).messages,
          chat.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content })),
        );
      }
    },
  );
}

pageTest("no chat without a template", {}, async ({ page, origin, ready }) => {
  await page.goto(origin);
  await ready();
  assert.equal(await page.getByRole("switch", { name: "Chat" }).isVisible(), false);
});

pageTest("Enter generates, and Shift and Enter begins a new line", {}, async (opened) => {
  const { page, origin, steps, status, set, ready } = opened;
  steps.allow();
  await page.goto(origin);
  await ready();
  await set({ "Maximum length": 5 });
  const box = page.getByLabel("Prompt", { exact: true });
  assert.match((await page.locator("#hint").textContent())!, /^Enter generates/);
  await box.press("Enter");
  await status(/^Write a prompt first\.$/);
  await box.pressSequentially("One");
  await box.press("Shift+Enter");
  await box.pressSequentially("two");
  assert.equal(await box.inputValue(), "One\ntwo");
  // An Enter that chooses a word of an input method is not for the page.
  await box.dispatchEvent("keydown", { key: "Enter", isComposing: true });
  assert.equal(await box.inputValue(), "One\ntwo");
  // Nor is one in a setting, which changes that.
  await page.getByLabel("Seed").press("Enter");
  assert.equal(await box.inputValue(), "One\ntwo");
  await box.press("Enter");
  await status(/^Stopped at 5/);
  assert.equal(await page.locator(".prompt").textContent(), "One\ntwo");
  // A wrong setting is shown, and nothing is lost.
  await set({ "Minimum probability": 7 });
  await box.fill("More");
  await box.press("Enter");
  assert.equal(await box.inputValue(), "More");
  assert.equal(await page.locator(":focus").getAttribute("id"), "min-p");
});

pageTest("on a phone Enter begins a new line, and nothing is wider than the screen", {
  context: { viewport: { width: 360, height: 700 }, isMobile: true, hasTouch: true },
}, async ({ page, origin, model, steps, status, answers, set, ready }) => {
  steps.allow();
  await page.goto(origin);
  await ready();
  await set({ "Maximum length": 60, "Temperature": 0 });
  const box = page.getByLabel("Prompt", { exact: true });
  await box.fill("Fellow citizens,");
  await box.press("Enter");
  await box.pressSequentially("the");
  assert.equal(await box.inputValue(), "Fellow citizens,\nthe");
  await page.getByRole("button", { name: "Generate", exact: true }).tap();
  await status(/^Stopped at 60/);
  assert.deepEqual(await answers(), [await continued(model, "Fellow citizens,\nthe", 60)]);
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert(await overflow() <= 0);
  for (const field of await page.locator(".field input").all()) {
    await field.focus();
    assert(await overflow() <= 0, "what a field says of itself fits");
  }
  await page.getByRole("switch", { name: "Show how likely each piece was" }).tap();
  if (SCREENSHOTS) await page.screenshot({ path: `${SCREENSHOTS}/playground-phone.png`, fullPage: true });
  await page.getByRole("button", { name: "Read a long text …" }).tap();
  await page.getByRole("dialog").waitFor();
  assert(await overflow() <= 0);
});

if (SCREENSHOTS) {
  pageTest("what the docs show", {}, async ({ page, origin, steps, status, set, prompt, ready }) => {
    steps.allow();
    await page.goto(origin);
    await ready();
    await set({ "Maximum length": 400, "Temperature": 0.6, "Seed": 5 });
    await page.getByRole("switch", { name: "Show how likely each piece was" }).check();
    await prompt(PROMPT);
    await status(/^Stopped at 400/);
    await prompt(YEAR);
    await status(/^Stopped at 400/);
    await page.locator("h1").hover();
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${SCREENSHOTS}/playground-${colorScheme}.png`, fullPage: true });
    }
  });
}

pageTest("every control has a name and says what it does, and texts stand out, light and dark", {
  handler: { chatTemplate: CONTINUE },
}, async ({ page, origin, steps, status, set, prompt, ready }) => {
  steps.allow();
  await page.goto(origin);
  await ready();
  await page.getByRole("switch", { name: "Show how likely each piece was" }).check();
  await set({ "Maximum length": 400, "Temperature": 1.5, "Seed": 3 });
  const check = async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      assert.deepEqual(await page.evaluate(unreadable), [], colorScheme);
    }
    for (const control of await page.locator("input, textarea, button, progress").all()) {
      const name = await control.evaluate((element) =>
        (element as HTMLInputElement).labels?.[0]?.textContent?.trim() || element.textContent?.trim() ||
        element.getAttribute("aria-label")
      );
      assert(name, await control.evaluate((element) => element.outerHTML));
    }
  };
  await check();
  await prompt(PROMPT);
  await status(/^Stopped at 400/);
  const shades = await page.locator(".piece").evaluateAll((pieces) =>
    new Set(pieces.map((piece) => (piece as HTMLElement).dataset.shade)).size
  );
  assert.equal(shades, 5, "all shades are on the page");
  await check();
  await page.getByRole("switch", { name: "Chat" }).check();
  await check();
  await page.getByRole("switch", { name: "Chat" }).uncheck();

  // What a setting means is said to whoever points at it or comes to it by keyboard; Escape hides it.
  for (const field of await page.locator(".field").all()) {
    const tip = field.getByRole("tooltip", { includeHidden: true });
    const input = field.locator("input");
    assert.equal(await input.getAttribute("aria-describedby"), await tip.getAttribute("id"));
    assert.equal(await tip.isVisible(), false);
    await input.focus();
    assert.equal(await tip.isVisible(), true);
    await input.press("Escape");
    assert.equal(await tip.isVisible(), false);
    await page.locator("h1").click();
    await field.hover();
    assert.equal(await tip.isVisible(), true);
    await page.locator("h1").hover();
    assert.equal(await tip.isVisible(), false);
  }

  // The keyboard reaches everything, in the order of the page.
  await page.locator("#transcript").focus();
  const reached = [];
  for (let i = 0; i < 30; i++) {
    reached.push(await page.locator(":focus").getAttribute("id"));
    if (reached.at(-1) === "key") break;
    await page.keyboard.press("Tab");
  }
  assert.deepEqual(reached, [
    ...["transcript", "continue", "regenerate", "undo", "copy", "prompt", "generate", "new", "long"],
    ...["local", "chat", "shading", "temperature", "max-tokens", "top-p", "top-k", "min-p", "seed"],
    ...["stop-text", "key"],
  ]);
});

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
    assert.equal((await head("/v1/completions")).status, 405);
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
