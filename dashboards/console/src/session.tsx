// Who is signed in, and what of the console that opens. Everything behind the gate has a session.
import { Alert, Button, Center, PasswordInput, SegmentedControl, Stack, Text, TextInput, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, type FormEvent, type ReactNode, useContext, useEffect, useState } from "react";
import { adminKey, api, Failure, got, proveWith, type Schemas, whenSessionEnds } from "./api/client";
import { Failed, Loading } from "./parts/states";
import { words } from "./words";

const t = words.session;

export type Session = Schemas["Session"];
export type Right = Session["rights"][number];

interface Known {
  session: Session;
  may: (right: Right) => boolean;
  signOut: () => Promise<void>;
}

const Context = createContext<Known | null>(null);

export function useSession(): Known {
  const known = useContext(Context);
  if (known === null) throw new Error(t.thereIsNoSessionOutside);
  return known;
}

/** Shows its children to who is signed in, at the address that was asked for; else the way to sign in. */
export function SessionGate({ children }: { children: ReactNode }) {
  const queries = useQueryClient();
  const [ended, setEnded] = useState(false);
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["session"],
    staleTime: 60_000,
    queryFn: async () => {
      try {
        const session = await got(api.GET("/admin/v1/session"));
        proveWith(session.csrf_token);
        return session;
      } catch (failure) {
        if (failure instanceof Failure && failure.status === 401) return null;
        throw failure;
      }
    },
  });
  useEffect(() => {
    whenSessionEnds(() => {
      adminKey.drop();
      if (queries.getQueryData(["session"])) setEnded(true);
      queries.setQueryData(["session"], null);
    });
  }, [queries]);

  if (isPending) return <Center h="100vh"><Loading /></Center>;
  if (error && !data) return <Center h="100vh" p="md"><Failed error={error} again={() => void refetch()} /></Center>;
  if (!data) {
    const into = (session: Session) => {
      setEnded(false);
      proveWith(session.csrf_token);
      queries.removeQueries({ predicate: (query) => query.queryKey[0] !== "session" });
      queries.setQueryData(["session"], session);
    };
    return <SignIn ended={ended} into={into} />;
  }
  const may = (right: Right) => data.rights.includes(right);
  const signOut = async () => {
    if (data.csrf_token) await got(api.DELETE("/admin/v1/session")).catch(() => undefined);
    adminKey.drop();
    queries.clear();
    queries.setQueryData(["session"], null);
  };
  return <Context.Provider value={{ session: data, may, signOut }}>{children}</Context.Provider>;
}

function SignIn({ ended, into }: { ended: boolean; into: (session: Session) => void }) {
  const [by, setBy] = useState("person");
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const field = (name: string) => String(given.get(name) ?? "").trim();
    setBusy(true);
    setError(null);
    try {
      if (by === "key") {
        adminKey.keep(field("key"));
        into(await got(api.GET("/admin/v1/session")));
      } else {
        const body = { org: field("org") || "*", email: field("email"), password: String(given.get("password")) };
        into(await got(api.POST("/admin/v1/session", { body })));
      }
    } catch (failure) {
      adminKey.drop();
      setError(by === "key" && failure instanceof Failure && failure.status === 401 ? new Failure(401, t.thatIsNotTheAdminKey) : failure);
    } finally {
      setBusy(false);
    }
  }

  return (
    <Center component="main" mih="100vh" p="md">
      <form className="card" onSubmit={(event) => void submit(event)} style={{ width: "min(26rem, 100%)" }}>
        <Stack>
          <div>
            <Title order={1} size="h3">{t.switchgear}</Title>
            <Text c="dimmed" size="sm">{t.signInToTheConsole}</Text>
          </div>
          {ended && <Alert color="yellow" title={t.yourSessionHasEnded}>{t.signInAgainYouStay}</Alert>}
          <SegmentedControl
            aria-label={t.signInWith}
            value={by}
            onChange={setBy}
            data={[{ value: "person", label: t.account }, { value: "key", label: t.adminKey }]}
          />
          {by === "person" ? (
            <>
              <TextInput name="email" label={t.eMail} type="email" autoComplete="username" required autoFocus />
              <PasswordInput name="password" label={t.password} autoComplete="current-password" required />
              <TextInput name="org" label={t.organisation} description={t.emptyForAnAccountOf} autoComplete="organization" />
            </>
          ) : (
            <PasswordInput
              name="key"
              label={t.adminKey}
              description={t.switchgearAdminKeyOrAdmin}
              autoComplete="off"
              required
              autoFocus
            />
          )}
          {error !== null && <Failed error={error} />}
          <Button type="submit" loading={busy}>{t.signIn}</Button>
        </Stack>
      </form>
    </Center>
  );
}
