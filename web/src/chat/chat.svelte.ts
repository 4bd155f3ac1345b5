// Every session of the owner, and those that are open on the page.
import type { Session } from "$gen/session/v1/session_pb.js";
import { newKey, sessions, USER } from "../lib/api.svelte.js";
import { problemFromError, type Problem } from "../lib/problem.js";
import { router } from "../lib/router.svelte.js";
import { Conversation } from "./conversation.svelte.js";

const PAGE = 50;

class Chat {
  list = $state.raw<Session[]>([]);
  listed = $state(false);
  problem = $state.raw<Problem | null>(null);
  /** A conversation without a session yet. */
  #fresh = $state.raw<Conversation>(new Conversation("", (c) => this.#changed(c)));
  #next = $state("");
  #open = new Map<string, Conversation>();

  get more(): boolean {
    return this.#next !== "";
  }

  /** The conversation of a session; of the empty id, the one that has not begun. */
  of(sessionId: string): Conversation {
    if (sessionId === "") return this.#fresh;
    let conversation = this.#open.get(sessionId);
    if (!conversation) {
      conversation = new Conversation(sessionId, (c) => this.#changed(c));
      this.#open.set(sessionId, conversation);
    }
    return conversation;
  }

  ended(conversation: Conversation): boolean {
    return this.list.some(({ sessionId, endedUs }) => sessionId === conversation.sessionId && endedUs > 0n);
  }

  titleOf(conversation: Conversation): string {
    const listed = this.list.find(({ sessionId }) => sessionId === conversation.sessionId);
    return listed?.title || conversation.entries[0]?.question || "";
  }

  /** Shows an empty conversation, which may begin with a text. */
  begin(draft = ""): void {
    if (this.#fresh.entries.length > 0) this.#fresh = new Conversation("", (c) => this.#changed(c));
    if (draft !== "") this.#fresh.draft = draft;
    router.go({ view: "chat", session: "" });
  }

  /** Sends a message; from an ended session it goes into a new one. */
  ask(conversation: Conversation, text: string): void {
    if (!this.ended(conversation)) return void conversation.ask(text);
    this.begin();
    void this.#fresh.ask(text);
  }

  async refresh(): Promise<void> {
    try {
      const page = await sessions.listSessions({ userId: USER, pageSize: PAGE });
      const ids = new Set(page.sessions.map(({ sessionId }) => sessionId));
      const further = this.list.length > PAGE ? this.list.slice(PAGE).filter(({ sessionId }) => !ids.has(sessionId)) : [];
      this.list = [...page.sessions, ...further];
      if (further.length === 0) this.#next = page.nextPageToken;
      this.problem = null;
      this.listed = true;
    } catch (error) {
      this.problem = problemFromError(error);
    }
  }

  async loadMore(): Promise<void> {
    try {
      const page = await sessions.listSessions({ userId: USER, pageSize: PAGE, pageToken: this.#next });
      const ids = new Set(this.list.map(({ sessionId }) => sessionId));
      this.list = [...this.list, ...page.sessions.filter(({ sessionId }) => !ids.has(sessionId))];
      this.#next = page.nextPageToken;
    } catch (error) {
      this.problem = problemFromError(error);
    }
  }

  /** Removes a session with everything in it; a problem when it is still there. */
  async remove(sessionId: string): Promise<Problem | null> {
    const conversation = this.#open.get(sessionId);
    await conversation?.running?.stop();
    try {
      await sessions.deleteSession({ userId: USER, sessionId, idempotencyKey: newKey() });
    } catch (error) {
      const problem = problemFromError(error);
      if (problem.code !== "not_found") return problem;
    }
    conversation?.leave();
    this.#open.delete(sessionId);
    this.list = this.list.filter((session) => session.sessionId !== sessionId);
    const { route } = router;
    if (route.view === "chat" && route.session === sessionId) this.begin();
    return null;
  }

  isRunning(sessionId: string): boolean {
    return this.#open.get(sessionId)?.running !== undefined;
  }

  #changed(conversation: Conversation): void {
    const { sessionId } = conversation;
    if (sessionId !== "" && !this.#open.has(sessionId)) {
      this.#open.set(sessionId, conversation);
      const shown = conversation === this.#fresh && router.route.view === "chat" && router.route.session === "";
      if (conversation === this.#fresh) this.#fresh = new Conversation("", (c) => this.#changed(c));
      if (shown) router.rename({ view: "chat", session: sessionId });
    }
    void this.refresh();
  }
}

export const chat = new Chat();
