/** Models that mean harm: their templates, tokenizers, headers and hosts. */
import assert from "node:assert/strict";
import * as jinja from "@huggingface/jinja";
import { Tokenizer } from "../model/mod.ts";
import { openSource, readAll } from "../model/source.ts";
import { parseSafetensorsHeader } from "../model/safetensors.ts";
import { readTemplate, renderTemplate, TemplateBudgetError } from "../model/tokenizer/template.ts";
import { Texts, tryTokenizer } from "../serve/texts.ts";
import { byteLevelJson, textFile } from "./reference_model.ts";
import { assertError, serve, TEXT } from "./serve_setup.ts";

const TEMPLATES: Record<string, string> = {
  "a long array": "{% for i in range(3000000) %}x{% endfor %}",
  "a long array by another way": "{% for i in range(-3000000, 9) %}x{% endfor %}",
  "many empty turns": "{% for i in range(60000) %}{% for j in range(60000) %}{% endfor %}{% endfor %}",
  "a text that doubles":
    "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
  "an array that doubles":
    "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
  "many turns of a body":
    "{% for i in range(60000) %}{% for j in range(60000) %}{{ i + j }}{% endfor %}{% endfor %}",
  "more source than there is": " ".repeat(2 ** 21),
};

/** `byteLevelJson` with other parts. */
const tokenizerJson = (parts: Record<string, unknown>) => ({ ...byteLevelJson(), ...parts });

const CATASTROPHE = { Regex: "(a+)+$" };

Deno.test("templates keep within a budget of steps and size, in the library as in the server", async () => {
  const render = (source: string, variables = {}) =>
    renderTemplate(jinja, readTemplate(jinja, source), variables);
  const tokenizer = await Tokenizer.create(byteLevelJson());
  const messages = [{ role: "user", content: "x" }];
  for (const [what, template] of Object.entries(TEMPLATES)) {
    assert.throws(() => render(template), TemplateBudgetError, what);
    assert.throws(() => tokenizer.applyChatTemplate(messages, { template }), {
      name: "RangeError",
      message: /the chat template must keep within a budget of steps and sizes: current value is "(a|more)/,
    }, what);
  }
  assert.equal(render("{% for i in range(3) %}{{ i }}{% endfor %}"), "012");
  assert.equal(render("{{ a ~ a }}", { a: "x" }), "xx");
  const template = "{{ messages[0].content ~ messages[0].content }}";
  assert.equal(tokenizer.applyChatTemplate(messages, { template }), "xx"); // none of it stays for the next
});

Deno.test("a hostile template is the model's failure, and hurts nobody", async () => {
  for (const untrusted of [false, true]) {
    const chat_template =
      "{% for i in range(messages[0].content | int) %}{% for j in range(60000) %}{% endfor %}{% endfor %}ok";
    await using server = await serve({ untrusted }, TEXT, 1, {
      "tokenizer_config.json": textFile({ chat_template }),
    });
    const ask = (content: string) =>
      server.send("/v1/chat/completions", { messages: [{ role: "user", content }], max_tokens: 1 });
    await assertError(await ask("60000"), 500, "model_budget");
    assert.equal((await ask("0")).status, 200);
  }
});

Deno.test("a tokenizer that takes too long is ended with its worker; the next text gets a new one", async () => {
  const tokenizer = await Tokenizer.create(tokenizerJson({
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: CATASTROPHE, behavior: "Isolated" },
        { type: "ByteLevel", add_prefix_space: false, use_regex: false },
      ],
    },
  }));
  const texts = new Texts(tokenizer, { untrusted: true, seconds: 3 });
  const hostile = texts.encode("a", `${"a".repeat(40)}!`, false);
  const hostileToo = texts.encode("a", `${"a".repeat(41)}!`, false);
  const honest = texts.encode("b", "hello", false);
  for (const ended of [hostile, hostileToo]) {
    await assert.rejects(ended, { status: 500, code: "model_budget" });
  }
  assert.deepEqual(await honest, Uint32Array.from(tokenizer.encode("hello", { addSpecialTokens: false })));
  await texts.close();
});

Deno.test("a tokenizer that takes too much memory is ended with its worker", async () => {
  const tokenizer = await Tokenizer.create(tokenizerJson({
    normalizer: {
      type: "Sequence",
      normalizers: Array.from({ length: 3 }, () => ({
        type: "Replace",
        pattern: { Regex: "." },
        content: "ab".repeat(500),
      })),
    },
    added_tokens: [],
  }));
  const texts = new Texts(tokenizer, { untrusted: true });
  await assert.rejects(texts.encode("a", "hello", false));
  await assert.rejects(texts.encode("a", "hello", false));
  await texts.close();
});

Deno.test("tokenizers are tried before the server's own thread makes them", async () => {
  const long = `${"a".repeat(40)}!`;
  await assert.rejects(
    tryTokenizer(
      tokenizerJson({
        normalizer: { type: "Replace", pattern: CATASTROPHE, content: "" },
        added_tokens: [{ id: 262, content: long, normalized: true }],
      }),
      {},
      1,
    ),
    /Cannot use the model/,
  );
  const json = byteLevelJson() as { model: { vocab: Record<string, number> } };
  await assert.rejects(
    tryTokenizer(
      {
        ...json,
        model: { ...json.model, vocab: { ...json.model.vocab, [long]: 300 } },
        decoder: { type: "Replace", pattern: CATASTROPHE, content: "" },
      },
      {},
      1,
    ),
    /Cannot use the model/,
  );
  await tryTokenizer(byteLevelJson(), {});
  await tryTokenizer({}, {}); // the loader says what is wrong with it
});

Deno.test("long texts give the same tokens in the worker and in the server's thread", async () => {
  await using server = await serve({ limits: { characters: 10 ** 6 } });
  const text = "Hello, wörld! ".repeat(500);
  const { tokens } = await server.ask("/tokenize", { prompt: text });
  assert.deepEqual(tokens, server.model.tokenizer!.encode(text));
  assert.equal(
    (await server.ask("/detokenize", { tokens })).prompt,
    server.model.tokenizer!.decode(tokens, { specialTokens: true }),
  );
});

Deno.test("files that are read as a whole are bounded, also when no length is announced", async () => {
  let sent = 0;
  const endless = (headers: HeadersInit) => () => {
    const body = new ReadableStream({
      pull(controller) {
        sent += 2 ** 16;
        controller.enqueue(new Uint8Array(2 ** 16).fill(0x20));
      },
    });
    return Promise.resolve(new Response(body, { headers }));
  };
  for (const headers of [{}, { "content-length": "99999999999" }] as HeadersInit[]) {
    const source = openSource("https://example.com/model", { fetch: endless(headers) as typeof fetch });
    await assert.rejects(readAll((await source.open("config.json"))!, "config.json", 2 ** 20), {
      name: "RangeError",
      message: /config\.json must have at most 1048576 bytes/,
    });
  }
  assert(sent < 2 ** 22, `${sent}`);
  const header = `{${Array.from({ length: 140_000 }, (_, i) => `"${i}":{}`).join(",")}}`;
  assert.throws(() => parseSafetensorsHeader(new TextEncoder().encode(header), undefined, "x"), {
    message: /at most 131072 tensors/,
  });
});

Deno.test("a remote model redirects within its host, or to hosts that are allowed", async () => {
  const asked: string[] = [];
  const redirect = (location: string): typeof fetch => (input) => {
    const { href, pathname } = new URL(String(input));
    asked.push(href);
    return Promise.resolve(
      pathname.endsWith("/config.json")
        ? new Response(null, { status: 302, headers: { location } })
        : new Response("{}"),
    );
  };
  const open = async (
    location: string,
    redirects?: string[],
    from = "https://models.example/x?key=secret",
  ) => {
    const source = openSource(from, { fetch: redirect(location), redirects });
    return new TextDecoder().decode(await readAll((await source.open("config.json"))!, "config.json"));
  };
  for (
    const location of [
      "http://127.0.0.1:8000/metrics",
      "http://localhost/",
      "https://169.254.169.254/latest",
      "https://elsewhere.example/x",
      "http://models.example/x",
      "https://models.example:8443/x",
      "file:///etc/passwd",
      "config.json",
    ]
  ) {
    asked.length = 0;
    await assert.rejects(open(location), (error: Error) => {
      assert(!error.message.includes("secret"), error.message);
      return error.name === "RangeError";
    }, location);
    assert(asked.every((href) => href.startsWith("https://models.example/")), `${asked}`);
  }
  assert.equal(await open("/elsewhere"), "{}");
  assert.equal(await open("https://store.example/x", ["store.example"]), "{}");
  assert.equal(await open("https://a.store.example/x", [".store.example"]), "{}");
  await assert.rejects(open("https://evilstore.example/x", [".store.example"]));
  assert.equal(await open("https://cdn-lfs.hf.co/x", [], "https://huggingface.co/a/b/resolve/main"), "{}");
});

Deno.test("ranges of a remote file redirect no further than the file itself", async () => {
  const asked: string[] = [];
  let location: string | undefined;
  const get: typeof fetch = (input, init) => {
    const url = new URL(String(input)), range = new Headers(init?.headers).get("range");
    asked.push(url.host);
    if (range !== null && location !== undefined) {
      return Promise.resolve(new Response(null, { status: 302, headers: { location } }));
    }
    const headers = {
      "accept-ranges": "bytes",
      "content-length": "100000",
      "content-range": "bytes 5-99999/100000",
    };
    return Promise.resolve(
      new Response(new Uint8Array(100_000), { status: range === null ? 200 : 206, headers }),
    );
  };
  const source = openSource("https://models.example/x?key=secret", { fetch: get });
  const target = new Uint8Array(8);
  const read = async () => {
    const reader = (await source.open("weights.bin"))!;
    await reader.readAt!(90_000, target);
    return await reader.readAt!(5, target);
  };
  for (location of ["http://127.0.0.1:8000/", "https://elsewhere.example/"]) {
    await assert.rejects(read(), /must redirect within its host/);
  }
  location = undefined;
  await assert.rejects(read(), /must be readable from byte 90000/); // the answers above are of byte 5
  assert(asked.every((host) => host === "models.example"), `${asked}`);
});

Deno.test("the query of a remote model's URL is in no message", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  const source = openSource(`http://127.0.0.1:${port}/x?key=secret`, {});
  await assert.rejects(source.open("config.json"), (error: Error) => {
    assert(!Deno.inspect(error).includes("secret"), Deno.inspect(error));
    return error.message.includes(`127.0.0.1:${port}`);
  });
});
