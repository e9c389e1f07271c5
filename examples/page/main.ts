/// <reference lib="dom" />
/**
 * A page with a model that never blocks: the model runs in a worker. Bundle `main.ts` and `worker.ts`, and serve both with
 * `index.html`, the model's folder as `model/`, and the headers of docs/hosts.md, which let the worker have threads:
 *
 *     deno bundle --platform browser --outdir site examples/page/main.ts examples/page/worker.ts
 *
 * @module
 */
import { RemoteModel } from "./remote.ts";

const form = document.querySelector("form")!, prompt = document.querySelector("textarea")!;
const output = document.querySelector("output")!, button = document.querySelector("button")!;

const model = await RemoteModel.load(
  new URL("worker.js", import.meta.url),
  new URL("model/", document.baseURI),
);
output.textContent = `Ready, on ${model.backend} with ${model.threads} threads.`;
button.disabled = false;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  output.textContent = prompt.value;
  for await (const text of model.generate(prompt.value, { maxTokens: 200 })) output.append(text);
  button.disabled = false;
});
