// Turns of this tab that run, so that a reload goes on with them even before their session shows them.

export interface Running {
  turnId: string;
  sessionId: string;
  question: string;
  askedMs: number;
}

const STORED = "tandem.running";

function read(): Running[] {
  try {
    const kept: unknown = JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}

function write(turns: Running[]): void {
  try {
    sessionStorage.setItem(STORED, JSON.stringify(turns));
  } catch {
    // Storage is switched off: a reload then shows what the session has stored.
  }
}

export function remember(turn: Running): void {
  write([...read().filter(({ turnId }) => turnId !== turn.turnId), turn]);
}

export function forget(turnId: string): void {
  write(read().filter((turn) => turn.turnId !== turnId));
}

export function remembered(sessionId: string): Running[] {
  return read().filter((turn) => turn.sessionId === sessionId);
}
