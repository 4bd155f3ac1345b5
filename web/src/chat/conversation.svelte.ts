// One session on the page.
import { Modality } from "$gen/coordinator/v1/coordinator_pb.js";
import { CHANNEL, newKey, sessions, USER } from "../lib/api.svelte.js";
import { exchangesOf } from "../lib/exchanges.js";
import { problemFromError, type Problem } from "../lib/problem.js";
import { NEW_TURN, type TurnView } from "../lib/turn.js";
import { Entry } from "./entry.svelte.js";
import { forget, remember, remembered } from "./running.js";
import type { Turn } from "$gen/session/v1/session_pb.js";

const PAGE = 200;

let keys = 0;

export class Conversation {
  /** Empty until the first turn is accepted. */
  sessionId = $state("");
  entries = $state.raw<Entry[]>([]);
  draft = $state("");
  loading = $state(false);
  problem = $state.raw<Problem | null>(null);
  #loaded = false;
  /** Told when the session has its id and when its list entry may have changed. */
  readonly #changed: (conversation: Conversation) => void;

  constructor(sessionId: string, changed: (conversation: Conversation) => void) {
    this.sessionId = sessionId;
    this.#loaded = sessionId === "";
    this.#changed = changed;
  }

  /** The exchange that is being answered. */
  get running(): Entry | undefined {
    return this.entries.findLast((entry) => entry.live);
  }

  async ask(text: string): Promise<void> {
    const entry = new Entry({
      key: `new:${++keys}`,
      question: text,
      askedMs: Date.now(),
      view: { ...NEW_TURN, sessionId: this.sessionId },
      recalled: false,
    });
    this.entries = [...this.entries, entry];
    const request = {
      idempotencyKey: newKey(),
      userId: USER,
      sessionId: this.sessionId,
      modality: Modality.TEXT,
      text,
      channel: CHANNEL,
    };
    await this.#finish(entry, entry.ask(request, (view) => this.#accepted(entry, view)));
  }

  async reconnect(entry: Entry): Promise<void> {
    await this.#finish(entry, entry.reconnect((view) => this.#accepted(entry, view)));
  }

  /** Reads what was said before, and goes on with a turn that still runs. */
  async load(): Promise<void> {
    if (this.#loaded || this.loading) return;
    this.loading = true;
    this.problem = null;
    try {
      const turns: Turn[] = [];
      let pageToken = "";
      do {
        const page = await sessions.listTurns({ userId: USER, sessionId: this.sessionId, pageSize: PAGE, pageToken });
        turns.push(...page.turns);
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      this.entries = exchangesOf(turns, this.sessionId).map((exchange) => new Entry(exchange));
      this.#loaded = true;
    } catch (error) {
      this.problem = problemFromError(error);
      return;
    } finally {
      this.loading = false;
    }
    this.#pickUp();
  }

  leave(): void {
    for (const entry of this.entries) entry.leave();
  }

  #accepted(entry: Entry, view: TurnView): void {
    this.sessionId = view.sessionId;
    remember({ turnId: view.turnId, sessionId: view.sessionId, question: entry.question, askedMs: entry.askedMs });
    this.#changed(this);
  }

  async #finish(entry: Entry, answer: Promise<void>): Promise<void> {
    await answer;
    // A line that broke for good leaves a turn that may still run: a reload can pick it up.
    if (entry.view.problem?.code !== "unreachable") forget(entry.view.turnId);
    this.#changed(this);
  }

  #pickUp(): void {
    for (const running of remembered(this.sessionId)) {
      if (this.entries.some((entry) => entry.view.turnId === running.turnId)) continue;
      const view: TurnView = { ...NEW_TURN, turnId: running.turnId, sessionId: this.sessionId, phase: "unanswered" };
      const { question, askedMs } = running;
      this.entries = [...this.entries, new Entry({ key: running.turnId, question, askedMs, view, recalled: true })];
    }
    const last = this.entries.at(-1);
    if (last?.view.phase === "unanswered" && last.view.turnId !== "") void this.#finish(last, last.pickUp());
  }
}
