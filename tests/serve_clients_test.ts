/**
 * The clients that people use, for real, over HTTP on loopback; and the requests of EleutherAI's harness, whose Python
 * is not run here, with its own arithmetic on the answers.
 */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import assert from "node:assert/strict";
import OpenAI from "openai";
import { textFile } from "./reference_model.ts";
import {
  assertError,
  interceptPrompts,
  interceptSteps,
  serve,
  type Server,
  TEMPLATE,
  TEXT,
} from "./serve_setup.ts";

const KEY = "a key";

async function listen(): Promise<Server & { url: string }> {
  const server = await serve({ apiKeys: [KEY] });
  const http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, server.handler);
  return {
    ...server,
    url: `http://127.0.0.1:${http.addr.port}`,
    async [Symbol.asyncDispose]() {
      await http.shutdown();
      await server[Symbol.asyncDispose]();
    },
  };
}

async function greedy({ model }: Server, prompt: string | number[], maxTokens: number): Promise<string> {
  const tokens = await Array.fromAsync(model.generate(prompt, { temperature: 0, maxTokens }));
  return tokens.map(({ text }) => text).join("");
}

/** What the template makes of the chat, as ids: special tokens are one token each. */
function chatPrompt({ model }: Server, ...contents: [role: string, content: string][]): number[] {
  const text = contents.map(([role, content]) => `<${role}>${content}<|end|>`).join("") + "<assistant>";
  return model.tokenizer!.encode(text);
}

Deno.test("the openai client", async () => {
  await using server = await listen();
  const client = new OpenAI({ apiKey: KEY, baseURL: `${server.url}/v1`, maxRetries: 0 });

  assert.deepEqual((await Array.fromAsync(await client.models.list())).map(({ id }) => id), ["levin"]);
  assert.equal((await client.models.retrieve("levin")).object, "model");

  const expected = await greedy(server, "hello", 10);
  const whole = await client.completions.create({
    model: "levin",
    prompt: "hello",
    max_tokens: 10,
    temperature: 0,
    logprobs: 2,
  });
  assert.equal(whole.choices[0].text, expected);
  assert.equal(whole.usage!.completion_tokens, 10);
  assert.equal(whole.choices[0].logprobs!.token_logprobs!.length, 10);
  let text = "", usage;
  const stream = await client.completions.create({
    model: "levin",
    prompt: "hello",
    max_tokens: 10,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.text ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, expected);
  assert.equal(usage!.total_tokens, whole.usage!.total_tokens);

  const messages = [{ role: "system" as const, content: "Be brief." }, {
    role: "user" as const,
    content: "Hi",
  }];
  const reply = await greedy(server, chatPrompt(server, ["system", "Be brief."], ["user", "Hi"]), 8);
  const chat = await client.chat.completions.create({
    model: "levin",
    messages,
    max_completion_tokens: 8,
    temperature: 0,
    logprobs: true,
    top_logprobs: 2,
  });
  assert.equal(chat.choices[0].message.content, reply);
  assert.equal(chat.choices[0].finish_reason, "length");
  assert.equal(chat.choices[0].logprobs!.content!.length, 8);
  assert.equal(chat.choices[0].logprobs!.content![0].top_logprobs.length, 2);
  const chatStream = client.chat.completions.stream({
    model: "levin",
    messages,
    max_tokens: 8,
    temperature: 0,
  });
  assert.equal((await chatStream.finalMessage()).content, reply);

  const gone = await client.completions.create({
    model: "levin",
    prompt: "a",
    max_tokens: 4000,
    stream: true,
  });
  for await (const _ of gone) break;
  await assert.rejects(client.completions.create({ model: "other", prompt: "a" }), OpenAI.NotFoundError);
  await assert.rejects(client.completions.create({ model: "levin", prompt: "a", n: 0 }), (error) => {
    assert(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "n");
    return true;
  });
  const stranger = new OpenAI({ apiKey: "wrong", baseURL: `${server.url}/v1`, maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

Deno.test("the AI SDK", async () => {
  await using server = await listen();
  const provider = createOpenAICompatible({
    name: "levin",
    apiKey: KEY,
    baseURL: `${server.url}/v1`,
    includeUsage: true,
  });
  const prompt = "Hi";
  const reply = await greedy(server, chatPrompt(server, ["user", prompt]), 8);
  const settings = { prompt, temperature: 0, maxOutputTokens: 8, maxRetries: 0 };
  const whole = await generateText({ model: provider.chatModel("levin"), ...settings });
  assert.equal(whole.text, reply);
  assert.equal(whole.usage.outputTokens, 8);
  const stream = streamText({ model: provider.chatModel("levin"), ...settings });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, reply);
  assert.equal((await stream.usage).outputTokens, 8);
  assert.equal(await stream.finishReason, "length");
  const plain = await generateText({ model: provider.completionModel("levin"), ...settings });
  assert.equal(plain.usage.outputTokens, 8);
});

Deno.test("the harness's remote tokenizer", async () => {
  await using server = await listen();
  const auth = { authorization: `Bearer ${KEY}` };
  const info = await server.ask("/tokenizer_info");
  assert.equal(info.eos_token, "<|end|>");
  assert.equal(info.chat_template, TEMPLATE);
  const encode = async (prompt: string) =>
    (await server.ask("/tokenize", { prompt, add_special_tokens: false })).tokens;
  const decode = async (tokens: number[]) => (await server.ask("/detokenize", { tokens })).prompt;
  assert.deepEqual(await encode(info.eos_token), [261]);
  for (const text of ["hello", "", "€ and 😀", "a<|end|>b"]) {
    const ids = await encode(text);
    assert.deepEqual(ids, server.model.tokenizer!.encode(text));
    assert.equal(await decode(ids), text);
  }
  const chat = await server.ask("/tokenize", { messages: [{ role: "user", content: "Hi" }] }, auth);
  assert.deepEqual(chat.tokens, chatPrompt(server, ["user", "Hi"]));
  await assertError(await server.send("/detokenize", { tokens: [TEXT.vocab_size] }), 400);
});

/** A request of `local-completions` for log-likelihoods, and what it makes of the answer. */
async function harnessLoglikelihood(server: Server, contexts: number[][], continuations: number[][]) {
  const answer = await server.ask("/v1/completions", {
    model: "levin",
    prompt: contexts.map((context, i) => [...context, ...continuations[i]]),
    temperature: 0,
    max_tokens: 1,
    logprobs: 1,
    seed: 1234,
    echo: true,
  });
  assert.equal(answer.choices.length, contexts.length);
  // deno-lint-ignore no-explicit-any -- see Server.ask
  return answer.choices.map(({ index, logprobs }: any, i: number) => {
    assert.equal(index, i);
    // The last entry is the generated token: there is always exactly one.
    const values: number[] = logprobs.token_logprobs.slice(contexts[i].length, -1);
    const tops: Record<string, number>[] = logprobs.top_logprobs.slice(contexts[i].length, -1);
    assert.equal(values.length, continuations[i].length);
    return {
      logprob: values.reduce((sum, value) => sum + value, 0),
      greedy: values.every((value, t) => value === Math.max(...Object.values(tops[t]))),
    };
  });
}

Deno.test("the harness's log-likelihoods are the model's", async () => {
  await using server = await listen();
  const { model } = server;
  const contexts = [[1, 2, 3], [259], model.tokenizer!.encode("Well, hello there. ".repeat(15)), [7, 8]];
  const after: number[][] = [];
  for (const [i, context] of contexts.entries()) {
    const tokens = await Array.fromAsync(model.generate(context, { temperature: 0, maxTokens: 3 }));
    const likeliest = tokens.map(({ token }) => token);
    after.push(i % 2 === 0 ? likeliest : [...likeliest.slice(0, 2), (likeliest[2] + 1) % 200]);
  }
  const answers = await harnessLoglikelihood(server, contexts, after);
  for (const [i, { logprob, greedy }] of answers.entries()) {
    const expected = await model.loglikelihood(contexts[i], after[i]);
    assert(Math.abs(logprob - expected.logprob) < 1e-4, `${logprob} is not ${expected.logprob}`);
    assert.equal(greedy, expected.greedy);
    assert.equal(greedy, i % 2 === 0);
  }
  const one = await harnessLoglikelihood(server, [contexts[2]], [after[2]]);
  assert(Math.abs(one[0].logprob - answers[2].logprob) < 1e-9);
});

Deno.test("of tokens that are equally likely one is greedy, and the generated entry counts the end of sequence", async () => {
  await using server = await serve();
  // All logits are 0: the greedy token is 0, and every token is as likely.
  let logitOf = (_token: number) => 0;
  const { vocab_size: width } = TEXT;
  const replace = async (read: () => Promise<Float32Array>) =>
    (await read()).map((_, i) => logitOf(i % width));
  interceptPrompts(server.model, replace);
  interceptSteps(server.model, replace);
  const [first, second] = await harnessLoglikelihood(server, [[5], [5]], [[0, 0], [0, 9]]);
  assert.equal(first.greedy, true);
  assert.equal(second.greedy, false);
  assert(Math.abs(first.logprob - second.logprob) < 1e-9);
  logitOf = (token) => token === 3 ? -Infinity : 0;
  const [impossible] = await harnessLoglikelihood(server, [[5]], [[3]]);
  assert.deepEqual(impossible, { logprob: -9999, greedy: false });
});

Deno.test("the harness's generations", async () => {
  await using server = await listen();
  const { model } = server;
  const prompts = ["hello there", "hello"].map((text) => model.tokenizer!.encode(text));
  const texts = await Promise.all(prompts.map((prompt) => greedy(server, prompt, 16)));
  const until = [...texts[0]][5];
  const answer = await server.ask("/v1/completions", {
    prompt: prompts,
    model: "levin",
    max_tokens: 16,
    temperature: 0,
    stop: [until, "<|end|>"],
    seed: 1234,
    do_sample: false,
  });
  // deno-lint-ignore no-explicit-any -- see Server.ask
  assert.deepEqual(answer.choices.map(({ text }: any) => text), texts.map((text) => text.split(until)[0]));
});

Deno.test("a chat continues in a session", async () => {
  await using server = await listen();
  const ask = (content: string) =>
    server.ask("/v1/chat/completions", {
      messages: [{ role: "user", content: [{ type: "text", text: content }] }],
      max_tokens: 6,
      temperature: 0,
      session: "chat",
    });
  const first = await ask("Hi");
  const reply = (await Array.fromAsync(
    server.model.generate(chatPrompt(server, ["user", "Hi"]), { temperature: 0, maxTokens: 6 }),
  ))
    .map(({ token }) => token);
  const second = await ask("And?");
  const prompt = [...chatPrompt(server, ["user", "Hi"]), ...reply, ...chatPrompt(server, ["user", "And?"])];
  assert.equal(second.choices[0].message.content, await greedy(server, prompt, 6));
  assert.equal(second.session.tokens, prompt.length + 6);
  assert.equal(first.object, "chat.completion");
});

/** What a template makes of messages and tools, as the server tokenizes it. */
async function rendered(server: Server, body: unknown): Promise<string> {
  const { tokens } = await server.ask("/tokenize", body);
  return server.model.tokenizer!.decode(tokens, { specialTokens: true });
}

Deno.test("tools and their calls reach the template", async () => {
  const template = `{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}` +
    `{% for message in messages %}<{{ message.role }}{% if message.name %} {{ message.name }}{% endif %}` +
    `{% if message.tool_call_id %} of {{ message.tool_call_id }}{% endif %}>` +
    // As many templates do it, which fail when there is no content to add.
    `{{ '' + message.content }}` +
    `{% for call in message.tool_calls or [] %}` +
    `({{ call.id }} {{ call.function.name }} {{ call.function.arguments.city }} {{ call.function.arguments | tojson }})` +
    `{% endfor %}{% if message.mood %}{{ message.mood }}{% endif %}{% endfor %}`;
  const config = { chat_template: template };
  await using server = await serve({}, TEXT, 1, { "tokenizer_config.json": textFile(config) });
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ type: "function" as const, function: { name: "weather", parameters } }];
  const call = {
    id: "call_1",
    type: "function" as const,
    function: { name: "weather", arguments: '{"city":"Oslo"}' },
  };
  const expected =
    '[weather]<user Ann>Rain?<assistant>(call_1 weather Oslo {"city": "Oslo"})<tool of call_1>No.';
  for (const silent of [{ content: null }, {}, { content: "" }]) {
    const messages = [
      { role: "user" as const, name: "Ann", content: "Rain?" },
      { role: "assistant" as const, ...silent, tool_calls: [call] },
      { role: "tool" as const, tool_call_id: "call_1", content: "No." },
    ];
    assert.equal(await rendered(server, { messages, tools }), expected);
    const answer = await server.ask("/v1/chat/completions", {
      messages,
      tools,
      max_tokens: 4,
      temperature: 0,
    });
    assert.equal(
      answer.choices[0].message.content,
      await greedy(server, server.model.tokenizer!.encode(expected), 4),
    );
  }
  const user = { role: "user", content: "Hi", mood: "glad" };
  assert.equal(await rendered(server, { messages: [user], tools: [] }), "<user>Higlad");
  const torn = { ...call, function: { name: "weather", arguments: '{"city":' } };
  const messages = [{ role: "assistant", content: "So: ", tool_calls: [torn] }];
  assert.equal(
    await rendered(server, { messages }),
    '<assistant>So: (call_1 weather  "{\\"city\\":")',
    "what is not JSON stays text",
  );
  for (
    const message of [
      { role: "user", content: null },
      { role: "user" },
      { role: "assistant", content: null },
      { role: "assistant" },
      { role: "assistant", tool_calls: [] },
      { role: "assistant", content: null, tool_calls: [{ id: "x" }] },
      { role: "tool", tool_call_id: 7, content: "x" },
    ]
  ) {
    const error = await assertError(await server.send("/v1/chat/completions", { messages: [message] }), 400);
    assert.match(error.param!, /^messages/);
  }
});

Deno.test("of several templates the one for the request is taken, and chat_template.jinja wins", async () => {
  const body = { messages: [{ role: "user", content: "Hi" }] };
  const tools = [{ type: "function", function: { name: "f" } }];
  const named = (...names: string[]) =>
    textFile({
      chat_template: names.map((name) => ({ name, template: `${name}: {{ messages[0].content }}` })),
    });
  await using server = await serve({}, TEXT, 1, { "tokenizer_config.json": named("tool_use", "default") });
  assert.equal(await rendered(server, body), "default: Hi");
  assert.equal(await rendered(server, { ...body, tools }), "tool_use: Hi");
  await using plain = await serve({}, TEXT, 1, { "tokenizer_config.json": named("default") });
  assert.equal(await rendered(plain, { ...body, tools }), "default: Hi");
  await using rag = await serve({}, TEXT, 1, { "tokenizer_config.json": named("rag") });
  const { message } = await assertError(
    await rag.send("/v1/chat/completions", body),
    400,
    "no_chat_template",
  );
  assert.match(message, /only rag/);
  await using file = await serve({}, TEXT, 1, {
    "tokenizer_config.json": named("default"),
    "chat_template.jinja": new TextEncoder().encode("file: {{ messages[0].content }}"),
  });
  assert.equal(await rendered(file, body), "file: Hi");
});

Deno.test("what a template refuses, it tells the client", async () => {
  const advice = "Conversation roles must alternate user/assistant/user/assistant/...";
  const config = { chat_template: `{{ raise_exception('${advice}') }}` };
  await using server = await serve({}, TEXT, 1, { "tokenizer_config.json": textFile(config) });
  const body = { messages: [{ role: "user", content: "Hi" }] };
  for (const path of ["/v1/chat/completions", "/tokenize"]) {
    const { message, param } = await assertError(await server.send(path, body), 400, "template_error");
    assert(message.includes(advice), message);
    assert.equal(param, "messages");
  }
});

Deno.test("a model without chat template or tokenizer says so", async () => {
  await using server = await serve();
  const { tokenizer } = server.model;
  const chat = { messages: [{ role: "user", content: "Hi" }] };
  Object.defineProperty(tokenizer, "config", { value: {} });
  await assertError(await server.send("/v1/chat/completions", chat), 400, "no_chat_template");
  Object.defineProperty(tokenizer, "config", { value: { chat_template: "{{ raise_exception('no') }}" } });
  await assertError(await server.send("/v1/chat/completions", chat), 400);
  Object.defineProperty(server.model, "tokenizer", { value: undefined });
  for (
    const [path, body] of [["/v1/chat/completions", chat], ["/tokenize", { prompt: "a" }], [
      "/v1/completions",
      { prompt: "a" },
    ]] as const
  ) {
    await assertError(await server.send(path, body), 400, "no_tokenizer");
  }
  const { choices } = await server.ask("/v1/completions", {
    prompt: [1, 2],
    max_tokens: 3,
    logprobs: 0,
    temperature: 0,
  });
  assert.match(choices[0].logprobs.tokens[0], /^token_id:\d+$/);
  assert.equal(choices[0].logprobs.tokens.length, 3);
});
