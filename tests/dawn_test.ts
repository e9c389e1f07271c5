/**
 * The library in Dawn, Chromium's WebGPU as npm's `webgpu` has it, on the software GPU that Debian's Chromium brings.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { BackendError, createBackend } from "../mod.ts";
import { MAY_LEAVE_OUT, SWIFTSHADER } from "./setup.ts";

Deno.test({
  name: "Dawn: operations, attention, gradients and a model through createBackend({ gpu })",
  ignore: MAY_LEAVE_OUT && SWIFTSHADER === undefined,
  fn: async () => {
    assert(SWIFTSHADER !== undefined, "Debian's chromium brings SwiftShader: deno run -A tests/setup.ts");
    const lock = fileURLToPath(new URL("../deno.lock", import.meta.url));
    const program = fileURLToPath(new URL("dawn_program.ts", import.meta.url));
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", `--lock=${lock}`, "--frozen", "-A", "--no-check", program],
      env: {
        VK_ICD_FILENAMES: SWIFTSHADER.driver,
        LD_LIBRARY_PATH: SWIFTSHADER.libraries,
      },
      stdin: "null",
    }).output();
    const decoder = new TextDecoder(), printed = decoder.decode(stdout);
    assert(success, printed + decoder.decode(stderr));
    assert.match(JSON.parse(printed).device, /SwiftShader/);
  },
});

Deno.test("createBackend({ gpu }): what is given is asked, and nothing else", async () => {
  const empty = { requestAdapter: () => Promise.resolve(null) };
  await assert.rejects(
    createBackend({ prefer: "webgpu", gpu: empty }),
    (error: Error) => error instanceof BackendError && error.reason === "unavailable",
  );
  using backend = await createBackend({ gpu: empty });
  assert.equal(backend.name, "wasm");
  assert.match(backend.info.reason, /no GPU adapter/);
  for (const gpu of [null, 1, {}]) {
    await assert.rejects(
      createBackend({ gpu: gpu as never }),
      /^TypeError: Cannot run createBackend as gpu must be a GPU object: current value is /,
    );
  }
});
