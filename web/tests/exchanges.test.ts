import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { Source } from "$gen/common/v1/common_pb.js";
import { TurnSchema } from "$gen/session/v1/session_pb.js";
import { exchangesOf, provenanceOf } from "../src/lib/exchanges.js";
import { answerText } from "../src/lib/turn.js";

let number = 0n;
const turn = (role: string, turnId: string, text: string, more: MessageInitShape<typeof TurnSchema> = {}) =>
  create(TurnSchema, { number: ++number, role, turnId, text, atUs: 5_000_000n, ...more });

const shown = (turns: Parameters<typeof exchangesOf>[0]) =>
  exchangesOf(turns, "s").map(({ question, view }) => [question, answerText(view), view.phase]);

describe("exchangesOf", () => {
  it("pairs by turn, also when two turns overlap", () => {
    const turns = [turn("user", "1", "q1"), turn("user", "2", "q2"), turn("assistant", "2", "a2"), turn("assistant", "1", "a1")];
    expect(shown(turns)).toEqual([
      ["q1", "a1", "done"],
      ["q2", "a2", "done"],
    ]);
  });

  it("keeps a question without an answer and an answer without a question", () => {
    expect(shown([turn("assistant", "0", "hello"), turn("user", "1", "q")])).toEqual([
      ["", "hello", "done"],
      ["q", "", "unanswered"],
    ]);
  });

  it("pairs entries that carry no turn with what is before them", () => {
    const turns = [turn("user", "", "q1"), turn("assistant", "", "a1"), turn("user", "", "q2"), turn("assistant", "", "a2")];
    expect(shown(turns)).toEqual([
      ["q1", "a1", "done"],
      ["q2", "a2", "done"],
    ]);
  });

  it("shows amended words, who answered, and from what", () => {
    const sourceJson = JSON.stringify({ source: "SOURCE_MODEL", model: "m", bound_to: "llm.tiny", later: 1 });
    const [exchange] = exchangesOf(
      [turn("user", "1", "q"), turn("assistant", "1", "a", { amendedText: "b", handler: "n/g/A", sourceJson })],
      "s",
    );
    expect(exchange).toMatchObject({ question: "q", askedMs: 5000, recalled: true });
    expect(exchange!.view).toMatchObject({ handler: "n/g/A", turnId: "1", sessionId: "s" });
    expect(exchange!.view.final).toMatchObject({ text: "b", provenance: { model: "m", boundTo: "llm.tiny" } });
  });

  it("gives each exchange a key of its own", () => {
    const keys = exchangesOf([turn("user", "1", "a"), turn("user", "1", "b"), turn("user", "", "c")], "s").map((e) => e.key);
    expect(new Set(keys).size).toBe(3);
  });
});

describe("provenanceOf", () => {
  it("reads what it can and makes nothing up", () => {
    expect(provenanceOf('{"source":"SOURCE_RULE"}')?.source).toBe(Source.RULE);
    for (const json of ["", "{", "[]", '"x"', '{"source":"SOURCE_NEVER_HEARD_OF"}']) {
      expect(provenanceOf(json)?.model ?? "").toBe("");
    }
  });
});
