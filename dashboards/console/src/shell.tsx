// What stands around every page: where one can go, how the gateway is, who one is.
import {
  ActionIcon, Alert, AppShell, Burger, Button, Group, Menu, Stack, Text, useComputedColorScheme, useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { IconMoon, IconSun, IconUserCircle } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useLocation } from "@tanstack/react-router";
import { useEffect } from "react";
import mark from "./mark.svg";
import { Empty, Failed } from "./parts/states";
import { PLACES } from "./router";
import { useSession } from "./session";
import { words } from "./words";

const t = words.shell;

export function Shell() {
  const [open, { toggle, close }] = useDisclosure();
  const { pathname } = useLocation();
  const { session, may } = useSession();
  const health = useHealth();
  const places = PLACES.filter((place) => may(place.right));
  const at = pathname.replace(/^\/projects\//, "/tenants/"); // a project is found below its organisation
  const here = PLACES.find((place) => (place.path === "/" ? at === "/" : at.startsWith(place.path)));
  const title = at.startsWith("/begin") ? words.begin.begin : here?.title;
  useEffect(() => {
    document.title = title ? `${title} · Switchgear` : t.switchgear;
    close();
  }, [title, pathname, close]);
  return (
    <AppShell header={{ height: 52 }} navbar={{ width: 214, breakpoint: "sm", collapsed: { mobile: !open } }} padding={{ base: "sm", md: "lg" }} onKeyDown={(event) => event.key === "Escape" && close()}>
      <AppShell.Header>
        <a className="skip" href="#main">{t.skipToThePage}</a>
        <Group h="100%" px="sm" justify="space-between" wrap="nowrap">
          <Group gap="xs" wrap="nowrap">
            <Burger opened={open} onClick={toggle} hiddenFrom="sm" size="sm" aria-label={t.pages} aria-expanded={open} />
            <img src={mark} alt="" width={24} height={24} />
            <Text fw={650}>{t.switchgear}</Text>
            <Health state={health} />
          </Group>
          <Group gap={4} wrap="nowrap">
            <Scheme />
            <Menu position="bottom-end">
              <Menu.Target>
                <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t.account}><IconUserCircle size={20} /></ActionIcon>
              </Menu.Target>
              <Account actor={session.actor} role={session.role} org={session.org} />
            </Menu>
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" data-shut={!open || undefined} style={{ overflowY: "auto" }} aria-label={t.pages}>
        {[...new Set(places.map((place) => place.group))].map((group) => (
          <div key={group} style={{ marginBottom: 10 }}>
            <Text size="xs" c="dimmed" px={10} pb={2} fw={600}>{group}</Text>
            {places.filter((place) => place.group === group).map((place) => (
              <Link key={place.path} to={place.path} className="nav" aria-current={place === here ? "page" : undefined}>
                <place.icon size={17} stroke={1.7} aria-hidden />
                {place.title}
              </Link>
            ))}
          </div>
        ))}
      </AppShell.Navbar>
      <AppShell.Main id="main" tabIndex={-1}>
        {health === "unreachable" && (
          <Alert color="red" mb="md" role="alert" title={t.theGatewayDoesNotAnswer}>{t.whatYouSeeIsWhat}</Alert>
        )}
        <div style={{ maxWidth: 1320, marginInline: "auto" }}><Outlet /></div>
      </AppShell.Main>
    </AppShell>
  );
}

function Account({ actor, role, org }: { actor: string; role: string; org: string }) {
  const { signOut } = useSession();
  return (
    <Menu.Dropdown>
      <Menu.Label>
        <Text size="sm" className="code">{actor}</Text>
        <Text size="xs">{t.of(role, org === "*" ? t.theInstallation : org)}</Text>
      </Menu.Label>
      <Menu.Item component={Link} to="/settings">{t.passwordAndSettings}</Menu.Item>
      <Menu.Item onClick={() => void signOut()}>{t.signOut}</Menu.Item>
    </Menu.Dropdown>
  );
}

function Scheme() {
  const { setColorScheme } = useMantineColorScheme();
  const scheme = useComputedColorScheme("light");
  const other = scheme === "dark" ? "light" : "dark";
  return (
    <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t.changeToColours(other)} onClick={() => setColorScheme(other)}>
      {scheme === "dark" ? <IconSun size={19} /> : <IconMoon size={19} />}
    </ActionIcon>
  );
}

function useHealth(): string {
  const { data, error } = useQuery({
    queryKey: ["readyz"],
    queryFn: async () => ((await (await fetch("/readyz")).json()) as { status: string }).status,
    refetchInterval: 5_000,
    retry: false,
  });
  return error ? "unreachable" : (data ?? "…");
}

function Health({ state }: { state: string }) {
  const color = state === "ready" ? "var(--good)" : state === "degraded" || state === "…" ? "var(--warn)" : "var(--bad)";
  return (
    <Text size="sm" c="dimmed" role="status" style={{ display: "inline-flex", alignItems: "center", gap: 6 }}>
      <span aria-hidden style={{ width: 8, height: 8, borderRadius: 8, background: color }} />
      {state}
    </Text>
  );
}

export function Nowhere() {
  return <Empty title={t.thereIsNoSuchPage}>{t.beginAgainAtTheOverview()}</Empty>;
}

/** A part of the page did not load, most often because a newer version is served: loading again mends it. */
export function Broken({ error }: { error: unknown }) {
  return (
    <Stack align="flex-start">
      <Failed error={error} />
      <Button onClick={() => location.reload()}>{t.loadThePageAgain}</Button>
    </Stack>
  );
}
