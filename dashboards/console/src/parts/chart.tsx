import { Skeleton } from "@mantine/core";
import { lazy, Suspense } from "react";
import type { ChartProps } from "./charts";

const Drawn = lazy(() => import("./charts"));

/** A chart with its place kept free, and a sentence for who does not see it. */
export function Chart({ about, height = 220, ...rest }: Omit<ChartProps, "height"> & { about: string; height?: number }) {
  return (
    <figure aria-label={about} style={{ margin: "0 0 8px", height }}>
      <Suspense fallback={<Skeleton height={height} />}><Drawn height={height} {...rest} /></Suspense>
    </figure>
  );
}
