// What the address after `#` shows: `#/`, `#/chat/<session>`, `#/fleet`.

export type Route = { view: "chat"; session: string } | { view: "fleet" };

export function parseRoute(hash: string): Route {
  const [, view = "", id = ""] = hash.replace(/^#/, "").split("/");
  if (view === "fleet") return { view: "fleet" };
  if (view !== "chat") return { view: "chat", session: "" };
  try {
    return { view: "chat", session: decodeURIComponent(id) };
  } catch {
    return { view: "chat", session: "" };
  }
}

export function hashOf(route: Route): string {
  if (route.view === "fleet") return "#/fleet";
  return route.session === "" ? "#/" : `#/chat/${encodeURIComponent(route.session)}`;
}
