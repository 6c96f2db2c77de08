// Charts, drawn by hand: one path for each series, however many rows; labels are text beside it. Nothing is measured.
import "./charts.css";
import { Link } from "@tanstack/react-router";
import { memo, type PointerEvent, useState } from "react";
import type { Search } from "./link";
import { edges, layerAt, places, steps, tenths, type Values } from "./scale";

export interface Series {
  name: string;
  label: string;
  color: string;
  /** What narrows the requests of a row to those of this series. */
  search?: Search;
}

export interface ChartProps {
  kind: "area" | "bar" | "line";
  /** `at` is what a row is called. */
  rows: Values[];
  series: Series[];
  format: (value: number) => string;
  /** How an axis says it, where that is shorter. */
  axis?: (value: number) => string;
  /** Which requests a row counts. */
  leads?: (row: number) => Search;
}

const LABELS = 6; // below each other's way where there is room; on narrow screens every second one is left out
const ROOM = 0.1; // beside a bar, of its place
const ink = (color: string) => `var(--mantine-color-${color.replace(".", "-")})`;
const percents = (share: number) => `${share * 100}%`;

export default function Drawn({ kind, rows, series, format, axis = format, leads }: ChartProps) {
  const names = series.map(({ name }) => name);
  const stacks = rows.map((row) => edges(row, names));
  const flat = kind === "line";
  const ticks = flat
    ? tenths(rows.flatMap((row) => names.map((name) => row[name]).filter((one) => typeof one === "number")))
    : steps(Math.max(0, ...stacks.map((stack) => stack.at(-1)!)));
  const [low, high] = [ticks[0]!, ticks.at(-1)! || 1];
  const width = kind === "bar" ? rows.length : Math.max(1, rows.length - 1);
  const along = (row: number) => (kind === "bar" ? row + 0.5 : row) / width;
  return (
    <>
      <div className="chart">
        <div className="ticks" aria-hidden>{ticks.map((one) => <span key={one}>{axis(one)}</span>)}</div>
        <div className="plot">
          <Shapes kind={kind} rows={rows} stacks={stacks} series={series} low={low} high={high} ticks={ticks} />
          <Pointed kind={kind} rows={rows} stacks={stacks} series={series} high={high} format={format} leads={leads} along={along} />
        </div>
        <div className="places" aria-hidden>
          {places(rows.length, LABELS).map((row) => (
            <span key={row} style={{ left: percents(along(row)), transform: `translateX(-${percents(along(row))})` }}>{rows[row]?.at}</span>
          ))}
        </div>
      </div>
      {series.length > 1 && (
        <div className="legend" aria-hidden>
          {series.map((one) => <span key={one.name} className="legendItem"><i style={{ background: ink(one.color) }} />{one.label}</span>)}
        </div>
      )}
    </>
  );
}

interface ShapesProps { kind: ChartProps["kind"]; rows: Values[]; stacks: number[][]; series: Series[]; low: number; high: number; ticks: number[] }

/** The picture itself, stretched to whatever place there is; what is pointed at does not draw it anew. */
const Shapes = memo(function Shapes({ kind, rows, stacks, series, low, high, ticks }: ShapesProps) {
  const width = kind === "bar" ? rows.length : Math.max(1, rows.length - 1);
  const down = (value: number) => Number(((1 - (value - low) / (high - low)) * 100).toFixed(2));
  const shape = (at: number): string => {
    const top = stacks.map((stack) => down(stack[at + 1]!));
    const ground = stacks.map((stack) => down(stack[at]!));
    if (kind === "bar") {
      return stacks.map((_, row) => (top[row] === ground[row] ? "" : `M${row + ROOM} ${ground[row]}V${top[row]}h${1 - 2 * ROOM}V${ground[row]}Z`)).join("");
    }
    const there = top.map((y, row) => `${row} ${y}`);
    const back = ground.map((y, row) => `${row} ${y}`).reverse();
    return there.length === 0 ? "" : `M${[...there, ...back].join("L")}Z`;
  };
  const line = (name: string) => rows.flatMap((row, at) => (typeof row[name] === "number" ? [`${at} ${down(row[name])}`] : [])).join("L");
  return (
    <svg viewBox={`0 0 ${width} 100`} preserveAspectRatio="none" aria-hidden>
      {ticks.map((one) => <path key={one} className="rule" d={`M0 ${down(one)}H${width}`} />)}
      {series.map((one, at) => kind === "line"
        ? <path key={one.name} className="stroke" d={`M${line(one.name)}`} stroke={ink(one.color)} />
        : <path key={one.name} d={shape(at)} fill={ink(one.color)} />)}
    </svg>
  );
});

interface PointedProps extends Pick<ChartProps, "kind" | "rows" | "series" | "format" | "leads"> {
  stacks: number[][];
  high: number;
  along: (row: number) => number;
}

/** What the pointer is at: its figures, and the way to their requests. (For the keyboard there is the table.) */
function Pointed({ kind, rows, stacks, series, high, format, leads, along }: PointedProps) {
  const [seen, setSeen] = useState<{ row: number; layer: number } | null>(null);
  const look = (event: PointerEvent<HTMLElement>) => {
    const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
    const across = Math.max(0, Math.min(0.9999, (event.clientX - left) / width));
    const row = kind === "bar" ? Math.floor(across * rows.length) : Math.round(across * (rows.length - 1));
    if (!rows[row]) return;
    const layer = layerAt(stacks[row]!, (1 - (event.clientY - top) / height) * high);
    if (seen?.row !== row || seen.layer !== layer) setSeen({ row, layer });
  };
  const heard = { className: "pointed", onPointerMove: look, onPointerDown: look, onPointerLeave: () => setSeen(null) };
  const row = seen && rows[seen.row];
  return (
    <>
      {leads && rows.length > 0
        ? <Link to="/requests" search={{ ...leads(seen?.row ?? 0), ...series[seen?.layer ?? -1]?.search }} tabIndex={-1} aria-hidden preload={false} {...heard} />
        : <div {...heard} />}
      {seen && row && (
        <div className="told" aria-hidden style={{ left: percents(along(seen.row)), transform: `translateX(-${percents(along(seen.row))})` }}>
          <b>{row.at}</b>
          {series.filter((one) => one.name in row).map((one) => (
            <span key={one.name} className="legendItem"><i style={{ background: ink(one.color) }} />{one.label}<em>{format(Number(row[one.name]))}</em></span>
          ))}
        </div>
      )}
      {seen && <div className="hair" style={{ left: percents(along(seen.row)) }} />}
    </>
  );
}
