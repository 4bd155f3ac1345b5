import { hashOf, parseRoute, type Route } from "./route.js";

let route = $state.raw<Route>(parseRoute(location.hash));
addEventListener("hashchange", () => (route = parseRoute(location.hash)));

export const router = {
  get route(): Route {
    return route;
  },
  go(to: Route): void {
    location.hash = hashOf(to);
  },
  /** The same place under a better name: leaves no step in the browser's history. */
  rename(to: Route): void {
    history.replaceState(null, "", hashOf(to));
    route = to;
  },
};
