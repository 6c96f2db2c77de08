import "@mantine/core/styles.css";
import "./theme.css";
import { createTheme, MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Failure } from "./api/client";
import { fetchPage, router } from "./router";
import { SessionGate } from "./session";

fetchPage(location.pathname);

const theme = createTheme({
  primaryColor: "gear",
  primaryShade: { light: 7, dark: 6 },
  autoContrast: true,
  colors: {
    gear: ["#effaf8", "#d5f2ec", "#aee4d9", "#7dd0c1", "#4db6a6", "#2f9a8b", "#1f7c71", "#186359", "#144f48", "#0f3f3a"],
  },
  fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
  headings: { fontWeight: "650" },
  defaultRadius: "md",
});

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      networkMode: "always", // the gateway may be on this machine: only it knows whether it answers
      retry: (times, error) => times < 2 && error instanceof Failure && (error.status === 0 || error.status >= 500),
    },
    mutations: { networkMode: "always" },
  },
});

const nonce = document.querySelector<HTMLMetaElement>("meta[name=csp-nonce]")?.content ?? "";

(globalThis as { __webpack_nonce__?: string }).__webpack_nonce__ = nonce; // where the scroll lock of dialogs looks for it

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <MantineProvider theme={theme} defaultColorScheme="auto" getStyleNonce={() => nonce}>
      <QueryClientProvider client={queries}>
        <SessionGate>
          <RouterProvider router={router} />
        </SessionGate>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
