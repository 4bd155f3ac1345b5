// What went wrong, in the words of the one error table, whether it came as an event, a call's error or a dead line.
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema, type ErrorInfo } from "$gen/common/v1/common_pb.js";

/** The twelve codes of the error table, and `unreachable` for a server that did not answer at all. */
export const PROBLEM_CODES = [
  "invalid_argument",
  "failed_precondition",
  "unauthenticated",
  "permission_denied",
  "not_found",
  "conflict",
  "resource_exhausted",
  "cancelled",
  "internal",
  "unimplemented",
  "unavailable",
  "deadline_exceeded",
  "unreachable",
] as const;

export type ProblemCode = (typeof PROBLEM_CODES)[number];

export interface Problem {
  code: ProblemCode;
  /** A stable word, for example `no_model`; empty when the line broke before anybody could say. */
  reason: string;
  /** For a person; empty for `unreachable`, where the page has its own words. */
  message: string;
  /** node/group/agent; empty when unknown. */
  agent: string;
  traceId: string;
  /** 0 when waiting does not help. */
  retryAfterMs: number;
  violations: { field: string; problem: string }[];
}

const FROM_WIRE: Partial<Record<Code, ProblemCode>> = {
  [Code.Canceled]: "cancelled",
  [Code.InvalidArgument]: "invalid_argument",
  [Code.OutOfRange]: "invalid_argument",
  [Code.DeadlineExceeded]: "deadline_exceeded",
  [Code.NotFound]: "not_found",
  [Code.AlreadyExists]: "conflict",
  [Code.Aborted]: "conflict",
  [Code.PermissionDenied]: "permission_denied",
  [Code.ResourceExhausted]: "resource_exhausted",
  [Code.FailedPrecondition]: "failed_precondition",
  [Code.Unimplemented]: "unimplemented",
  [Code.Internal]: "internal",
  [Code.DataLoss]: "internal",
  [Code.Unavailable]: "unavailable",
  [Code.Unauthenticated]: "unauthenticated",
};

export function problem(code: ProblemCode, message = ""): Problem {
  return { code, reason: "", message, agent: "", traceId: "", retryAfterMs: 0, violations: [] };
}

export function problemFromInfo(info: ErrorInfo): Problem {
  const code = PROBLEM_CODES.find((known) => known === info.code) ?? "internal";
  return {
    code,
    reason: info.reason,
    message: info.message,
    agent: info.agent,
    traceId: info.traceId,
    retryAfterMs: info.retryAfterMs,
    violations: info.violations.map(({ field, problem }) => ({ field, problem })),
  };
}

/** The detail of an error that an agent raised; absent when the transport made the error itself. */
function infoOf(error: ConnectError): ErrorInfo | undefined {
  return error.findDetails(ErrorInfoSchema)[0];
}

export function problemFromError(error: unknown): Problem {
  const wire = ConnectError.from(error);
  const info = infoOf(wire);
  if (info) return problemFromInfo(info);
  const code = FROM_WIRE[wire.code] ?? "unreachable";
  return problem(code, code === "unreachable" ? "" : wire.rawMessage);
}

/**
 * Whether the line broke rather than the work: nobody who serves the call said what is wrong, and the code is one that
 * browsers, proxies and restarting servers produce. A fetch that fails and a stream that ends too soon are `Unknown`.
 */
export function isLostConnection(error: unknown): boolean {
  const wire = ConnectError.from(error);
  const fromTransport = [Code.Unknown, Code.Unavailable, Code.Internal, Code.Aborted, Code.Canceled, Code.DataLoss];
  return infoOf(wire) === undefined && fromTransport.includes(wire.code);
}
