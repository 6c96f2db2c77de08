import { Skeleton } from "@mantine/core";
import { lazy, Suspense } from "react";
import type { ChartProps } from "./charts";

// Asked for with the page that will draw, not with its rows: it comes while those are waited for.
const drawing = import("./charts");
const Drawn = lazy(() => drawing);

/** A chart with its place kept free, also while it has no rows yet, and a sentence for who does not see it. */
export function Chart({ about, height = 220, rows, ...rest }: Omit<ChartProps, "height" | "rows"> & { about: string; height?: number; rows: ChartProps["rows"] | undefined }) {
  return (
    <figure aria-label={about} style={{ margin: "0 0 8px", height }}>
      <Suspense fallback={<Skeleton height={height} />}>{rows ? <Drawn height={height} rows={rows} {...rest} /> : <Skeleton height={height} />}</Suspense>
    </figure>
  );
}
