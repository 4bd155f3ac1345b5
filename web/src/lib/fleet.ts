// The fleet as the page sees it: what counts, what is old, what a person should look at. Pure.
import { State, type Health } from "$gen/common/v1/common_pb.js";
import { Reach, type AgentNode, type GroupNode, type NodeNode, type PeerLink } from "$gen/telemetry/v1/telemetry_pb.js";

/**
 * What a chip says: the eight states, `not_built` for a name in the fleet file that this build has no code for, and how another machine can
 * be reached where that is not as it should be.
 */
export type Mark =
  | "ready"
  | "starting"
  | "degraded"
  | "unavailable"
  | "failed"
  | "draining"
  | "stopped"
  | "unknown"
  | "not_built"
  | "overlay_down"
  | "differs";

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

/** How a machine is: one that can be reached as its groups are, any other as the way to it is. */
export function nodeMark(node: NodeNode): Mark {
  switch (node.link?.reach) {
    case Reach.OVERLAY_DOWN:
      return "overlay_down";
    case Reach.DIFFERS:
      return "differs";
    case Reach.AWAY:
    case Reach.UNHEARD:
    case Reach.NOT_JOINED:
      return "unknown";
    default:
      return markOf(node.health);
  }
}

/** Whether a machine is silent, so that what is known of it may be otherwise by now. */
export function isSilent(node: NodeNode): boolean {
  return node.link?.reach === Reach.AWAY;
}

/** From what a person must look at first to what is well. */
const WORST_FIRST: Mark[] = [
  "failed",
  "differs",
  "overlay_down",
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
  return ["failed", "differs", "overlay_down", "unavailable", "unknown", "degraded"].includes(mark);
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
  /** Groups and agents that a person should look at, and machines whose overlay is down or that run something else. */
  attention: number;
  /** Of agents within their processes, and of processes. */
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
  // Of a machine that is away its groups say so themselves.
  const badWays = nodes.map(nodeMark).filter((mark) => mark === "differs" || mark === "overlay_down");
  return {
    mark: worst([...nodes.map(nodeMark), ...groupMarks]),
    groups: groups.length,
    groupsReady: groupMarks.filter((mark) => mark === "ready").length,
    agents: built.length,
    agentsReady: agentMarks.filter((mark) => mark === "ready").length,
    notBuilt: agents.length - built.length,
    attention: agentMarks.filter(needsAttention).length + silentGroups.length + badWays.length,
    restarts:
      agents.reduce((sum, agent) => sum + agent.restarts, 0) +
      groups.reduce((sum, group) => sum + (group.restarts ?? 0), 0),
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

/** The tree with the way to one machine as it is now. */
export function withLink(nodes: NodeNode[], node: string, link: PeerLink): NodeNode[] {
  return nodes.map((known) => (known.node === node ? { ...known, link } : known));
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
