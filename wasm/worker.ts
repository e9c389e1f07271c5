/**
 * The worker of `createBackend({ threads, workerUrl })`, for pages whose content security policy forbids workers from
 * `blob:` URLs. Bundle it as a script by itself, serve it from the page's origin, and pass its URL.
 *
 * @module
 */
import { awaitChange, makeCalls, nextLooks, serve } from "./calls.ts";

serve(makeCalls, awaitChange, nextLooks);
