import assert from "node:assert/strict";
import { openStore } from "../serve/mod.ts";
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
