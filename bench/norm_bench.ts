/** SRMSNorm beside a loop that reads as many bytes. */
import { createBackend } from "../mod.ts";
import { Baselines } from "./baselines/mod.ts";
import { normCase, register } from "./cases.ts";

const backend = await createBackend({ prefer: "wasm" });
register("norm", new Baselines(), await normCase(backend, 16384, 1024));
