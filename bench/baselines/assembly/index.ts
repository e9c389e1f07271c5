// Everything the module of the baselines exports, in the manner of assembly/index.ts.
export { leftProduct, quadraticScratch, softmaxAttention } from "./attention";
export { microKernel, readAll } from "./machine";
