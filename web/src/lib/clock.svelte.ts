// One clock for the whole page, a tick a second while somebody looks.
let now = $state(Date.now());

setInterval(() => {
  if (!document.hidden) now = Date.now();
}, 1000);
document.addEventListener("visibilitychange", () => (now = Date.now()));

export const clock = {
  /** UTC milliseconds, at most a second old. */
  get now(): number {
    return now;
  },
};
