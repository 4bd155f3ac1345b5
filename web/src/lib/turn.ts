// One turn as the page sees it: events go in, a view comes out. No clock, no network.
import type { Final, TurnEvent } from "$gen/coordinator/v1/coordinator_pb.js";
import { type Problem, problemFromInfo } from "./problem.js";

export type Phase =
  /** Sent, and not yet on the coordinator's disk. */
  | "sending"
  | "queued"
  | "working"
  /** Pieces of the answer arrive. */
  | "writing"
  | "done"
  | "failed"
  | "stopped"
  /** From the past, without an answer that anybody kept. */
  | "unanswered";

export interface TurnView {
  phase: Phase;
  /** Number of the last event taken in. */
  lastNumber: bigint;
  requestId: string;
  turnId: string;
  sessionId: string;
  /** How many are before it. */
  position: number;
  /** The last stage reached, with milliseconds since the request was received. */
  stage: { name: string; atMs: number } | null;
  handler: string;
  tier: string;
  /** What was away, late or failed, and is missing in the answer because of it. */
  missing: string[];
  /** What this build has no code for, and is missing in the answer because of it. */
  notBuilt: string[];
  /** What the handler wrote. */
  written: string;
  /** What was made ready to be shown; leads when the handler's own pieces were not sent. */
  displayed: string;
  tool: string;
  question: { text: string; token: string } | null;
  final: Final | null;
  problem: Problem | null;
}

export const NEW_TURN: TurnView = {
  phase: "sending",
  lastNumber: 0n,
  requestId: "",
  turnId: "",
  sessionId: "",
  position: 0,
  stage: null,
  handler: "",
  tier: "",
  missing: [],
  notBuilt: [],
  written: "",
  displayed: "",
  tool: "",
  question: null,
  final: null,
  problem: null,
};

/** A note of what is missing, as the agent it comes from and what the answer lacks for it. */
export function split(note: string): { agent: string; what: string } {
  const at = note.indexOf(": ");
  return at < 0 ? { agent: note, what: "" } : { agent: note.slice(0, at), what: note.slice(at + 2) };
}

/** The answer as far as it is known. */
export function answerText(view: TurnView): string {
  return view.final?.text || view.written || view.displayed;
}

export function isOver(view: TurnView): boolean {
  return view.phase === "done" || view.phase === "failed" || view.phase === "stopped" || view.phase === "unanswered";
}

export type Order = "next" | "duplicate" | "gap";

/**
 * Where an event stands behind `last`. A final or an error carries everything that matters, so nothing is missing when
 * one arrives early, as it does when a finished turn is resumed.
 */
export function order(last: bigint, event: TurnEvent): Order {
  if (event.number <= last) return "duplicate";
  const ends = event.event.case === "final" || event.event.case === "error";
  return ends || event.number === last + 1n ? "next" : "gap";
}

/** The view after an event; the same view for an event it has seen, for one it must not have yet, and once it is over. */
export function apply(view: TurnView, event: TurnEvent): TurnView {
  if (isOver(view) || order(view.lastNumber, event) !== "next") return view;
  const next = { ...view, lastNumber: event.number };
  const { event: what } = event;
  switch (what.case) {
    case "accepted": {
      const { requestId, turnId, sessionId, position } = what.value;
      return { ...next, requestId, turnId, sessionId, position, phase: position > 0 ? "queued" : "working" };
    }
    case "routed": {
      const { handler, tier, missing, notBuilt } = what.value;
      return { ...next, handler, tier, missing, notBuilt, position: 0, phase: progressed(view) };
    }
    case "status": {
      const { stage, atMs } = what.value;
      // `received` is where a turn waits; any later stage means that its wait is over.
      const waiting = stage === "received";
      return {
        ...next,
        stage: { name: stage, atMs },
        position: waiting ? view.position : 0,
        phase: waiting ? view.phase : progressed(view),
      };
    }
    case "delta":
      return { ...next, phase: "writing", position: 0, tool: "", written: view.written + what.value.text };
    case "segment":
      return { ...next, phase: "writing", position: 0, tool: "", displayed: view.displayed + what.value.display };
    case "toolCall":
      return { ...next, phase: progressed(view), position: 0, tool: what.value.tool };
    case "confirm":
      return { ...next, question: { text: what.value.question, token: what.value.token } };
    case "final": {
      // Known in full only now: agents that came too late are not in what was said when the turn was routed.
      const { missing, notBuilt } = what.value;
      return { ...next, phase: "done", position: 0, tool: "", question: null, final: what.value, missing, notBuilt };
    }
    case "error": {
      const problem = problemFromInfo(what.value);
      const phase = problem.code === "cancelled" ? "stopped" : "failed";
      return { ...next, phase, position: 0, tool: "", question: null, problem };
    }
    default:
      // An event of a later version of the contract: counted, so that what follows is not taken for a gap.
      return next;
  }
}

function progressed(view: TurnView): Phase {
  return view.phase === "writing" ? "writing" : "working";
}

/** The person stopped it here, whatever the other side still says. */
export function stopped(view: TurnView): TurnView {
  return isOver(view) ? view : { ...view, phase: "stopped", tool: "", question: null };
}

/** It could not be carried on. */
export function failed(view: TurnView, problem: Problem): TurnView {
  return isOver(view) ? view : { ...view, phase: "failed", tool: "", question: null, problem };
}
