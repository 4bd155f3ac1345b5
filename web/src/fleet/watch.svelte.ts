// Keeps the fleet's picture fresh while somebody looks: changes by stream, the whole by asking.
import type { RoleInfo } from "$gen/model/v1/model_pb.js";
import type { GroupNode, NodeNode, PeerLink } from "$gen/telemetry/v1/telemetry_pb.js";
import { models, STREAM_MS, telemetry } from "../lib/api.svelte.js";
import { withGroup, withLink } from "../lib/fleet.js";
import { problemFromError, type Problem } from "../lib/problem.js";

/** Between two questions, without a stream and with one. */
const POLL_MS = 5000;
const POLL_LIVE_MS = 15_000;
const ASK_MS = 4000;
const REOPEN_MS = [1000, 2000, 5000, 15_000];

/** Without a word for this long the picture is stale: one question and its deadline have passed unanswered. */
const SILENT_MS = POLL_LIVE_MS + ASK_MS + 1000;
/** The same when the last question is known to have failed. */
const SILENT_FAILED_MS = POLL_MS + 1000;

function after(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

class FleetWatch {
  nodes = $state.raw<NodeNode[]>([]);
  /** When anything was last heard, UTC milliseconds; 0 for never. */
  heardMs = $state(0);
  live = $state(false);
  problem = $state.raw<Problem | null>(null);
  roles = $state.raw<RoleInfo[]>([]);
  rolesRead = $state(false);
  rolesProblem = $state.raw<Problem | null>(null);
  #received = new WeakMap<GroupNode | PeerLink, number>();

  stale(nowMs: number): boolean {
    if (this.heardMs === 0) return false;
    return nowMs - this.heardMs > (this.problem ? SILENT_FAILED_MS : SILENT_MS);
  }

  /** How old what is known of a group is: what the hub said, and how long ago it said so. */
  ageMs(group: GroupNode, nowMs: number): number {
    return group.ageMs + Math.max(0, nowMs - (this.#received.get(group) ?? nowMs));
  }

  /** How long ago another machine was heard; null when never. */
  heardAgoMs(link: PeerLink, nowMs: number): number | null {
    if (link.heardMsAgo === undefined) return null;
    return Number(link.heardMsAgo) + Math.max(0, nowMs - (this.#received.get(link) ?? nowMs));
  }

  /** Starts; the answer ends it. */
  start(): () => void {
    let run = new AbortController();
    const begin = (): void => {
      run.abort();
      this.live = false;
      if (document.hidden) return;
      run = new AbortController();
      void this.#poll(run.signal);
      void this.#listen(run.signal);
    };
    document.addEventListener("visibilitychange", begin);
    begin();
    return () => {
      document.removeEventListener("visibilitychange", begin);
      run.abort();
    };
  }

  async #read(signal: AbortSignal): Promise<void> {
    const options = { signal, timeoutMs: ASK_MS };
    const [tree, roles] = await Promise.allSettled([
      telemetry.getFleetHealth({}, options),
      models.listRoles({}, options),
    ]);
    if (signal.aborted) return;
    if (tree.status === "fulfilled") {
      this.nodes = tree.value.nodes;
      this.heardMs = Date.now();
      for (const { groups, link } of this.nodes) {
        for (const group of groups) this.#received.set(group, this.heardMs);
        if (link) this.#received.set(link, this.heardMs);
      }
      this.problem = null;
    } else {
      this.problem = problemFromError(tree.reason);
    }
    if (roles.status === "fulfilled") {
      this.roles = roles.value.roles;
      this.rolesRead = true;
      this.rolesProblem = null;
    } else {
      this.rolesProblem = problemFromError(roles.reason);
    }
  }

  async #poll(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#read(signal);
      await after(this.live && !this.problem ? POLL_LIVE_MS : POLL_MS, signal);
    }
  }

  async #listen(signal: AbortSignal): Promise<void> {
    for (let attempt = 0; !signal.aborted; attempt++) {
      try {
        const onHeader = (): void => void (this.live = true);
        for await (const change of telemetry.watchHealth({}, { signal, timeoutMs: STREAM_MS, onHeader })) {
          attempt = 0;
          this.heardMs = Date.now();
          if (change.link) {
            this.#received.set(change.link, this.heardMs);
            this.nodes = withLink(this.nodes, change.node, change.link);
          }
          if (!change.group) continue;
          this.#received.set(change.group, this.heardMs);
          this.nodes = withGroup(this.nodes, change.node, change.group);
        }
      } catch (error) {
        if (problemFromError(error).code === "unimplemented") return void (this.live = false);
      }
      if (signal.aborted) return;
      this.live = false;
      await after(REOPEN_MS[Math.min(attempt, REOPEN_MS.length - 1)] ?? 0, signal);
    }
  }
}

export const fleet = new FleetWatch();
