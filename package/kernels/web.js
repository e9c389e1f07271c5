// For pages: the files are streamed. Bundlers know this form of URL, and copy the files.
const URLS = {
  relaxed: new URL("./relaxed.wasm", import.meta.url),
  baseline: new URL("./baseline.wasm", import.meta.url),
};

const stream = async (variant) => await WebAssembly.compileStreaming(fetch(URLS[variant]));

export async function loadKernels(variant) {
  if (variant !== undefined) return await stream(variant);
  try {
    return await stream("relaxed");
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) throw error;
    return await stream("baseline"); // an engine without relaxed SIMD
  }
}
