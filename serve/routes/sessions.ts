/**
 * Sessions as clients see them.
 *
 * @module
 */
import { Hono } from "hono";
import { readJson } from "../body.ts";
import { ApiError } from "../errors.ts";
import { forkSchema } from "../schema.ts";
import type { Env, Service } from "../service.ts";
import type { Lease } from "../sessions.ts";

/** `GET`, `DELETE /v1/sessions/<id>`, `POST /v1/sessions/<id>/stop` and `POST /v1/sessions/<id>/fork`. */
export function sessions(service: Service): Hono<Env> {
  const { sessions } = service;
  return new Hono<Env>()
    .get("/v1/sessions/:id", async (c) => {
      const { stateBytes } = await service.engine;
      const id = c.req.param("id");
      using lease = await sessions.open(c.get("owner"), id);
      const { tokens, expires } = storedIn(lease);
      return c.json({ id, tokens, state_bytes: stateBytes, expires: new Date(expires).toISOString() });
    })
    .delete("/v1/sessions/:id", async (c) => {
      const id = c.req.param("id");
      using lease = await sessions.open(c.get("owner"), id);
      storedIn(lease);
      await lease.remove();
      return c.json({ id, deleted: true });
    })
    .post("/v1/sessions/:id/stop", async (c) => {
      const id = c.req.param("id");
      return c.json({ id, stopped: await sessions.stop(c.get("owner"), id) });
    })
    .post("/v1/sessions/:id/fork", async (c) => {
      const { id } = await readJson(c, forkSchema);
      const { stateBytes } = await service.engine;
      using origin = await sessions.open(c.get("owner"), c.req.param("id"));
      const { tokens } = storedIn(origin);
      using lease = await sessions.open(c.get("owner"), id);
      if (lease.stored !== undefined) {
        throw new ApiError(409, "There is a session of this id already", {
          param: "id",
          code: "session_exists",
        });
      }
      await lease.save((await origin.read())!);
      return c.json({ id, tokens, state_bytes: stateBytes });
    });
}

function storedIn({ stored }: Lease): NonNullable<Lease["stored"]> {
  if (stored === undefined) {
    throw new ApiError(404, "There is no such session", { code: "session_not_found" });
  }
  return stored;
}
