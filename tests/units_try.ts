import { createRequire } from "node:module";
import { createBackend } from "../mod.ts";
import { linear } from "../core/ops.ts";
import { linearBackward } from "../core/gradients.ts";
import { randomArray } from "./numbers.ts";
const require = createRequire(import.meta.url);
const { create, globals } = require("/root/.cache/deno/npm/registry.npmjs.org/webgpu/0.6.2/dist/linux-x64/dawn.node");
Object.assign(globalThis, globals);
const gpu = create(["backend=vulkan", "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia"]);
const backend = await createBackend({ prefer: "webgpu", gpu, precision: "f16" });
console.log(backend.info);
const rel = (a: ArrayLike<number>, b: ArrayLike<number>) => { let e = 0, n = 0; for (let i = 0; i < b.length; i++) { e += (a[i]-b[i])**2; n += b[i]**2; } return Math.sqrt(e/n); };
for (const [rows, inn, out] of [[128, 128, 128], [65, 40, 33], [300, 200, 171], [2000, 64, 1024], [70, 8, 8], [1000,100,100]]) {
  const x = randomArray([rows, inn], 1), w = randomArray([out, inn], 2), dy = randomArray([rows, out], 3), b = randomArray([out], 4), r = randomArray([rows, out], 5), r2 = randomArray([rows, inn], 7), d0=randomArray([out,inn],9);
  const X = backend.tensor(x, [rows, inn]), W = backend.tensor(w, [out, inn]), DY = backend.tensor(dy, [rows, out]), B = backend.tensor(b,[out]), R = backend.tensor(r,[rows,out]), R2 = backend.tensor(r2,[rows,inn]);
  const D = backend.tensor(d0, [out, inn]);
  const y = await linear(X, W, { bias: B, residual: R }).data();
  const dxT = linearBackward(X, W, DY, { dWeight: D, residual: R2 });
  const dx = await dxT.data(), dw = await D.data();
  const ey = new Float64Array(rows*out), edx = new Float64Array(rows*inn), edw = Float64Array.from(d0);
  for (let i=0;i<rows;i++) for (let j=0;j<out;j++) { let s = b[j]+r[i*out+j]; for (let k=0;k<inn;k++) s += x[i*inn+k]*w[j*inn+k]; ey[i*out+j]=s; }
  for (let i=0;i<rows;i++) for (let k=0;k<inn;k++) { let s=r2[i*inn+k]; for (let j=0;j<out;j++) s += dy[i*out+j]*w[j*inn+k]; edx[i*inn+k]=s; }
  for (let j=0;j<out;j++) for (let k=0;k<inn;k++) { let s=0; for (let i=0;i<rows;i++) s += dy[i*out+j]*x[i*inn+k]; edw[j*inn+k]+=s; }
  console.log(rows, inn, out, "y", rel(y, ey), "dx", rel(dx, edx), "dW", rel(dw, edw));
}
Deno.exit();
