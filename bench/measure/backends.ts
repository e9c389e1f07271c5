/**
 * What there is to measure on: the backends of this machine.
 *
 * @module
 */
import { type Backend, BackendError, createBackend } from "../../mod.ts";

/**
 * WASM on one thread and, where a hardware GPU is present, WebGPU; `LEVIN_BACKENDS=wasm` or `=webgpu` takes one of them,
 * also one that runs on a software adapter. They live as long as the process.
 */
export async function presentBackends(): Promise<Backend[]> {
  const wanted = Deno.env.get("LEVIN_BACKENDS")?.split(",");
  if (wanted !== undefined) {
    return await Promise.all(wanted.map((prefer) => createBackend({ prefer: prefer as "wasm" | "webgpu" })));
  }
  const best = await createBackend();
  return best.name === "wasm" ? [best] : [await createBackend({ prefer: "wasm" }), best];
}

/** What a peer gives, or why it cannot: some fail on sizes that others take. */
export async function attempt<T>(make: () => Promise<T>): Promise<T | Error> {
  try {
    return await make();
  } catch (error) {
    if (error instanceof BackendError || !(error instanceof Error)) throw error;
    return error;
  }
}
