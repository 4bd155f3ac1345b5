// The line to the fleet: typed clients of the services behind this page's own address, and the owner's sign-in.
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { Coordinator } from "$gen/coordinator/v1/coordinator_pb.js";
import { Models } from "$gen/model/v1/model_pb.js";
import { Sessions } from "$gen/session/v1/session_pb.js";
import { Telemetry } from "$gen/telemetry/v1/telemetry_pb.js";
import type { Door } from "./follow.js";

/** Whoever may open this page is its owner: it is served to loopback, or to who holds the owner's token. */
export const USER = "owner";
export const CHANNEL = "web";

const UNARY_MS = 10_000;
/** Longest life of a stream. A turn on a slow processor may wait in line and write for minutes. */
export const STREAM_MS = 600_000;

let needed = $state(false);
let signIns = $state(0);

export const auth = {
  /** Somebody answered 401. */
  get needed(): boolean {
    return needed;
  },
  /** Counts sign-ins, for what must be loaded again after one. */
  get signIns(): number {
    return signIns;
  },
};

function cookie(name: string): string | undefined {
  const found = document.cookie.split("; ").find((pair) => pair.startsWith(`${name}=`));
  return found === undefined ? undefined : decodeURIComponent(found.slice(name.length + 1));
}

/** The anti-forgery header, once a sign-in has set its cookie. */
function csrf(): Record<string, string> {
  const token = cookie("tandem_csrf");
  return token === undefined ? {} : { "x-tandem-csrf": token };
}

const guard: Interceptor = (next) => async (request) => {
  for (const [name, value] of Object.entries(csrf())) request.header.set(name, value);
  try {
    return await next(request);
  } catch (error) {
    if (ConnectError.from(error).code === Code.Unauthenticated) needed = true;
    throw error;
  }
};

const transport = createConnectTransport({
  baseUrl: location.origin,
  useBinaryFormat: true,
  defaultTimeoutMs: UNARY_MS,
  interceptors: [guard],
});

export const coordinator = createClient(Coordinator, transport);
export const sessions = createClient(Sessions, transport);
export const telemetry = createClient(Telemetry, transport);
export const models = createClient(Models, transport);

export const door: Door = {
  submit: (request, signal) => coordinator.submit(request, { signal, timeoutMs: STREAM_MS }),
  resume: (request, signal) => coordinator.resume(request, { signal, timeoutMs: STREAM_MS }),
};

export function newKey(): Uint8Array<ArrayBuffer> {
  return crypto.getRandomValues(new Uint8Array(16));
}

export type SignIn =
  | { kind: "ok" }
  | { kind: "wrong" }
  | { kind: "slow"; retryAfterMs: number }
  | { kind: "failed"; status: string };

/** Hands the token over once; from then on an HTTP-only cookie speaks for the owner. */
export async function signIn(token: string): Promise<SignIn> {
  let response: Response;
  try {
    response = await fetch("/api/login", {
      method: "POST",
      headers: { "content-type": "application/json", ...csrf() },
      body: JSON.stringify({ token }),
      signal: AbortSignal.timeout(UNARY_MS),
    });
  } catch (error) {
    return { kind: "failed", status: error instanceof Error ? error.message : String(error) };
  }
  if (response.ok) {
    needed = false;
    signIns += 1;
    return { kind: "ok" };
  }
  if (response.status === 401 || response.status === 403) return { kind: "wrong" };
  if (response.status === 429) {
    return { kind: "slow", retryAfterMs: 1000 * (Number(response.headers.get("retry-after")) || 10) };
  }
  return { kind: "failed", status: `${response.status} ${response.statusText}` };
}
