/**
 * `deno task test:stores`: four servers over each store of sessions for a minute, while servers are killed with -9 and the
 * network delays and cuts. It ends with status 1 if a turn was lost.
 *
 * @module
 */
import { serve, textFiles } from "./serve_setup.ts";
import { chaos } from "./store_chaos.ts";
import { SHARED_STORES } from "./store_servers.ts";

const [seconds = "60", ...names] = Deno.args;
const unknown = names.filter((name) => !SHARED_STORES.some((kind) => kind.name === name));
if (unknown.length > 0 || !(Number(seconds) > 0)) {
  console.error(`[<seconds>] [${SHARED_STORES.map(({ name }) => name).join(" | ")}] ...`);
  Deno.exit(2);
}

const folder = await Deno.makeTempDir();
let failed = false;
const COLUMNS = [
  "store",
  "acknowledged",
  "409",
  "503",
  "unknown",
  "stored of those",
  "kill -9",
  "cuts",
  "lost",
];
console.log(`| ${COLUMNS.join(" | ")} |\n|${"---|".repeat(COLUMNS.length)}`);
try {
  for (const [name, bytes] of Object.entries(textFiles())) await Deno.writeFile(`${folder}/${name}`, bytes);
  for (const { name, present, start } of SHARED_STORES) {
    if (names.length > 0 && !names.includes(name)) continue;
    if (!present) {
      failed = true;
      console.log(`| ${name} | this machine lacks it |`);
      continue;
    }
    await using reference = await serve({ limits: { sessionsBytes: 2 ** 30 } });
    await using store = await start();
    const end = performance.now() + 1000 * Number(seconds);
    const report = await chaos(folder, reference, store, {
      servers: 4,
      clients: 64,
      sessions: 200,
      turnsPerKill: 250,
      isOver: () => performance.now() > end,
    });
    const { turns, conflicts, unavailable, kills, cuts, lost } = report;
    const numbers = [
      turns,
      conflicts,
      unavailable,
      report.unknown,
      report.unknownStored,
      kills,
      cuts,
      lost.length,
    ];
    console.log(`| ${name} | ${numbers.join(" | ")} |`);
    for (const line of lost) console.error(line);
    failed ||= lost.length > 0;
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
Deno.exit(failed ? 1 : 0);
