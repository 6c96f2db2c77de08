// The only importer of the chart library: pages load it when they have something to draw.
import "@mantine/charts/styles.css";
import { AreaChart, BarChart } from "@mantine/charts";

export interface Series {
  name: string;
  label: string;
  color: string;
}

export interface ChartProps {
  kind: "area" | "bar";
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
    type: "stacked" as const,
    withLegend: series.length > 1,
    legendProps: { verticalAlign: "bottom" as const, height: 28 },
    valueFormatter: format,
    gridAxis: "x" as const,
    tickLine: "none" as const,
    yAxisProps: { width: 64 },
    xAxisProps: { minTickGap: 32 },
  };
  return kind === "bar" ? (
    <BarChart {...shared} barProps={{ isAnimationActive: false }} />
  ) : (
    <AreaChart {...shared} withDots={false} curveType="monotone" areaProps={{ isAnimationActive: false }} />
  );
}
