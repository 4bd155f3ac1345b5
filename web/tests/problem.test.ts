import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { ErrorInfoSchema } from "$gen/common/v1/common_pb.js";
import { isLostConnection, PROBLEM_CODES, problemFromError } from "../src/lib/problem.js";

const info = { code: "resource_exhausted", reason: "queue_full", message: "full", agent: "n/g/A", traceId: "7f", retryAfterMs: 900 };

describe("problemFromError", () => {
  it("takes over what an agent said", () => {
    const error = new ConnectError("full", Code.ResourceExhausted, undefined, [
      { desc: ErrorInfoSchema, value: { ...info, violations: [{ field: "text", problem: "long" }] } },
    ]);
    expect(problemFromError(error)).toEqual({ ...info, violations: [{ field: "text", problem: "long" }] });
  });

  it("has a word for every wire code", () => {
    const codes = Object.values(Code).filter((code): code is Code => typeof code === "number");
    const words = codes.map((code) => problemFromError(new ConnectError("x", code)).code);
    expect(new Set(words)).toEqual(new Set(PROBLEM_CODES));
  });

  it("shows no browser's own words when nobody answered", () => {
    expect(problemFromError(new TypeError("Failed to fetch"))).toMatchObject({ code: "unreachable", message: "" });
  });
});

describe("isLostConnection", () => {
  it("tells a broken line from a refusal", () => {
    expect(isLostConnection(new TypeError("Failed to fetch"))).toBe(true);
    expect(isLostConnection("missing EndStreamResponse")).toBe(true);
    expect(isLostConnection(new ConnectError("HTTP 503", Code.Unavailable))).toBe(true);
    expect(isLostConnection(new ConnectError("no", Code.Unavailable, undefined, [{ desc: ErrorInfoSchema, value: info }]))).toBe(false);
    expect(isLostConnection(new ConnectError("HTTP 401", Code.Unauthenticated))).toBe(false);
  });
});
