import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { ErrorInfoSchema } from "$gen/common/v1/common_pb.js";
import { SubmitResponseSchema, TurnEventSchema, type SubmitResponse } from "$gen/coordinator/v1/coordinator_pb.js";
import { follow, PAUSES_MS, type Door, type Start, type Update } from "../src/lib/follow.js";

const KEY = new Uint8Array(16);
const START: Start = { submit: { idempotencyKey: KEY, userId: "owner", text: "hi" } };

/** Events of one turn: accepted, four pieces, final. */
const EVENTS = [
  { case: "accepted", value: { turnId: "t", sessionId: "s" } } as const,
  ...["a", "b", "c", "d"].map((text) => ({ case: "delta", value: { text } }) as const),
  { case: "final", value: { text: "abcd" } } as const,
].map((event, i) => create(SubmitResponseSchema, { event: create(TurnEventSchema, { number: BigInt(i + 1), event }) }));

type Step = SubmitResponse | Error;

/** A door that plays one script for each call, and notes the calls. */
class Scripted implements Door {
  calls: string[] = [];
  constructor(private scripts: Step[][]) {}

  async *#play(): AsyncGenerator<SubmitResponse> {
    for (const step of this.scripts.shift() ?? []) {
      if (step instanceof Error) throw step;
      yield step;
    }
  }
  submit: Door["submit"] = (request) => {
    this.calls.push(`submit ${request.text}`);
    return this.#play();
  };
  resume: Door["resume"] = (request) => {
    this.calls.push(`resume ${request.turnId} after ${request.afterNumber}`);
    return this.#play() as unknown as ReturnType<Door["resume"]>;
  };
}

async function run(scripts: Step[][], start = START, signal = new AbortController().signal) {
  const door = new Scripted(scripts);
  const pauses: number[] = [];
  const updates: Update[] = [];
  for await (const update of follow(door, start, signal, async (ms) => void pauses.push(ms))) updates.push(update);
  const numbers = updates.flatMap((u) => (u.kind === "event" ? [Number(u.event.number)] : []));
  return { calls: door.calls, pauses, updates, numbers, last: updates.at(-1) };
}

const networkDown = new TypeError("Failed to fetch");
const fault = (code: Code, word: string): ConnectError =>
  new ConnectError("said so", code, undefined, [{ desc: ErrorInfoSchema, value: { code: word, message: "said so" } }]);

describe("follow", () => {
  it("yields a turn from beginning to end", async () => {
    const { calls, numbers, pauses } = await run([EVENTS]);
    expect(calls).toEqual(["submit hi"]);
    expect(numbers).toEqual([1, 2, 3, 4, 5, 6]);
    expect(pauses).toEqual([]);
  });

  it.each([
    ["an error of the network", [networkDown]],
    ["a stream that ends too soon", []],
    ["a proxy that gives up", [new ConnectError("HTTP 502", Code.Unavailable)]],
    ["a coordinator that restarts", [fault(Code.Unavailable, "unavailable")]],
  ])("resumes behind the last event after %s", async (_, broken: Step[]) => {
    const { calls, numbers, updates } = await run([[...EVENTS.slice(0, 3), ...broken], EVENTS.slice(3)]);
    expect(calls).toEqual(["submit hi", "resume t after 3"]);
    expect(numbers).toEqual([1, 2, 3, 4, 5, 6]);
    expect(updates.filter(({ kind }) => kind === "lost")).toHaveLength(1);
  });

  it("submits again while the turn has no id", async () => {
    const { calls, numbers } = await run([[networkDown], [networkDown], EVENTS]);
    expect(calls).toEqual(["submit hi", "submit hi", "submit hi"]);
    expect(numbers).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it("yields what arrives twice once, and asks for what is missing", async () => {
    const [one, two, , four] = EVENTS as [Step, Step, Step, Step];
    const { calls, numbers } = await run([[one, two, one, two, four], EVENTS.slice(1)]);
    expect(calls).toEqual(["submit hi", "resume t after 2"]);
    expect(numbers).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it("goes on with a turn that began before", async () => {
    const { calls, numbers } = await run([EVENTS.slice(2)], { userId: "owner", turnId: "t", after: 2n });
    expect(calls).toEqual(["resume t after 2"]);
    expect(numbers).toEqual([3, 4, 5, 6]);
  });

  it.each([
    ["before it was accepted", [] as Step[], fault(Code.Unavailable, "unavailable"), "unavailable"],
    ["with a full queue", [] as Step[], fault(Code.ResourceExhausted, "resource_exhausted"), "resource_exhausted"],
    ["without a sign-in", [] as Step[], new ConnectError("HTTP 401", Code.Unauthenticated), "unauthenticated"],
    ["while it ran", EVENTS.slice(0, 2) as Step[], fault(Code.NotFound, "not_found"), "not_found"],
  ])("gives up at once when somebody says why: %s", async (_, before, error, code) => {
    const { calls, last } = await run([[...before, error], EVENTS]);
    expect(calls).toHaveLength(1);
    expect(last).toMatchObject({ kind: "failed", problem: { code } });
  });

  it("gives up when the line stays down, and counts anew after progress", async () => {
    const down: Step[][] = PAUSES_MS.map(() => [networkDown]);
    const { pauses, last } = await run([[EVENTS[0] as Step, networkDown], ...down]);
    expect(pauses).toEqual(PAUSES_MS);
    expect(last).toMatchObject({ kind: "failed", problem: { code: "unreachable" } });

    const progress = await run([[networkDown], [EVENTS[0] as Step, networkDown], EVENTS.slice(1)]);
    expect(progress.pauses).toEqual([PAUSES_MS[0], PAUSES_MS[0]]);
  });

  it("ends quietly when it is aborted", async () => {
    const abort = new AbortController();
    const door = new Scripted([[EVENTS[0] as Step, networkDown]]);
    const kinds: string[] = [];
    for await (const update of follow(door, START, abort.signal, async () => {})) {
      kinds.push(update.kind);
      abort.abort();
    }
    expect(kinds).toEqual(["event"]);
    expect(door.calls).toHaveLength(1);
  });
});
