/**
 * Run as another process by `edge_function.ts`: the edge function where there is no GPU and there are no workers. It
 * prints `memory <bytes>`, the most that its heap and its buffers held (not the kernels' memory), whenever that has risen.
 *
 * @module
 */
Object.defineProperty(navigator, "gpu", { value: undefined });
Object.defineProperty(globalThis, "Worker", { value: undefined });
let most = 0;
setInterval(() => {
  const { heapUsed, external } = Deno.memoryUsage();
  if (heapUsed + external <= most) return;
  most = heapUsed + external;
  console.log(`memory ${most}`);
}, 10);
await import("../examples/edge/main.ts");
