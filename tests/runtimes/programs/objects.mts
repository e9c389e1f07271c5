// A Worker of several servers that share sessions: what a request asks for in "x-server" is the name of one. `/conforms`
// tries the store itself.
import { objectStore } from "@levin/attention/serve/bare";
import { conforms } from "../../store_conformance.ts";
import { Levin, SessionObject } from "../../../examples/cloudflare/main.ts";

export { Levin, SessionObject };

type Env = ConstructorParameters<typeof Levin>[1];

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    if (new URL(request.url).pathname === "/conforms") {
      try {
        await conforms(objectStore(env.SESSIONS), objectStore(env.SESSIONS), { lists: false });
        return new Response("ok");
      } catch (error) {
        return new Response((error as Error).stack);
      }
    }
    return await env.LEVIN.getByName(request.headers.get("x-server") ?? "levin").fetch(request);
  },
};
