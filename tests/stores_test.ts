import assert from "node:assert/strict";
import { openStore } from "../serve/mod.ts";
import { serve, textFiles } from "./serve_setup.ts";
import { chaos } from "./store_chaos.ts";
import { conforms } from "./store_conformance.ts";
import { SHARED_STORES } from "./store_servers.ts";

Deno.test("a store of sessions compares and sets: memory", async () => {
  const store = await openStore("memory:");
  await conforms(store, store);
});

for (const { name, present, start } of SHARED_STORES) {
  Deno.test({
    name: `a store of sessions compares and sets: ${name}`,
    ignore: !present,
    async fn() {
      await using place = await start();
      const [a, b] = [await openStore(place.url), await openStore(place.url)];
      await conforms(a, b);
      await a.close();
      await b.close();
    },
  });
}

Deno.test("servers that are killed, over one store with a bad network, lose no acknowledged turn", async (t) => {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, bytes] of Object.entries(textFiles())) await Deno.writeFile(`${folder}/${name}`, bytes);
    await using reference = await serve({ limits: { sessionsBytes: 2 ** 30 } });
    for (const { name, present, start } of SHARED_STORES) {
      await t.step({
        name,
        ignore: !present,
        async fn() {
          await using store = await start();
          const report = await chaos(folder, reference, store, {
            servers: 4,
            clients: 16,
            sessions: 40,
            turnsPerKill: 100,
            isOver: ({ turns, kills }) => turns >= 300 && kills >= 2,
          });
          console.log(JSON.stringify(report));
          assert.deepEqual(report.lost, []);
          assert(report.conflicts > 0, "requests of one session met");
        },
      });
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
