/**
 * The page at `/`.
 *
 * @module
 */
import { type Context, Hono } from "hono";

/** The page loads scripts from this server and asks this server, and no other host. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** The page and its files. */
export function page(): Hono {
  const app = new Hono();
  const send = async (c: Context, name: string) => {
    const { ASSETS } = await import("./assets.ts"); // on demand: an isolate that only answers starts without it
    const asset = Object.hasOwn(ASSETS, name) ? ASSETS[name] : undefined;
    if (asset === undefined) return c.notFound();
    return c.body(asset.body, 200, {
      "content-type": `${asset.type}; charset=utf-8`,
      "content-security-policy": POLICY,
      "referrer-policy": "no-referrer",
      // Names with a hash never change their content.
      "cache-control": /-[A-Z0-9]{8}\.js$/.test(name) ? "public, max-age=31536000, immutable" : "no-cache",
    });
  };
  app.get("/", (c) => send(c, "index.html"));
  app.get("/page/:name", (c) => send(c, c.req.param("name")));
  return app;
}
