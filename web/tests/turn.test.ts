import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { TurnEventSchema, type TurnEvent } from "$gen/coordinator/v1/coordinator_pb.js";
import { answerText, apply, failed, isOver, NEW_TURN, order, split, stopped, type TurnView } from "../src/lib/turn.js";
import { problem } from "../src/lib/problem.js";

type Happening = NonNullable<MessageInitShape<typeof TurnEventSchema>["event"]>;

function event(number: number, what: Happening): TurnEvent {
  return create(TurnEventSchema, { number: BigInt(number), event: what });
}

const accepted = (position = 0): Happening => ({
  case: "accepted",
  value: { requestId: "r", turnId: "t", sessionId: "s", position },
});
const status = (stage: string): Happening => ({ case: "status", value: { stage, atMs: 7 } });
const delta = (text: string): Happening => ({ case: "delta", value: { text } });
const final = (text: string): Happening => ({ case: "final", value: { text, finishReason: "stop" } });

function play(...happenings: Happening[]): TurnView {
  return happenings.reduce((view, what, i) => apply(view, event(i + 1, what)), NEW_TURN);
}

describe("apply", () => {
  const routed: Happening = { case: "routed", value: { handler: "n/g/A", tier: "fast", missing: ["n/g/B"] } };
  const table: [name: string, happenings: Happening[], expected: Partial<TurnView>][] = [
    ["starts at once", [accepted()], { phase: "working", turnId: "t", sessionId: "s", requestId: "r", position: 0 }],
    ["waits in line", [accepted(3)], { phase: "queued", position: 3 }],
    ["goes on waiting when it was received", [accepted(3), status("received")], { phase: "queued", position: 3 }],
    ["waits no more at a later stage", [accepted(3), status("understood")], { phase: "working", position: 0 }],
    ["says who answers and what is missing", [accepted(), routed], { handler: "n/g/A", tier: "fast", missing: ["n/g/B"] }],
    ["appends pieces", [accepted(), delta("a"), delta("b")], { phase: "writing", written: "ab" }],
    ["goes on writing through a stage", [accepted(), delta("a"), status("composing")], { phase: "writing" }],
    [
      "names a tool until there is text again",
      [accepted(), { case: "toolCall", value: { tool: "clock", argumentsJson: "{}" } }],
      { phase: "working", tool: "clock" },
    ],
    [
      "asks",
      [accepted(), { case: "confirm", value: { question: "Sure?", token: "k" } }],
      { question: { text: "Sure?", token: "k" } },
    ],
    [
      "says at the end what was missing over the whole turn",
      [accepted(), routed, { case: "final", value: { text: "a", missing: ["B: late"], notBuilt: ["C: unknown"] } }],
      { missing: ["B: late"], notBuilt: ["C: unknown"] },
    ],
    ["ends with the answer", [accepted(), delta("a"), final("ab")], { phase: "done" }],
    ["ends with an error", [accepted(), { case: "error", value: { code: "unavailable" } }], { phase: "failed" }],
    ["is stopped by a cancel", [accepted(), { case: "error", value: { code: "cancelled" } }], { phase: "stopped", problem: expect.objectContaining({ code: "cancelled" }) }],
    ["counts what it does not know", [accepted(), { case: undefined }], { lastNumber: 2n, phase: "working" }],
  ];
  it.each(table)("%s", (_, happenings, expected) => {
    expect(play(...happenings)).toMatchObject(expected);
  });

  it("takes each event once, however often it arrives", () => {
    const once = play(accepted(), delta("a"), delta("b"));
    const again = [accepted(), delta("a"), delta("b")].reduce((view, what, i) => apply(view, event(i + 1, what)), once);
    expect(again).toBe(once);
  });

  it("takes nothing out of turn", () => {
    const view = play(accepted(), delta("a"));
    expect(apply(view, event(4, delta("c")))).toBe(view);
  });

  it("takes a final early: it carries the whole text", () => {
    const view = apply(play(accepted(), delta("a")), event(9, final("abc")));
    expect(view).toMatchObject({ phase: "done", lastNumber: 9n });
    expect(answerText(view)).toBe("abc");
  });

  it("changes nothing once it is over", () => {
    for (const over of [play(accepted(), final("a")), stopped(play(accepted())), failed(play(accepted()), problem("internal"))]) {
      expect(isOver(over)).toBe(true);
      expect(apply(over, event(99, final("late")))).toBe(over);
      expect(stopped(over)).toBe(over);
      expect(failed(over, problem("internal"))).toBe(over);
    }
  });
});

describe("answerText", () => {
  it("prefers the whole text, then what was written, then what was made ready to show", () => {
    const segment: Happening = { case: "segment", value: { display: "shown", speechText: "said" } };
    expect(answerText(play(accepted(), segment))).toBe("shown");
    expect(answerText(play(accepted(), segment, delta("written")))).toBe("written");
    expect(answerText(play(accepted(), segment, delta("written"), final("whole")))).toBe("whole");
  });
});

describe("order", () => {
  it.each([
    [0n, event(1, delta("")), "next"],
    [1n, event(1, delta("")), "duplicate"],
    [1n, event(3, delta("")), "gap"],
    [1n, event(3, final("")), "next"],
    [3n, event(3, final("")), "duplicate"],
  ] as const)("after %s, event %o is %s", (last, next, expected) => {
    expect(order(last, next)).toBe(expected);
  });
});

describe("split", () => {
  it.each([
    ["NLUAgent: the intent is unknown", { agent: "NLUAgent", what: "the intent is unknown" }],
    ["A: its answer (no_model): gone", { agent: "A", what: "its answer (no_model): gone" }],
    ["NLUAgent", { agent: "NLUAgent", what: "" }],
  ])("%s", (note, expected) => expect(split(note)).toEqual(expected));
});
