// A session's past, as pairs of question and answer.
import { fromJsonString } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import { ProvenanceSchema, type Provenance } from "$gen/common/v1/common_pb.js";
import { FinalSchema } from "$gen/coordinator/v1/coordinator_pb.js";
import type { Turn } from "$gen/session/v1/session_pb.js";
import { NEW_TURN, type TurnView } from "./turn.js";

export interface Exchange {
  /** Stays the same while the exchange lives on the page. */
  key: string;
  /** Empty for an answer that nobody asked for. */
  question: string;
  /** When it was asked, UTC milliseconds. */
  askedMs: number;
  view: TurnView;
  /** Recalled: timings and usage are with the coordinator, for 24 hours. */
  recalled: boolean;
}

function words(turn: Turn): string {
  return turn.amendedText || turn.text;
}

/** What a stored reply says of its origin; absent when it says nothing readable. */
export function provenanceOf(json: string): Provenance | undefined {
  if (json === "") return undefined;
  try {
    return fromJsonString(ProvenanceSchema, json, { ignoreUnknownFields: true });
  } catch {
    return undefined;
  }
}

/** Pairs entries by turn; entries without a turn's id pair with the question before them. */
export function exchangesOf(turns: Turn[], sessionId: string): Exchange[] {
  const found: Exchange[] = [];
  for (const turn of turns) {
    const open = found.findLast((e) => e.view.phase === "unanswered" && e.view.turnId === turn.turnId);
    if (turn.role === "assistant" && open) {
      Object.assign(open.view, answered(turn));
      continue;
    }
    const asked = turn.role !== "assistant";
    found.push({
      key: `${sessionId}:${turn.number}`,
      question: asked ? words(turn) : "",
      askedMs: Number(turn.atUs / 1000n),
      view: {
        ...NEW_TURN,
        sessionId,
        turnId: turn.turnId,
        phase: "unanswered",
        ...(asked ? {} : answered(turn)),
      },
      recalled: true,
    });
  }
  return found;
}

function answered(turn: Turn): Partial<TurnView> {
  return {
    phase: "done",
    handler: turn.handler,
    final: create(FinalSchema, { text: words(turn), provenance: provenanceOf(turn.sourceJson) }),
  };
}
