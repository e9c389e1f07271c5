/**
 * The page at `/`, and the model's files for those who run it in the page.
 *
 * @module
 */
import { type Context, Hono } from "hono";
import { openSource } from "../../model/source.ts";
import { ApiError } from "../errors.ts";

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

/** Names of files that a model is loaded from. */
const MODEL_FILE = [
  "(?:config|generation_config|tokenizer|tokenizer_config)\\.json",
  "chat_template\\.jinja",
  "model(?:-\\d+-of-\\d+)?\\.safetensors",
  "model\\.safetensors\\.index\\.json",
].join("|");

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
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      // Names with a hash never change their content.
      "cache-control": /-[A-Z0-9]{8}\.js$/.test(name) ? "public, max-age=31536000, immutable" : "no-cache",
    });
  };
  app.get("/", (c) => send(c, "index.html"));
  app.get("/page/:name", (c) => send(c, c.req.param("name")));
  return app;
}

/** The files that a model is loaded from, as they are, and no others of the checkpoint. */
export function modelFiles(checkpoint: string | URL): Hono {
  const app = new Hono();
  const source = openSource(checkpoint, {});
  app.get(
    `/:name{${MODEL_FILE}}`,
    async (c) => {
      const file = await source.open(c.req.param("name"));
      if (file === undefined) {
        throw new ApiError(404, "The checkpoint has no such file", {
          code: "not_found",
        });
      }
      const body = new ReadableStream<Uint8Array>({
        async pull(controller) {
          const piece = new Uint8Array(2 ** 18);
          const filled = await file.read(piece);
          if (filled > 0) controller.enqueue(piece.subarray(0, filled));
          if (filled < piece.length) {
            await file.close();
            controller.close();
          }
        },
        cancel: () => file.close(),
      });
      return c.body(body, 200, {
        "content-type": "application/octet-stream",
        ...(file.size === undefined ? {} : { "content-length": String(file.size) }),
      });
    },
  );
  return app;
}
