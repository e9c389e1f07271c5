/**
 * Run by `edge_test.ts` as another process: the edge function where there is no GPU and there are no workers.
 *
 * @module
 */
Object.defineProperty(navigator, "gpu", { value: undefined });
Object.defineProperty(globalThis, "Worker", { value: undefined });
await import("../examples/edge/main.ts");
