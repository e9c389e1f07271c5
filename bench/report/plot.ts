/**
 * Line charts against length, as SVG: those of the demo and of the report.
 *
 * @module
 */
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

/** One value of one method. */
export interface PlotPoint {
  readonly method: string;
  /** Where on the x axis, which is logarithmic. */
  readonly length: number;
  readonly y: number;
  /** Least and most of what `y` is the middle of. */
  readonly range?: readonly [number, number];
}

/** One chart. */
export interface Panel {
  readonly title: string;
  readonly values: readonly PlotPoint[];
  /** In the order of the legend. */
  readonly methods: readonly string[];
  readonly colors: readonly string[];
  /** Default: tokens. */
  readonly xTitle?: string;
  /** Ticks of a logarithmic y axis, by their number; default: the axis is linear and begins at 0. */
  readonly steps?: (power: number) => number;
  /** Whether a linear y axis begins at 0; default: it does. */
  readonly isFromZero?: boolean;
  /** Vega expression of a tick's label. */
  readonly labels: string;
}

/** Colours by kind of method. */
export const LIGHTNING = ["#d9480f", "#f08c00"], CONVENTIONAL = ["#2b8a3e", "#1971c2"], NEUTRAL = "#868e96";

/** Ticks 1, 3, 10, 30, ... */
export function decades(power: number): number {
  return (power % 2 === 0 ? 1 : 3) * 10 ** Math.floor(power / 2);
}

/** Labels of numbers, and of bytes. */
export const NUMBERS = "format(datum.value, ',')";
export const BYTES = "datum.value >= 1073741824 ? datum.value / 1073741824 + ' GiB' : " +
  "datum.value >= 1048576 ? datum.value / 1048576 + ' MiB' : datum.value / 1024 + ' KiB'";

/** Draws charts, two side by side: an SVG document. */
export function renderPanels(panels: readonly Panel[]): Promise<string> {
  const spec: TopLevelSpec = {
    background: "white",
    padding: 16,
    concat: panels.map(chart),
    columns: 2,
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

/** Ticks that enclose all values. */
function around(values: number[], step: (power: number) => number): number[] {
  const least = Math.min(...values), most = Math.max(...values);
  let power = 0;
  while (step(power + 1) <= least) power++;
  while (step(power) > least && power > -20) power--;
  const ticks = [step(power)];
  while (ticks[ticks.length - 1] < most) ticks.push(step(++power));
  return ticks;
}

function chart(panel: Panel) {
  const { title, values, methods, colors, xTitle = "tokens (log scale)", steps, isFromZero = true, labels } =
    panel;
  const lengths = [...new Set(values.map(({ length }) => length))];
  const ticks = steps && around(values.map(({ y }) => y), steps);
  return {
    title,
    width: 380,
    height: 300,
    data: {
      values: values.map(({ range, ...point }) => ({ ...point, least: range?.[0], most: range?.[1] })),
    },
    layer: [
      { mark: { type: "line" as const, point: { size: 45, filled: true }, strokeWidth: 2.5 } },
      ...values.some(({ range }) => range !== undefined)
        ? [{
          mark: { type: "rule" as const, strokeWidth: 1 },
          encoding: { y: { field: "least" }, y2: { field: "most" } },
        }]
        : [],
    ],
    encoding: {
      x: {
        field: "length",
        type: "quantitative" as const,
        scale: { type: "log" as const, base: 2, nice: false, padding: 8 },
        axis: {
          title: xTitle,
          values: lengths,
          labelExpr:
            "datum.value % 1024 ? datum.value : datum.value < 1048576 ? datum.value / 1024 + 'K' : datum.value / 1048576 + 'M'",
        },
      },
      y: {
        field: "y",
        type: "quantitative" as const,
        scale: ticks === undefined
          ? { zero: isFromZero, nice: true }
          : { type: "log" as const, nice: false, domain: [ticks[0], ticks[ticks.length - 1]] },
        axis: { title: null, labelExpr: labels, ...ticks && { values: ticks } },
      },
      color: {
        field: "method",
        type: "nominal" as const,
        scale: { domain: [...methods], range: [...colors] },
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
