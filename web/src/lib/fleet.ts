// The fleet as the page sees it: what counts, what is old, what a person should look at. Pure.
import { State, type Health } from "$gen/common/v1/common_pb.js";
import type { AgentNode, GroupNode, NodeNode } from "$gen/telemetry/v1/telemetry_pb.js";

/** What a chip says: the eight states, and `not_built` for a name in the fleet file that this build has no code for. */
export type Mark =
  | "ready"
  | "starting"
  | "degraded"
  | "unavailable"
  | "failed"
  | "draining"
  | "stopped"
  | "unknown"
  | "not_built";

const MARKS: Record<State, Mark> = {
  [State.UNSPECIFIED]: "unknown",
  [State.STARTING]: "starting",
  [State.READY]: "ready",
  [State.DEGRADED]: "degraded",
  [State.UNAVAILABLE]: "unavailable",
  [State.FAILED]: "failed",
  [State.DRAINING]: "draining",
  [State.STOPPED]: "stopped",
  [State.UNKNOWN]: "unknown",
};

export function markOf(health: Health | undefined): Mark {
  return health ? (MARKS[health.state] ?? "unknown") : "unknown";
}

export function agentMark(agent: AgentNode): Mark {
  return agent.built ? markOf(agent.health) : "not_built";
}

/** From what a person must look at first to what is well. */
const WORST_FIRST: Mark[] = [
  "failed",
  "unavailable",
  "unknown",
  "degraded",
  "starting",
  "draining",
  "stopped",
  "ready",
  "not_built",
];

/** The mark that matters most; `unknown` for none at all. */
export function worst(marks: Mark[]): Mark {
  return WORST_FIRST.find((mark) => marks.includes(mark)) ?? "unknown";
}

export function needsAttention(mark: Mark): boolean {
  return mark === "failed" || mark === "unavailable" || mark === "unknown" || mark === "degraded";
}

/** Hubs probe each group every 30 s and wait at most 10 s for an answer; older than this, a probe was missed. */
export const STALE_MS = 45_000;

export interface Summary {
  mark: Mark;
  groups: number;
  groupsReady: number;
  /** Agents of this build. */
  agents: number;
  agentsReady: number;
  notBuilt: number;
  /** Groups and agents that a person should look at. */
  attention: number;
  restarts: number;
}

export function summarise(nodes: NodeNode[]): Summary {
  const groups = nodes.flatMap((node) => node.groups);
  const agents = groups.flatMap((group) => group.agents);
  const built = agents.filter((agent) => agent.built);
  const agentMarks = built.map(agentMark);
  const groupMarks = groups.map((group) => markOf(group.health));
  // A group's roll-up repeats its agents; it counts for itself only when none of them says why.
  const silentGroups = groups.filter(
    (group) => needsAttention(markOf(group.health)) && !group.agents.some((agent) => needsAttention(agentMark(agent))),
  );
  return {
    mark: worst([...nodes.map((node) => markOf(node.health)), ...groupMarks]),
    groups: groups.length,
    groupsReady: groupMarks.filter((mark) => mark === "ready").length,
    agents: built.length,
    agentsReady: agentMarks.filter((mark) => mark === "ready").length,
    notBuilt: agents.length - built.length,
    attention: agentMarks.filter(needsAttention).length + silentGroups.length,
    restarts: agents.reduce((sum, agent) => sum + agent.restarts, 0),
  };
}

/** The tree with one group as it is now. An entry of an older version than the one known changes nothing. */
export function withGroup(nodes: NodeNode[], node: string, group: GroupNode): NodeNode[] {
  return nodes.map((known) => {
    if (known.node !== node) return known;
    const old = known.groups.find((candidate) => candidate.group === group.group);
    if (old && group.version < old.version) return known;
    const groups = old
      ? known.groups.map((candidate) => (candidate === old ? group : candidate))
      : [...known.groups, group];
    return { ...known, groups };
  });
}

/** A person in a chat should know of these: required agents that cannot serve, with their cause. */
export function away(nodes: NodeNode[]): { id: string; mark: Mark; cause: string }[] {
  return nodes.flatMap(({ node, groups }) =>
    groups.flatMap(({ group, agents }) =>
      agents
        .filter((agent) => agent.required && agent.built && ["failed", "unavailable"].includes(agentMark(agent)))
        .map((agent) => ({
          id: `${node}/${group}/${agent.agent}`,
          mark: agentMark(agent),
          cause: agent.health?.cause ?? "",
        })),
    ),
  );
}
