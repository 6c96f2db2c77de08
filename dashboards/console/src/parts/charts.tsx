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
    // Lines are shares: 1 is the most that there is.
    return <LineChart {...shared} withDots={false} curveType="monotone" lineProps={{ isAnimationActive: false }} yAxisProps={{ width: 64, domain: ["auto", 1] }} />;
  }
  return kind === "bar" ? (
    <BarChart {...shared} type="stacked" barProps={{ isAnimationActive: false }} />
  ) : (
    <AreaChart {...shared} type="stacked" withDots={false} curveType="monotone" areaProps={{ isAnimationActive: false }} />
  );
}
