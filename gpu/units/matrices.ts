/// <reference types="@webgpu/types" />
/**
 * Which matrices the units of an adapter multiply.
 *
 * @module
 */

/** Matrices of f16 that a subgroup multiplies, M × K by K × N, into M × N of f32. */
export interface Matrices {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** Threads of a subgroup. */
  readonly lanes: number;
}

/** The features that kernels for matrix units need: names of Dawn, as the standard has none yet. */
export const FEATURES: readonly string[] = [
  "shader-f16",
  "subgroups",
  "chromium-experimental-subgroup-matrix",
];

/** What Dawn says of an adapter; the types of WebGPU do not know it yet. */
interface Grants {
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
  readonly subgroupMatrixConfigs?: Iterable<{
    readonly componentType: string;
    readonly resultComponentType: string;
    readonly M: number;
    readonly N: number;
    readonly K: number;
  }>;
}

/**
 * The largest matrices of f16 with sums in f32 that an adapter grants, of those with sizes of 8 and 16; or why there are none.
 */
export function matricesOf({ features, info }: GPUAdapter): Matrices | string {
  const missing = FEATURES.filter((feature) => !features.has(feature as GPUFeatureName));
  if (missing.length > 0) return `it does not offer ${missing.join(", ")}`;
  const { subgroupMinSize, subgroupMaxSize, subgroupMatrixConfigs = [] } = info as Grants;
  if (subgroupMinSize === undefined || subgroupMinSize !== subgroupMaxSize) {
    return `its subgroups have ${subgroupMinSize} to ${subgroupMaxSize} threads, and kernels need one size`;
  }
  const fits = (size: number) => size === 8 || size === 16;
  let best: Matrices | undefined;
  for (const { componentType, resultComponentType, M, N, K } of subgroupMatrixConfigs) {
    if (componentType !== "f16" || resultComponentType !== "f32" || ![M, N, K].every(fits)) continue;
    if (best === undefined || M * N * K > best.M * best.N * best.K) {
      best = { M, N, K, lanes: subgroupMinSize };
    }
  }
  return best ?? "none of its matrices is f16 with sums in f32 and of 8 or 16 rows and columns";
}
