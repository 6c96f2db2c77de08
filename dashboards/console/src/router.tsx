// The pages of the console: one line each, loaded when they are opened. Every one has an address.
import {
  IconActivity, IconBell, IconCoin, IconDatabase, IconFileInvoice, IconHeartbeat, IconHistory, IconKey, IconListSearch,
  IconMessage, IconRoute, IconServer2, IconSettings, IconSitemap, IconUsers, IconWebhook,
} from "@tabler/icons-react";
import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import type { Right } from "./session";
import { Broken, Nowhere, Shell } from "./shell";

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
  { path: "/", title: "Overview", right: "usage.read", icon: IconActivity, group: "Watch", load: () => import("./pages/overview") },
  { path: "/requests", title: "Requests", right: "usage.read", icon: IconListSearch, group: "Watch", load: () => import("./pages/requests") },
  { path: "/alerts", title: "Alerts", right: "money.read", icon: IconBell, group: "Watch", load: () => import("./pages/alerts") },
  { path: "/playground", title: "Playground", right: "usage.read", icon: IconMessage, group: "Serve", load: () => import("./pages/playground") },
  { path: "/fleet", title: "Models & fleet", right: "fleet.read", icon: IconServer2, group: "Serve", load: () => import("./pages/fleet") },
  { path: "/routing", title: "Routing", right: "fleet.read", icon: IconRoute, group: "Serve", load: () => import("./pages/routing") },
  { path: "/cache", title: "Cache", right: "usage.read", icon: IconDatabase, group: "Serve", load: () => import("./pages/cache") },
  { path: "/tenants", title: "Organisations", right: "tenants.read", icon: IconSitemap, group: "Tenants", load: () => import("./pages/tenants") },
  { path: "/keys", title: "API keys", right: "tenants.read", icon: IconKey, group: "Tenants", load: () => import("./pages/keys") },
  { path: "/people", title: "People", right: "people.read", icon: IconUsers, group: "Tenants", load: () => import("./pages/people") },
  { path: "/webhooks", title: "Webhooks", right: "tenants.write", icon: IconWebhook, group: "Tenants", load: () => import("./pages/webhooks") },
  { path: "/usage", title: "Usage & invoice", right: "usage.read", icon: IconFileInvoice, group: "Money", load: () => import("./pages/usage") },
  { path: "/billing", title: "Prices & credit", right: "money.read", icon: IconCoin, group: "Money", load: () => import("./pages/billing") },
  { path: "/audit", title: "Audit log", right: "audit.read", icon: IconHistory, group: "House", load: () => import("./pages/audit") },
  { path: "/settings", title: "Settings", right: "usage.read", icon: IconSettings, group: "House", load: () => import("./pages/settings") },
  { path: "/health", title: "Health", right: "fleet.read", icon: IconHeartbeat, group: "House", load: () => import("./pages/health") },
];

const DETAILS: { path: string; load: Loader }[] = [
  { path: "/begin", load: () => import("./pages/begin") },
  { path: "/requests/$id", load: () => import("./pages/request") },
  { path: "/tenants/$id", load: () => import("./pages/organisation") },
  { path: "/projects/$id", load: () => import("./pages/project") },
  { path: "/keys/$id", load: () => import("./pages/key") },
];

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
