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
  const yAxisProps = { width: Math.max(44, 12 + 7 * letters), tickFormatter: axis };
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
    return <LineChart {...shared} withDots={false} curveType="monotone" lineProps={{ isAnimationActive: false }} yAxisProps={{ width: 64, tickFormatter: axis, domain: [low / 10, high / 10], ticks }} />;
  }
  if (kind === "bar" && rows.length > THIN) return <AreaChart {...shared} type="stacked" withDots={false} curveType="step" withGradient={false} fillOpacity={1} strokeWidth={0} areaProps={{ isAnimationActive: false }} />;
  return kind === "bar" ? (
    <BarChart {...shared} type="stacked" barProps={{ isAnimationActive: false }} />
  ) : (
    <AreaChart {...shared} type="stacked" withDots={false} curveType="monotone" areaProps={{ isAnimationActive: false }} />
  );
}
