// What a screen reader is told beside what it reads: one short line at a time.
let line = $state("");

export const announcer = {
  get line(): string {
    return line;
  },
};

export function announce(text: string): void {
  // The same words twice would be no change, and nothing would be said.
  line = text === line ? `${text}\u00a0` : text;
}
