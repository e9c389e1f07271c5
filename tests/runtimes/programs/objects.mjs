// Four servers of a Worker over one class of Durable Objects, in workerd that is killed with -9 again and again. Arguments:
// the bundle's folder, the model's folder. Says what it saw as JSON.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { Miniflare } from "miniflare";

const [bundle, folder] = process.argv.slice(2);
const names = (await readdir(bundle)).filter((name) => /\.(js|wasm)$/.test(name));
names.sort((name) => name === "objects.js" ? -1 : 1); // the first is the entry
const modules = await Promise.all(names.map(async (name) => ({
  type: name.endsWith(".js") ? "ESModule" : "CompiledWasm",
  path: `${bundle}/${name}`,
  contents: await readFile(`${bundle}/${name}`, name.endsWith(".js") ? "utf8" : undefined),
})));
const place = await mkdtemp(`${tmpdir()}/levin-objects-`);

async function start() {
  const host = new Miniflare({
    modules,
    modulesRoot: bundle,
    compatibilityDate: "2026-04-01",
    compatibilityFlags: ["enable_request_signal", "nodejs_compat"],
    durableObjects: {
      LEVIN: { className: "Levin", useSQLite: true },
      SESSIONS: { className: "SessionObject", useSQLite: true },
    },
    durableObjectsPersist: place,
    serviceBindings: {
      MODEL: (request) =>
        readFile(folder + new URL(request.url).pathname).then(
          (bytes) => new Response(bytes),
          () => new Response(null, { status: 404 }),
        ),
    },
    host: "127.0.0.1",
    port: 0,
    handleRuntimeStdio() {},
  });
  return { host, url: await host.ready };
}

/** The process of the runtime. */
const runtimes = () =>
  execFileSync("ps", ["-o", "pid=,comm=", "--ppid", String(process.pid)], { encoding: "utf8" }).split("\n")
    .filter((line) => line.includes("workerd")).map((line) => Number.parseInt(line));

let { host, url } = await start();
assert.equal(await (await fetch(new URL("/conforms", url))).text(), "ok");

const TURN = 4, SESSIONS = 12, CLIENTS = 12, SERVERS = 4, KILLS = 3, TURNS = 40;
const acknowledged = Array.from({ length: SESSIONS }, () => []);
const unheard = new Array(SESSIONS).fill(0);
const counts = { turns: 0, conflicts: 0, unavailable: 0, unheard: 0, kills: 0 };
let asked = 0;
const turn = async (s) => {
  const n = asked++;
  const prompt = [7 + (n >> 8), n & 255, 5];
  let response, body;
  try {
    response = await fetch(new URL("/v1/completions", url), {
      method: "POST",
      headers: { "content-type": "application/json", "x-server": `server ${n % SERVERS}` },
      body: JSON.stringify({ prompt, max_tokens: 1, temperature: 0, session: `s${s}` }),
    });
    body = await response.json();
  } catch {
    counts.unheard++;
    return void unheard[s]++;
  }
  if (response.status === 200) {
    counts.turns++;
    acknowledged[s].push(body.session.tokens);
  } else if (response.status === 409) counts.conflicts++;
  else if (response.status === 503 && counts.unavailable < 1000) counts.unavailable++;
  else assert.fail(`${response.status} ${JSON.stringify(body)}`);
};
for (let kill = 0; kill <= KILLS; kill++) {
  let isOver = false;
  const end = counts.turns + TURNS;
  const clients = Array.from({ length: CLIENTS }, async (_, c) => {
    for (let n = 0; !isOver; n++) {
      const s = (c + n) % SESSIONS;
      await Promise.all([turn(s), turn(s)]);
      if (counts.turns < end || isOver) continue;
      isOver = true;
      if (kill === KILLS) continue;
      for (const pid of runtimes()) process.kill(pid, "SIGKILL");
      counts.kills++;
    }
  });
  await Promise.all(clients);
  if (kill === KILLS) break;
  await host.dispose().catch(() => {});
  ({ host, url } = await start());
}
// Each session ends where its last acknowledged turn did, or further by turns that nobody heard of.
for (let s = 0; s < SESSIONS; s++) {
  await turn(s);
  const ends = acknowledged[s].toSorted((a, b) => a - b);
  assert.equal(new Set(ends).size, ends.length, `session ${s}: two turns were told the same end: ${ends}`);
  assert(ends.every((tokens) => tokens % TURN === 0), `session ${s}: ${ends}`);
  const more = ends.at(-1) / TURN - ends.length;
  assert(more >= 0 && more <= unheard[s], `session ${s}: ${ends}, ${unheard[s]} unheard of`);
}
assert(counts.conflicts > 0, "requests of one session met");
await host.dispose();
await rm(place, { recursive: true });
console.log(JSON.stringify(counts));
process.exit();
