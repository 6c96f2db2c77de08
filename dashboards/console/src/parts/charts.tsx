// The only importer of the chart library: pages load it when they have something to draw.
import "@mantine/charts/styles.css";
import { AreaChart, BarChart, LineChart } from "@mantine/charts";

export interface Series {
  name: string;
  label: string;
  color: string;
}

export interface ChartProps {
  kind: "area" | "bar" | "line";
  rows: Record<string, string | number>[];
  series: Series[];
  format: (value: number) => string;
  /** How an axis says it, where that is shorter. */
  axis?: (value: number) => string;
  height: number;
}

const THIN = 45; // so many bars stand beside each other with room between them; each is an element of its own

export default function Chart({ kind, rows, series, format, axis = format, height }: ChartProps) {
  const most = Math.max(0, ...rows.map((row) => series.reduce((sum, { name }) => sum + Number(row[name] ?? 0), 0)));
  const letters = Math.max(...[1, 0.75, 0.5, 0.25].map((part) => axis(most * part).length));
  const nothing = most === 0 && { ticks: [0], domain: [0, 1] };
  const yAxisProps = { width: Math.max(44, 18 + 7 * letters), tickFormatter: axis, allowDecimals: false, ...nothing };
  const shared = {
    h: height,
    data: rows,
    dataKey: "at",
    series,
    withLegend: series.length > 1,
    legendProps: { verticalAlign: "bottom" as const, height: 28 },
    valueFormatter: format,
    gridAxis: "x" as const,
    tickLine: "none" as const,
    yAxisProps,
    xAxisProps: { minTickGap: 32 },
  };
  if (kind === "line") {
    // Lines are shares, most often up to 1: a scale of whole tenths.
    const shares = rows.flatMap((row) => series.map(({ name }) => row[name]).filter((one) => typeof one === "number"));
    const [low, high] = [Math.floor(Math.min(...shares, 1) * 10), Math.ceil(Math.max(...shares, 1) * 10 - 0.001)];
    const ticks = Array.from({ length: high - low + 1 }, (_, at) => (low + at) / 10);
    return <LineChart {...shared} withDots={false} curveType="monotone" lineProps={{ isAnimationActive: false }} yAxisProps={{ width: 64, tickFormatter: axis, allowDecimals: true, domain: [low / 10, high / 10], ticks }} />;
  }
  // Without a line of its own: a layer of nothing (no failure) would draw one along the top of all the others.
  const layers = { type: "stacked" as const, withDots: false, withGradient: false, strokeWidth: 0, areaProps: { isAnimationActive: false } };
  if (kind === "bar") {
    return rows.length > THIN ? (
      <AreaChart {...shared} {...layers} curveType="step" fillOpacity={1} />
    ) : (
      <BarChart {...shared} type="stacked" barProps={{ isAnimationActive: false }} />
    );
  }
  return <AreaChart {...shared} {...layers} curveType="monotone" fillOpacity={0.8} />;
}
