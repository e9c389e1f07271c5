// For Cloudflare's runtime, which compiles what is imported and nothing else.
import baseline from "./baseline.wasm";
import relaxed from "./relaxed.wasm";

const MODULES = { baseline, relaxed };

export async function loadKernels(variant = "relaxed") {
  return MODULES[variant];
}
