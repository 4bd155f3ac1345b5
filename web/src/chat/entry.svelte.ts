// One exchange on the page: a question, the turn that answers it, and what a person can do about it.
import type { Submit, Start } from "../lib/follow.js";
import type { Exchange } from "../lib/exchanges.js";
import { announce } from "../lib/announce.svelte.js";
import { coordinator, door, USER } from "../lib/api.svelte.js";
import { shortened } from "../lib/format.js";
import { follow } from "../lib/follow.js";
import { t } from "../lib/i18n/index.svelte.js";
import { isLostConnection, problemFromError, type Problem } from "../lib/problem.js";
import { answerText, apply, failed, isOver, NEW_TURN, stopped, type TurnView } from "../lib/turn.js";

const QUEUE_POLL_MS = 2000;
/** A screen reader gets the answer in one piece; of a longer one it gets this much and reads on by itself. */
const ANNOUNCED = 400;

/** Ends after `ms`, when the browser comes back online, or when `signal` aborts. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    signal.addEventListener("abort", done);
  });
}

export class Entry {
  readonly key: string;
  readonly question: string;
  readonly askedMs: number;
  readonly recalled: boolean;
  view = $state.raw<TurnView>(NEW_TURN);
  /** The line is down and is being tried again. */
  lost = $state(false);
  /** Stop was pressed before the turn had an id. */
  stopping = $state(false);
  /** Why stopping failed. */
  stopProblem = $state.raw<Problem | null>(null);
  /** Of a recalled exchange: what came of asking for its path. */
  path = $state<"unasked" | "loading" | "expired">("unasked");
  #request: Submit | null = null;
  #line = new AbortController();

  constructor(exchange: Exchange) {
    this.key = exchange.key;
    this.question = exchange.question;
    this.askedMs = exchange.askedMs;
    this.recalled = exchange.recalled;
    this.view = exchange.view;
  }

  get live(): boolean {
    return !isOver(this.view);
  }

  /** Asks, and follows the answer to its end. */
  ask(request: Submit, accepted: (view: TurnView) => void): Promise<void> {
    this.#request = request;
    return this.#follow({ submit: request }, accepted);
  }

  /** Goes on with a turn that began before the page was loaded; without one, the exchange stays unanswered. */
  async pickUp(): Promise<void> {
    const before = this.view;
    this.view = { ...NEW_TURN, turnId: before.turnId, sessionId: before.sessionId, phase: "working" };
    await this.#follow({ userId: USER, turnId: before.turnId, after: 0n });
    if (this.view.problem?.code === "not_found") this.view = { ...before, phase: "unanswered" };
  }

  /** Tries again to carry on after the line stayed down for long. */
  reconnect(accepted: (view: TurnView) => void): Promise<void> {
    const { turnId, lastNumber } = this.view;
    this.view = { ...this.view, phase: turnId === "" ? "sending" : "working", problem: null };
    if (turnId !== "") return this.#follow({ userId: USER, turnId, after: lastNumber });
    return this.#request ? this.ask(this.#request, accepted) : Promise.resolve();
  }

  /** Ends the turn here at once, and at the coordinator as soon as it has an id. */
  async stop(): Promise<void> {
    if (!this.live) return;
    if (this.view.turnId === "") {
      this.stopping = true;
      return;
    }
    const { turnId } = this.view;
    this.#end();
    try {
      await coordinator.cancel({ userId: USER, turnId });
    } catch (error) {
      this.stopProblem = problemFromError(error);
    }
  }

  async confirm(yes: boolean): Promise<void> {
    const token = this.view.question?.token;
    if (token === undefined) return;
    this.view = { ...this.view, question: null };
    try {
      await coordinator.confirm({ userId: USER, token, yes });
    } catch (error) {
      this.#line.abort();
      this.view = failed(this.view, problemFromError(error));
    }
  }

  /** Fetches the timings of a recalled answer, which the coordinator keeps for 24 hours. */
  async recallPath(): Promise<void> {
    if (!this.recalled || this.path === "loading" || (this.view.final?.timings.length ?? 0) > 0) return;
    this.path = "loading";
    try {
      const signal = AbortSignal.timeout(10_000);
      let view: TurnView = { ...NEW_TURN, turnId: this.view.turnId };
      for await (const { event } of door.resume({ userId: USER, turnId: view.turnId, afterNumber: 0n }, signal)) {
        if (event) view = apply(view, event);
      }
      const { final, handler, tier, missing, notBuilt } = view;
      if (!final) throw new Error("the turn has no final");
      this.view = { ...this.view, final, handler: handler || this.view.handler, tier, missing, notBuilt };
      this.path = "unasked";
    } catch (error) {
      this.path = isLostConnection(error) ? "unasked" : "expired";
    }
  }

  /** Lets go of the line without ending the turn, as when the page moves on. */
  leave(): void {
    this.#line.abort();
  }

  #end(): void {
    this.#line.abort();
    this.stopping = false;
    this.lost = false;
    this.view = stopped(this.view);
    announce(t("turn.stopped"));
  }

  async #follow(start: Start, accepted?: (view: TurnView) => void): Promise<void> {
    this.#line = new AbortController();
    const { signal } = this.#line;
    for await (const update of follow(door, start, signal, pause)) {
      if (update.kind === "lost") {
        this.lost = true;
        // Whether the request arrived is not known, so neither is what there is to cancel.
        if (this.stopping) {
          this.#end();
          this.stopProblem = problemFromError(null);
        }
        continue;
      }
      this.lost = false;
      if (update.kind === "failed") {
        this.view = failed(this.view, update.problem);
        this.stopping = false;
        break;
      }
      this.view = apply(this.view, update.event);
      if (update.event.event.case === "accepted") {
        accepted?.(this.view);
        announce(t("turn.started"));
        if (this.view.phase === "queued") void this.#watchQueue(signal);
        if (this.stopping) await this.stop();
      }
    }
    if (this.view.phase === "done") {
      announce(t("turn.finished", { text: shortened(answerText(this.view), ANNOUNCED) }));
    } else if (this.view.phase === "failed") {
      announce(`${t("problem.title")} ${this.view.problem?.message ?? ""}`);
    }
  }

  /** The stream says the position once; while the turn waits, the coordinator is asked how it moves up. */
  async #watchQueue(signal: AbortSignal): Promise<void> {
    for (;;) {
      await pause(QUEUE_POLL_MS, signal);
      if (signal.aborted || this.view.phase !== "queued") return;
      try {
        const { state, position } = await coordinator.getResult({ userId: USER, requestId: this.view.requestId }, { signal });
        if (this.view.phase === "queued" && state === "queued") this.view = { ...this.view, position };
      } catch {
        // The stream tells when the wait is over; a position that is not known now is shown as it was.
      }
    }
  }
}
