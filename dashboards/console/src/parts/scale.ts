// What a chart knows before it draws: the steps of its axis, the layers that lie on each other. Pure.

export type Values = Record<string, string | number>;

/** Round whole steps from zero to where the most fits: 1, 2 or 5 times a power of ten. */
export function steps(most: number): number[] {
  if (most <= 0) return [0];
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, power * ([1, 2, 5].find((one) => one * power >= rough) ?? 10));
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, at) => at * step);
}

/** Steps of whole tenths around shares, most often up to 1. */
export function tenths(shares: readonly number[]): number[] {
  const [low, high] = [Math.floor(Math.min(...shares, 1) * 10), Math.ceil(Math.max(...shares, 1) * 10 - 0.001)];
  return Array.from({ length: high - low + 1 }, (_, at) => (low + at) / 10);
}

/** The edges of a row's layers from the ground up: one more than there are names. */
export function edges(row: Values, names: readonly string[]): number[] {
  const found = [0];
  for (const name of names) found.push(found.at(-1)! + Number(row[name] ?? 0));
  return found;
}

/** Which layer is at a height above the ground; -1 above them all. */
export function layerAt(row: readonly number[], height: number): number {
  return row.findIndex((edge, at) => height >= edge && height < (row[at + 1] ?? edge));
}

/** At most so many places, evenly from the first on. */
export function places(rows: number, most: number): number[] {
  const step = Math.ceil(rows / most);
  return Array.from({ length: Math.ceil(rows / step) }, (_, at) => at * step);
}
