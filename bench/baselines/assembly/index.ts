// Everything the module of the baselines exports, in the manner of assembly/index.ts.
export { leftProduct, quadraticScratch, softmaxAttention, softmaxStep } from "./attention";
export { microKernel, readAll } from "./machine";
