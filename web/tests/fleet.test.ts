import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { State } from "$gen/common/v1/common_pb.js";
import { NodeNodeSchema, PeerLinkSchema, Reach, type GroupNodeSchema, type NodeNode } from "$gen/telemetry/v1/telemetry_pb.js";
import { agentMark, away, isSilent, markOf, nodeMark, summarise, withGroup, withLink, worst, type Mark } from "../src/lib/fleet.js";

type Group = MessageInitShape<typeof GroupNodeSchema>;

const health = (state: State, cause = "") => ({ state, cause, sinceUs: 1n });
const agent = (name: string, state: State, more: { required?: boolean; built?: boolean; restarts?: number } = {}) => ({
  agent: name,
  health: health(state, state === State.READY ? "" : `why ${name}`),
  required: true,
  built: true,
  ...more,
});
const node = (name: string, state: State, groups: Group[]): NodeNode =>
  create(NodeNodeSchema, { node: name, health: health(state), groups });

const TREE = [
  node("mainpc", State.DEGRADED, [
    { group: "core", health: health(State.READY), agents: [agent("A", State.READY), agent("B", State.READY, { restarts: 2 })] },
    {
      group: "talk",
      health: health(State.DEGRADED),
      version: 5n,
      agents: [agent("C", State.UNAVAILABLE), agent("D", State.STOPPED, { built: false, required: false })],
    },
    { group: "silent", health: health(State.UNKNOWN), agents: [agent("E", State.READY)] },
  ]),
  node("pc2", State.READY, [{ group: "core", health: health(State.READY), agents: [agent("A", State.READY)] }]),
];

describe("summarise", () => {
  it("rolls the tree up", () => {
    expect(summarise(TREE)).toEqual({
      mark: "unknown",
      groups: 4,
      groupsReady: 2,
      agents: 5,
      agentsReady: 4,
      notBuilt: 1,
      attention: 2, // C, and the silent group, whose agents do not say why.
      restarts: 2,
    });
  });

  it("knows nothing of an empty fleet", () => {
    expect(summarise([])).toMatchObject({ mark: "unknown", groups: 0, attention: 0 });
  });
});

describe("worst", () => {
  const table: [Mark[], Mark][] = [
    [["ready", "ready"], "ready"],
    [["ready", "not_built"], "ready"],
    [["ready", "starting"], "starting"],
    [["starting", "degraded"], "degraded"],
    [["degraded", "unknown"], "unknown"],
    [["unavailable", "failed", "ready"], "failed"],
    [["overlay_down", "unknown", "degraded"], "overlay_down"],
    [[], "unknown"],
  ];
  it.each(table)("of %j is %s", (marks, expected) => expect(worst(marks)).toBe(expected));
});

describe("marks", () => {
  it("has one for every state", () => {
    const states = Object.values(State).filter((state): state is State => typeof state === "number");
    const marks = states.map((state) => markOf(create(NodeNodeSchema, { health: health(state) }).health));
    expect(new Set(marks).size).toBe(states.length - 1); // UNSPECIFIED and UNKNOWN share one.
    expect(markOf(undefined)).toBe("unknown");
  });

  it("says `not built` whatever the health says", () => {
    expect(agentMark(TREE[0]!.groups[1]!.agents[1]!)).toBe("not_built");
  });
});

describe("another machine", () => {
  const reached = (reach: Reach): NodeNode => withLink([TREE[1]!], "pc2", create(PeerLinkSchema, { reach }))[0]!;

  it.each<[Reach, Mark, boolean]>([
    [Reach.READY, "ready", false],
    [Reach.OVERLAY_DOWN, "overlay_down", false],
    [Reach.DIFFERS, "differs", false],
    [Reach.AWAY, "unknown", true],
    [Reach.UNHEARD, "unknown", false],
    [Reach.NOT_JOINED, "unknown", false],
  ])("that is reached as %i is %s", (reach, mark, silent) => {
    expect([nodeMark(reached(reach)), isSilent(reached(reach))]).toEqual([mark, silent]);
  });

  it("is as its groups are where no way to it is known", () => {
    expect(nodeMark(TREE[0]!)).toBe("degraded");
  });

  it("counts once when the way to it is bad, and its processes' restarts count", () => {
    const restarted = create(NodeNodeSchema, { node: "pc2", groups: [{ group: "core", restarts: 3, health: health(State.READY) }] });
    const nodes = withLink([restarted], "pc2", create(PeerLinkSchema, { reach: Reach.OVERLAY_DOWN }));
    expect(summarise(nodes)).toMatchObject({ mark: "overlay_down", attention: 1, restarts: 3 });
  });

  it("is left as it is by the way to one that is not in the tree", () => {
    expect(withLink(TREE, "pc3", create(PeerLinkSchema, { reach: Reach.AWAY }))).toEqual(TREE);
  });
});

describe("withGroup", () => {
  const now = (group: Group): NodeNode["groups"][number] => node("x", State.READY, [group]).groups[0]!;

  it("puts a group in the place of its older self, on its own node only", () => {
    const changed = withGroup(TREE, "mainpc", now({ group: "talk", health: health(State.READY), version: 6n }));
    expect(changed[0]!.groups.map(({ group }) => group)).toEqual(["core", "talk", "silent"]);
    expect(markOf(changed[0]!.groups[1]!.health)).toBe("ready");
    expect(changed[1]).toBe(TREE[1]);
  });

  it("does not go back to an older version", () => {
    const changed = withGroup(TREE, "mainpc", now({ group: "talk", health: health(State.READY), version: 4n }));
    expect(changed[0]).toBe(TREE[0]);
  });

  it("takes in a group it did not know, and none of a node it does not know", () => {
    expect(withGroup(TREE, "pc2", now({ group: "new" }))[1]!.groups).toHaveLength(2);
    expect(withGroup(TREE, "pc3", now({ group: "new" }))).toEqual(TREE);
  });
});

describe("away", () => {
  it("names required agents of this build that cannot serve", () => {
    expect(away(TREE)).toEqual([{ id: "mainpc/talk/C", mark: "unavailable", cause: "why C" }]);
  });
});
