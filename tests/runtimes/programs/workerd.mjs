// examples/cloudflare in workerd. Arguments: the bundle's folder, the model's folder. Says what it saw as JSON.
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { Miniflare } from "miniflare";

const [bundle, folder] = process.argv.slice(2);
const names = (await readdir(bundle)).filter((name) => /\.(js|wasm)$/.test(name));
names.sort((name) => name === "main.js" ? -1 : 1); // the first is the entry
const modules = await Promise.all(names.map(async (name) => ({
  type: name.endsWith(".js") ? "ESModule" : "CompiledWasm",
  path: `${bundle}/${name}`,
  contents: await readFile(`${bundle}/${name}`, name.endsWith(".js") ? "utf8" : undefined),
})));

/** A worker whose files come from `files`. */
async function worker(files) {
  const host = new Miniflare({
    modules,
    modulesRoot: bundle,
    compatibilityDate: "2026-04-01",
    compatibilityFlags: ["enable_request_signal"],
    durableObjects: {
      LEVIN: { className: "Levin", useSQLite: true },
      SESSIONS: { className: "SessionObject", useSQLite: true },
    },
    serviceBindings: { MODEL: files },
    host: "127.0.0.1",
    port: 0,
    handleRuntimeStdio() {}, // errors of failing loads are meant
  });
  const url = await host.ready;
  const ask = (body, signal) =>
    fetch(new URL("/v1/completions", url), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "The state", max_tokens: 16, temperature: 0, ...body }),
      signal,
    });
  return { ask, url, [Symbol.asyncDispose]: () => host.dispose() };
}

const file = async (request) => {
  try {
    return new Response(await readFile(folder + new URL(request.url).pathname));
  } catch {
    return new Response(null, { status: 404 });
  }
};
const textOf = async (response) => {
  assert.equal(response.status, 200, await response.clone().text());
  return (await response.json()).choices[0].text;
};

// A load that never ends: those who wait are told so. It runs while the rest does.
const hanging = worker(() => new Promise(() => {})).then(async (hung) => {
  const { status } = await hung.ask({});
  return { hung, status };
});

let broken = true, loads = 0;
const edge = await worker(async (request) => {
  if (request.url.endsWith("/config.json")) loads++;
  return broken ? new Response(null, { status: 500 }) : await file(request);
});
// A load that fails: both requests that wait for it fail, and the next one tries again.
const failed = await Promise.all([edge.ask({}), edge.ask({})]);
assert.deepEqual(failed.map(({ status }) => status), [503, 503]);
broken = false;
const before = loads;
// The client whose request loads the model goes; those who wait with it get their answers.
const leaving = new AbortController();
const first = edge.ask({}, leaving.signal).catch(({ name }) => name);
const others = [edge.ask({}), edge.ask({})];
while (loads === before) await new Promise((resolve) => setTimeout(resolve, 1));
leaving.abort();
assert.equal(await first, "AbortError");
const texts = await Promise.all(others.map(async (answer) => await textOf(await answer)));
assert.equal(texts[0], texts[1]);
assert.equal(loads, before + 1, "the model is loaded once");

const whole = await textOf(await edge.ask({ max_tokens: 32 }));
assert(whole.startsWith(texts[0]));
const session = "a";
const turns = [await textOf(await edge.ask({ session })), await textOf(await edge.ask({ session, prompt: "" }))];
assert.equal(turns.join(""), whole, "a session continues, through the object's storage");
const events = (await (await edge.ask({ stream: true })).text()).split("\n")
  .filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)).choices[0].text);
assert(events.length > 2);
assert.equal(events.join(""), texts[0]);
// A client that goes in the middle of its answer, while others are answered.
const gone = new AbortController();
const reader = (await edge.ask({ stream: true, max_tokens: 1000 }, gone.signal)).body.getReader();
await reader.read();
const more = [edge.ask({}), edge.ask({})];
gone.abort();
for (const answer of more) assert.equal(await textOf(await answer), texts[0]);

const { hung, status } = await hanging;
assert.equal(status, 503);
await hung[Symbol.asyncDispose]();
// The process of the runtime that is left: with one isolate, the model, and the object's database.
const ids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
const statuses = await Promise.all(ids.map((id) => readFile(`/proc/${id}/status`, "utf8").catch(() => "")));
const memory = statuses.filter((text) => text.startsWith("Name:\tworkerd\n") && text.includes(`PPid:\t${process.pid}\n`))
  .map((text) => Number(/VmRSS:\s+(\d+)/.exec(text)[1]) / 1000);
await edge[Symbol.asyncDispose]();
console.log(JSON.stringify({ model: texts[0], memory }));
process.exit();
