// What the authors' PyTorch code computes, forward and backward.
import { lightningAttention, lightningAttentionBackward } from "../mod.ts";
import { decodeSafetensors, toFloat32 } from "../model/safetensors.ts";
import { assertClose, eachBackend, Scope } from "./harness.ts";

const LIMIT = 2e-5;

const { tensors, metadata } = decodeSafetensors(
  Deno.readFileSync(new URL("golden/attention.safetensors", import.meta.url)),
);
const cases: { index: number; slope: string }[] = JSON.parse(metadata.cases);

/** A case's tensor: its data and shape. */
function golden(index: number, name: string): [Float32Array, readonly number[]] {
  const { dtype, bytes, shape } = tensors.get(`${index}.${name}`)!;
  return [toFloat32(dtype, bytes, name), shape];
}

function slopesOf({ index, slope }: { index: number; slope: string }): Float32Array | undefined {
  return slope === "none" ? undefined : golden(index, "slope")[0];
}

eachBackend("lightningAttention gives the authors' outputs and final states", async (backend) => {
  for (const c of cases) {
    using scope = new Scope();
    const tensor = (name: string) => scope.keep(backend.tensor(...golden(c.index, name)));
    const slopes = slopesOf(c);
    const { output, state } = scope.keep(
      lightningAttention(tensor("q"), tensor("k"), tensor("v"), { slopes }),
    );
    const what = JSON.stringify(c);
    assertClose(await output.data(), golden(c.index, "o")[0], LIMIT, `output of ${what}`);
    assertClose(await state.data(), golden(c.index, "state")[0], LIMIT, `state of ${what}`);
  }
});

eachBackend("lightningAttentionBackward gives the authors' gradients", async (backend) => {
  for (const c of cases) {
    using scope = new Scope();
    const tensor = (name: string) => scope.keep(backend.tensor(...golden(c.index, name)));
    const slopes = slopesOf(c);
    const gradients = scope.keep(
      lightningAttentionBackward(tensor("q"), tensor("k"), tensor("v"), tensor("do"), { slopes }),
    );
    for (const name of ["dq", "dk", "dv"] as const) {
      const expected = golden(c.index, name)[0];
      assertClose(await gradients[name].data(), expected, LIMIT, `${name} of ${JSON.stringify(c)}`);
    }
  }
});
