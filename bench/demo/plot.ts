/**
 * The plot of the demo: speed and memory against length, as SVG.
 *
 * @module
 */
import { BYTES, CONVENTIONAL, decades, LIGHTNING, NEUTRAL, NUMBERS, renderPanels } from "../report/plot.ts";

/** One measurement. */
export interface Point {
  /** What ran. */
  method: string;
  /** Tokens. */
  length: number;
  /** Seconds of one run. */
  seconds: number;
  /** Speed over that of the shortest length, measured in turns. */
  steadiness: number;
  /** Bytes of operands, result and work space. */
  bytes: number;
}

/**
 * Draws measurements.
 *
 * @param points the measurements; the methods' order is that of the legend, the two conventional ones last
 * @param stateBytes what lightning attention keeps to continue
 * @param cacheBytes what softmax attention keeps of so many tokens
 * @returns an SVG document
 */
export function renderPlot(
  points: readonly Point[],
  stateBytes: number,
  cacheBytes: (length: number) => number,
): Promise<string> {
  const methods = [...new Set(points.map(({ method }) => method))];
  const lengths = [...new Set(points.map(({ length }) => length))];
  const speed = points.map(({ method, length, seconds }) => ({ method, length, y: length / seconds }));
  const [state, cache, call] = [
    "state that lightning attention keeps",
    "keys and values that softmax attention keeps",
    "all of one call: inputs and result",
  ];
  const memory = [
    ...lengths.flatMap((length) => [
      { method: state, length, y: stateBytes },
      { method: cache, length, y: cacheBytes(length) },
    ]),
    ...points.filter(({ method }) => method === methods[0])
      .map(({ length, bytes }) => ({ method: call, length, y: bytes })),
  ];
  return renderPanels([
    {
      title: "Tokens per second",
      values: speed,
      methods,
      colors: [...LIGHTNING.slice(0, methods.length - CONVENTIONAL.length), ...CONVENTIONAL],
      steps: decades,
      labels: NUMBERS,
    },
    {
      title: "Memory",
      values: memory,
      methods: [state, cache, call],
      colors: [LIGHTNING[0], CONVENTIONAL[1], NEUTRAL],
      steps: (power) => 4 ** power,
      labels: BYTES,
    },
  ]);
}
