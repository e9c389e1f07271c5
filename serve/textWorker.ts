/**
 * The worker of `texts.ts`: a tokenizer in a thread that can be ended.
 *
 * @module
 */
import { parentPort, workerData } from "node:worker_threads";
import { Tokenizer } from "../model/tokenizer.ts";
import { type TextTask, workOn } from "./textWork.ts";

let tokenizer: Tokenizer;
try {
  const { json, config } = JSON.parse(new TextDecoder().decode(workerData as Uint8Array<ArrayBuffer>));
  tokenizer = await Tokenizer.create(json, config);
  parentPort!.postMessage("ready");
} catch (error) {
  parentPort!.postMessage({ failure: String(error) });
}
parentPort!.on("message", async (task: TextTask) => {
  try {
    parentPort!.postMessage(await workOn(tokenizer, task));
  } catch (error) {
    parentPort!.postMessage({ failure: String(error) });
  }
});
