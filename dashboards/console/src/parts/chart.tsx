import { Skeleton, Table } from "@mantine/core";
import { lazy, Suspense, useState } from "react";
import type { ChartProps } from "./charts";
import { To } from "./link";
import { words } from "../words";

const t = words.chart;

// Asked for with the page that will draw, not with its rows: it comes while those are waited for.
const drawing = import("./charts");
const Drawn = lazy(() => drawing);

interface Props extends Omit<ChartProps, "rows"> {
  /** A sentence for who does not see it. */
  about: string;
  /** What the rows are. */
  of: string;
  height?: number;
  rows: ChartProps["rows"] | undefined;
}

/** A chart with its place kept free, also while it has no rows yet, and the same as a table. */
export function Chart({ about, of, height = 220, rows, ...rest }: Props) {
  return (
    <>
      <figure aria-label={about} style={{ margin: "0 0 4px", height, display: "flex", flexDirection: "column" }}>
        <Suspense fallback={<Skeleton height={height} />}>{rows ? <Drawn rows={rows} {...rest} /> : <Skeleton height={height} />}</Suspense>
      </figure>
      <Told about={about} of={of} rows={rows ?? []} {...rest} />
    </>
  );
}

/** The figures of a chart: for who reads them by ear or by keyboard, or wants the exact ones. */
function Told({ about, of, rows, series, format, leads }: Omit<Props, "rows" | "height"> & { rows: ChartProps["rows"] }) {
  const [open, setOpen] = useState(false);
  return (
    <details className="data" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary aria-label={t.asATableOf(about)}>{t.asATable}</summary>
      {open && (
        <div className="scrolled" tabIndex={0} role="region" aria-label={about}>
          <Table verticalSpacing={3} aria-label={about} stickyHeader>
            <Table.Thead>
              <Table.Tr><Table.Th scope="col">{of}</Table.Th>{series.map((one) => <Table.Th key={one.name} scope="col" className="num">{one.label}</Table.Th>)}</Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {rows.map((row, at) => (
                <Table.Tr key={String(row.at)}>
                  <Table.Th scope="row" fw={400}>{leads ? <To to="/requests" search={leads(at)}>{row.at}</To> : row.at}</Table.Th>
                  {series.map((one) => {
                    const told = one.name in row ? format(Number(row[one.name])) : t.none;
                    return <Table.Td key={one.name} className="num">{leads && one.search && Number(row[one.name]) > 0 ? <To to="/requests" search={{ ...leads(at), ...one.search }}>{told}</To> : told}</Table.Td>;
                  })}
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </details>
  );
}
