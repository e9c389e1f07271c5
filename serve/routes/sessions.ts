/**
 * Sessions as clients see them.
 *
 * @module
 */
import { Hono } from "hono";
import { ApiError } from "../errors.ts";
import type { Env, Service } from "../service.ts";
import type { Lease } from "../sessions.ts";

/** `GET`, `DELETE /v1/sessions/<id>` and `POST /v1/sessions/<id>/stop`. */
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
    });
}

function storedIn({ stored }: Lease): NonNullable<Lease["stored"]> {
  if (stored === undefined) {
    throw new ApiError(404, "There is no such session", { code: "session_not_found" });
  }
  return stored;
}
