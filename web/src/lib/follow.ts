// Follows one turn to its end across lost connections.
import type {
  ResumeRequest,
  ResumeResponse,
  SubmitRequest,
  SubmitResponse,
  TurnEvent,
} from "$gen/coordinator/v1/coordinator_pb.js";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ResumeRequestSchema, SubmitRequestSchema } from "$gen/coordinator/v1/coordinator_pb.js";
import { isLostConnection, problem, problemFromError, type Problem } from "./problem.js";
import { order } from "./turn.js";

export type Submit = MessageInitShape<typeof SubmitRequestSchema> & Partial<SubmitRequest>;
export type Resume = MessageInitShape<typeof ResumeRequestSchema> & Partial<ResumeRequest>;

/** The two RPCs that stream a turn. */
export interface Door {
  submit(request: Submit, signal: AbortSignal): AsyncIterable<SubmitResponse>;
  resume(request: Resume, signal: AbortSignal): AsyncIterable<ResumeResponse>;
}

/** A turn to begin, or one that runs and of which events up to `after` are known. */
export type Start = { submit: Submit } | { userId: string; turnId: string; after: bigint };

export type Update =
  | { kind: "event"; event: TurnEvent }
  /** The line broke; it is tried again by itself. */
  | { kind: "lost" }
  /** It cannot be carried on. */
  | { kind: "failed"; problem: Problem };

/** Pauses between attempts; after the last the turn counts as lost. Progress starts them over. */
export const PAUSES_MS = [300, 1000, 2000, 4000, 8000, 15000, 30000, 60000];

/**
 * Yields every event of the turn once and in order, until its final or error, or until `signal` aborts.
 *
 * A line that breaks before the turn has an id is submitted again with the same idempotency key, which returns the
 * same turn; afterwards it is resumed behind the last event that arrived.
 */
export async function* follow(
  door: Door,
  start: Start,
  signal: AbortSignal,
  pause: (ms: number, signal: AbortSignal) => Promise<void>,
): AsyncGenerator<Update> {
  let last = "submit" in start ? 0n : start.after;
  let turnId = "submit" in start ? "" : start.turnId;
  const userId = ("submit" in start ? start.submit.userId : start.userId) ?? "";
  let attempt = 0;
  for (;;) {
    try {
      const stream: AsyncIterable<SubmitResponse | ResumeResponse> =
        turnId === "" && "submit" in start
          ? door.submit(start.submit, signal)
          : door.resume({ userId, turnId, afterNumber: last }, signal);
      for await (const { event } of stream) {
        if (!event) continue;
        const place = order(last, event);
        if (place === "duplicate") continue;
        if (place === "gap") break;
        last = event.number;
        attempt = 0;
        if (event.event.case === "accepted") turnId = event.event.value.turnId;
        yield { kind: "event", event };
        if (event.event.case === "final" || event.event.case === "error") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      const what = problemFromError(error);
      // Once accepted, a coordinator that restarts or is away for a moment still finishes the turn.
      const passing = isLostConnection(error) || (turnId !== "" && what.code === "unavailable");
      if (!passing) return yield { kind: "failed", problem: what };
    }
    if (signal.aborted) return;
    const wait = PAUSES_MS[attempt++];
    if (wait === undefined) return yield { kind: "failed", problem: problem("unreachable") };
    yield { kind: "lost" };
    await pause(wait, signal);
    if (signal.aborted) return;
  }
}
