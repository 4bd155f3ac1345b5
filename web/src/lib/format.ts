// Numbers and times in a person's language. Times are passed in.

export function milliseconds(ms: number, locale: string): string {
  if (ms < 1000) {
    const digits = ms < 10 ? 1 : 0;
    return `${new Intl.NumberFormat(locale, { maximumFractionDigits: digits }).format(ms)} ms`;
  }
  return `${new Intl.NumberFormat(locale, { maximumFractionDigits: ms < 10_000 ? 2 : 1 }).format(ms / 1000)} s`;
}

export function decimal(value: number, locale: string, digits = 1): string {
  return new Intl.NumberFormat(locale, { maximumFractionDigits: digits }).format(value);
}

const DAY_MS = 86_400_000;
/** Symbols of the International System, the same in every language. */
const UNITS: [symbol: string, ms: number][] = [
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1000],
];

/** How long something has lasted, in its largest whole unit: `5 min`, `2 days`. */
export function lasting(ms: number, locale: string): string {
  if (ms >= DAY_MS) {
    const days = { style: "unit", unit: "day", unitDisplay: "long" } as const;
    return new Intl.NumberFormat(locale, days).format(Math.floor(ms / DAY_MS));
  }
  const [symbol, size] = UNITS.find(([, size]) => ms >= size) ?? ["s", 1000];
  return `${new Intl.NumberFormat(locale).format(Math.max(0, Math.floor(ms / size)))} ${symbol}`;
}

/** When, for a list: a time for today, else a date. */
export function moment(atMs: number, nowMs: number, locale: string): string {
  const at = new Date(atMs);
  const today = dayNumber(atMs) === dayNumber(nowMs);
  const options: Intl.DateTimeFormatOptions = today
    ? { hour: "numeric", minute: "2-digit" }
    : { day: "numeric", month: "short", ...(at.getFullYear() === new Date(nowMs).getFullYear() ? {} : { year: "numeric" }) };
  return new Intl.DateTimeFormat(locale, options).format(at);
}

export type Age = "today" | "yesterday" | "week" | "older";

function dayNumber(ms: number): number {
  const date = new Date(ms);
  return Math.round(Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / DAY_MS);
}

export function ageOf(atMs: number, nowMs: number): Age {
  const days = dayNumber(nowMs) - dayNumber(atMs);
  if (days <= 0) return "today";
  if (days === 1) return "yesterday";
  return days < 7 ? "week" : "older";
}

/** The text on one line, of at most `length` code points. */
export function shortened(text: string, length: number): string {
  const parts = [...text.replace(/\s+/g, " ").trim()];
  return parts.length <= length ? parts.join("") : `${parts.slice(0, length - 1).join("").trimEnd()}…`;
}
