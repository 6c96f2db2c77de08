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
  height: number;
}

export default function Chart({ kind, rows, series, format, height }: ChartProps) {
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
    yAxisProps: { width: 64 },
    xAxisProps: { minTickGap: 32 },
  };
  if (kind === "line") {
    // Lines are shares, most often up to 1: a scale of whole tenths.
    const shares = rows.flatMap((row) => series.map(({ name }) => row[name]).filter((one) => typeof one === "number"));
    const [low, high] = [Math.floor(Math.min(...shares, 1) * 10), Math.ceil(Math.max(...shares, 1) * 10 - 0.001)];
    const ticks = Array.from({ length: high - low + 1 }, (_, at) => (low + at) / 10);
    return <LineChart {...shared} withDots={false} curveType="monotone" lineProps={{ isAnimationActive: false }} yAxisProps={{ width: 64, domain: [low / 10, high / 10], ticks }} />;
  }
  return kind === "bar" ? (
    <BarChart {...shared} type="stacked" barProps={{ isAnimationActive: false }} />
  ) : (
    <AreaChart {...shared} type="stacked" withDots={false} curveType="monotone" areaProps={{ isAnimationActive: false }} />
  );
}
