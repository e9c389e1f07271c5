import { listen } from "../serve/listen.ts";
import { fuzzBodies, fuzzFiles, fuzzHttp, fuzzStores } from "./fuzz.ts";
import { serve } from "./serve_setup.ts";

const SECONDS = 2;

Deno.test("random JSON at the handler", () => fuzzBodies(SECONDS));
Deno.test("random damage in the store of sessions", () => fuzzStores(SECONDS));
Deno.test("random damage in the files of a model", () => fuzzFiles(SECONDS));
Deno.test({
  name: "random HTTP at the port",
  sanitizeOps: false, // connections that were closed while they were being read
  async fn() {
    await using server = await serve();
    const listener = await listen(server.handler, { hostname: "127.0.0.1", port: 0, connections: 64 });
    try {
      await fuzzHttp(listener.url, SECONDS);
    } finally {
      await listener.close(100);
    }
  },
});
