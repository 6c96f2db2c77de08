import { Link } from "@tanstack/react-router";
import type { ReactNode } from "react";

export type Search = Record<string, string | undefined>;

/** A link within the console; filters are part of the address. */
export function To({ to, search, children }: { to: string; search?: Search; children: ReactNode }) {
  return <Link to={to} search={search ?? {}} className="link">{children}</Link>;
}
