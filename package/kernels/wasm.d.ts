/**
 * The kernels as a compiled module, as hosts and bundlers give it that compile `.wasm` imports themselves: workerd,
 * Wrangler, `import source`. Pass it to `createBackend({ module })`.
 */
declare const module: WebAssembly.Module;
export default module;
