// A list of anything that the gateway gives by pages: one query per page, keyset cursors, nothing jumps.
import { Button, Group, Skeleton, Table, Text } from "@mantine/core";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect, useState } from "react";
import { Failed } from "./states";
import { words } from "../words";

const t = words.listing;

export interface Column<T> {
  name: string;
  cell: (row: T) => ReactNode;
  numeric?: boolean;
  /** Left out on narrow screens. */
  extra?: boolean;
  /** In one line where there is room. */
  line?: boolean;
}

export interface Page<T> {
  data: readonly T[];
  next: string | null;
}

interface Props<T> {
  label: string;
  /** What the list depends on; another one begins at the first page. */
  query: readonly unknown[];
  ask: (cursor: string | undefined) => Promise<Page<T>>;
  columns: readonly Column<T>[];
  id: (row: T) => string;
  empty: ReactNode;
  everyMs?: number;
}

export function Listing<T>({ label, query, ask, columns, id, empty, everyMs }: Props<T>) {
  const [cursors, setCursors] = useState<string[]>([]);
  const begin = JSON.stringify(query);
  useEffect(() => setCursors([]), [begin]);
  const cursor = cursors.at(-1);
  const { data, error, isPlaceholderData, refetch } = useQuery({
    queryKey: [...query, cursor ?? ""],
    queryFn: () => ask(cursor),
    placeholderData: keepPreviousData,
    refetchInterval: cursor === undefined ? everyMs : undefined,
  });
  if (error && !data) return <Failed error={error} again={() => void refetch()} />;
  if (data && data.data.length === 0 && cursors.length === 0) return <>{empty}</>;
  const next = data?.next;
  return (
    <>
      {error && <Failed error={error} again={() => void refetch()} />}
      <Table.ScrollContainer minWidth={0} scrollAreaProps={{ viewportProps: { tabIndex: 0, role: "region", "aria-label": label } }}>
        <Table verticalSpacing={7} aria-label={label} aria-busy={!data} className={isPlaceholderData ? "busy" : undefined} highlightOnHover>
          {/* The widths of the columns are those of the rows: named before, the names would jump. */}
          <Table.Thead style={{ visibility: data ? undefined : "hidden" }}>
            <Table.Tr>
              {columns.map((one) => (
                <Table.Th key={one.name} scope="col" className={one.numeric ? "num" : undefined} visibleFrom={one.extra ? "md" : undefined}>
                  {one.name}
                </Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {data
              ? data.data.map((row) => (
                  <Table.Tr key={id(row)}>
                    {columns.map((one) => (
                      <Table.Td key={one.name} className={one.numeric ? "num" : one.line ? "line" : undefined} visibleFrom={one.extra ? "md" : undefined}>
                        {one.cell(row)}
                      </Table.Td>
                    ))}
                  </Table.Tr>
                ))
              : Array.from({ length: 8 }, (_, row) => (
                  <Table.Tr key={row}>
                    <Table.Td colSpan={columns.length}><Skeleton height={14} my={4} /></Table.Td>
                  </Table.Tr>
                ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {(next || cursors.length > 0) && (
        <Group justify="flex-end" mt="sm" gap="xs">
          <Text size="sm" c="dimmed" aria-live="polite">{t.page(cursors.length + 1)}</Text>
          <Button size="xs" variant="default" disabled={cursors.length === 0} onClick={() => setCursors(cursors.slice(0, -1))}>{t.previous}</Button>
          <Button size="xs" variant="default" disabled={!next || isPlaceholderData} onClick={() => next && setCursors([...cursors, next])}>{t.next}</Button>
        </Group>
      )}
    </>
  );
}
