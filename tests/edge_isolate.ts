/**
 * Run as another process by `edge_function.ts`: the edge function where there is no GPU and there are no workers. It
 * prints `memory <bytes>`, the most that its heap, its buffers and its kernels held, whenever that has risen.
 *
 * @module
 */
Object.defineProperty(navigator, "gpu", { value: undefined });
Object.defineProperty(globalThis, "Worker", { value: undefined });
const memories: WebAssembly.Memory[] = []; // what Deno counts does not have them
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    memories.push(this);
  }
};
let most = 0;
setInterval(() => {
  const { heapUsed, external } = Deno.memoryUsage();
  const held = memories.reduce((sum, { buffer }) => sum + buffer.byteLength, heapUsed + external);
  if (held <= most) return;
  most = held;
  console.log(`memory ${most}`);
}, 10);
await import("../examples/edge/main.ts");
