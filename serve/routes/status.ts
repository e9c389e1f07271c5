/**
 * Whether the process is alive, whether it can answer, and what it counts.
 *
 * @module
 */
import { Hono } from "hono";
import type { Env, Service } from "../service.ts";

/** `GET /health` and `GET /ready`, for the host: without a key. */
export function health(service: Service): Hono<Env> {
  return new Hono<Env>()
    .get("/health", (c) => c.json({ status: "ok" }))
    .get("/ready", (c) => c.json({ status: service.status }, service.status === "ready" ? 200 : 503));
}

/** `GET /metrics`, for Prometheus. */
export function metrics({ metrics }: Service): Hono<Env> {
  return new Hono<Env>().get("/metrics", (c) => {
    return c.text(metrics.render(), 200, { "content-type": "text/plain; version=0.0.4" });
  });
}
