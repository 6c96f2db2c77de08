// The pages of the console: one line each, loaded when they are opened. Every one has an address.
import {
  IconActivity, IconBell, IconCoin, IconDatabase, IconFileInvoice, IconHeartbeat, IconHistory, IconKey, IconListSearch,
  IconMessage, IconRoute, IconServer2, IconSettings, IconSitemap, IconUsers, IconWebhook,
} from "@tabler/icons-react";
import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import type { Right } from "./session";
import { Broken, Nowhere, Shell } from "./shell";
import { words } from "./words";

const t = words.router;

type Loader = Parameters<typeof lazyRouteComponent>[0];

interface Place {
  path: string;
  title: string;
  /** Without this right the page is not offered. */
  right: Right;
  icon: typeof IconKey;
  group: string;
  load: Loader;
}

export const PLACES: Place[] = [
  { path: "/", title: t.overview, right: "usage.read", icon: IconActivity, group: t.watch, load: () => import("./pages/overview") },
  { path: "/requests", title: t.requests, right: "usage.read", icon: IconListSearch, group: t.watch, load: () => import("./pages/requests") },
  { path: "/alerts", title: t.alerts, right: "money.read", icon: IconBell, group: t.watch, load: () => import("./pages/alerts") },
  { path: "/playground", title: t.playground, right: "usage.read", icon: IconMessage, group: t.serve, load: () => import("./pages/playground") },
  { path: "/fleet", title: t.modelsFleet, right: "fleet.read", icon: IconServer2, group: t.serve, load: () => import("./pages/fleet") },
  { path: "/routing", title: t.routing, right: "fleet.read", icon: IconRoute, group: t.serve, load: () => import("./pages/routing") },
  { path: "/cache", title: t.cache, right: "usage.read", icon: IconDatabase, group: t.serve, load: () => import("./pages/cache") },
  { path: "/tenants", title: t.organisations, right: "tenants.read", icon: IconSitemap, group: t.tenants, load: () => import("./pages/tenants") },
  { path: "/keys", title: t.apiKeys, right: "tenants.read", icon: IconKey, group: t.tenants, load: () => import("./pages/keys") },
  { path: "/people", title: t.people, right: "people.read", icon: IconUsers, group: t.tenants, load: () => import("./pages/people") },
  { path: "/webhooks", title: t.webhooks, right: "tenants.write", icon: IconWebhook, group: t.tenants, load: () => import("./pages/webhooks") },
  { path: "/usage", title: t.usageInvoice, right: "usage.read", icon: IconFileInvoice, group: t.money, load: () => import("./pages/usage") },
  { path: "/billing", title: t.pricesCredit, right: "money.read", icon: IconCoin, group: t.money, load: () => import("./pages/billing") },
  { path: "/audit", title: t.auditLog, right: "audit.read", icon: IconHistory, group: t.house, load: () => import("./pages/audit") },
  { path: "/settings", title: t.settings, right: "usage.read", icon: IconSettings, group: t.house, load: () => import("./pages/settings") },
  { path: "/health", title: t.health, right: "fleet.read", icon: IconHeartbeat, group: t.house, load: () => import("./pages/health") },
];

const DETAILS: { path: string; load: Loader }[] = [
  { path: "/begin", load: () => import("./pages/begin") },
  { path: "/requests/$id", load: () => import("./pages/request") },
  { path: "/tenants/$id", load: () => import("./pages/organisation") },
  { path: "/projects/$id", load: () => import("./pages/project") },
  { path: "/keys/$id", load: () => import("./pages/key") },
];

/** Fetch the page of an address before anybody asks for it: while the session is looked up. */
export function fetchPage(address: string) {
  const path = address.replace(/^\/console/, "").replace(/^(\/[a-z]+\/).+/, "$1$id") || "/";
  void [...PLACES, ...DETAILS].find((one) => one.path === path.replace(/(.)\/$/, "$1"))?.load();
}

const root = createRootRoute({ component: Shell, notFoundComponent: Nowhere, errorComponent: Broken });

export const router = createRouter({
  basepath: "/console",
  defaultPreload: "intent",
  defaultErrorComponent: Broken,
  scrollRestoration: true,
  routeTree: root.addChildren(
    [...PLACES, ...DETAILS].map(({ path, load }) =>
      createRoute({ getParentRoute: () => root, path, component: lazyRouteComponent(load, "default" as never) }),
    ),
  ),
});
