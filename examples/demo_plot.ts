/**
 * The plot of the demo: speed and memory against length, as SVG.
 *
 * @module
 */
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

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

const LIGHTNING = ["#d9480f", "#f08c00"], CONVENTIONAL = ["#2b8a3e", "#1971c2"], NEUTRAL = "#868e96";

/**
 * Draws measurements.
 *
 * @param points the measurements; the methods' order is that of the legend, the two conventional ones last
 * @param stateBytes what lightning attention keeps to go on
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
  const spec: TopLevelSpec = {
    background: "white",
    padding: 16,
    hconcat: [
      panel(
        "Tokens per second",
        speed,
        methods,
        [
          ...LIGHTNING.slice(0, methods.length - CONVENTIONAL.length),
          ...CONVENTIONAL,
        ],
        (power) => (power % 2 === 0 ? 1 : 3) * 10 ** (power >> 1),
        "format(datum.value, ',')",
      ),
      panel(
        "Memory",
        memory,
        [state, cache, call],
        [LIGHTNING[0], CONVENTIONAL[1], NEUTRAL],
        (power) => 4 ** power,
        "datum.value >= 1073741824 ? datum.value / 1073741824 + ' GiB' : " +
          "datum.value >= 1048576 ? datum.value / 1048576 + ' MiB' : datum.value / 1024 + ' KiB'",
      ),
    ],
    spacing: 48,
    resolve: { scale: { color: "independent" } },
    config: {
      font: "Helvetica, Arial, sans-serif",
      view: { stroke: null },
      title: { anchor: "start", fontSize: 15, offset: 8 },
      axis: {
        labelFontSize: 11,
        titleFontSize: 12,
        titleFontWeight: "normal",
        gridColor: "#e9ecef",
        domainColor: "#adb5bd",
        tickColor: "#adb5bd",
      },
      legend: { labelFontSize: 12, labelLimit: 1000, rowPadding: 4 },
    },
  };
  return new View(parse(compile(spec).spec), { renderer: "none" }).toSVG();
}

/** Ticks `step(power)` that enclose all values. */
function around(values: number[], step: (power: number) => number): number[] {
  const least = Math.min(...values), most = Math.max(...values);
  let power = 0;
  while (step(power + 1) <= least) power++;
  const ticks = [step(power)];
  while (ticks[ticks.length - 1] < most) ticks.push(step(++power));
  return ticks;
}

/** One log-log panel with a line per method, and its legend below. */
function panel(
  title: string,
  values: { method: string; length: number; y: number }[],
  methods: string[],
  colors: string[],
  steps: (power: number) => number,
  labels: string,
) {
  const lengths = [...new Set(values.map(({ length }) => length))];
  const ticks = around(values.map(({ y }) => y), steps);
  return {
    title,
    width: 380,
    height: 300,
    data: { values },
    mark: { type: "line" as const, point: { size: 45, filled: true }, strokeWidth: 2.5 },
    encoding: {
      x: {
        field: "length",
        type: "quantitative" as const,
        scale: { type: "log" as const, base: 2, nice: false, padding: 8 },
        axis: {
          title: "tokens (log scale)",
          values: lengths,
          labelExpr:
            "datum.value % 1024 ? datum.value : datum.value < 1048576 ? datum.value / 1024 + 'K' : datum.value / 1048576 + 'M'",
        },
      },
      y: {
        field: "y",
        type: "quantitative" as const,
        scale: { type: "log" as const, nice: false, domain: [ticks[0], ticks[ticks.length - 1]] },
        axis: { title: null, labelExpr: labels, values: ticks },
      },
      color: {
        field: "method",
        type: "nominal" as const,
        scale: { domain: methods, range: colors },
        legend: {
          title: null,
          orient: "bottom" as const,
          direction: "vertical" as const,
          symbolType: "stroke",
        },
      },
    },
  };
}
