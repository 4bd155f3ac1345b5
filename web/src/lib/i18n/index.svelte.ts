import { en, type Key, type Table } from "./en.js";
import { tl } from "./tl.js";

export type { Key };
export const LANGUAGES = { en: "English", tl: "Tagalog" } as const;
export type Language = keyof typeof LANGUAGES;

const TABLES: Record<Language, Table> = { en, tl };
const STORED = "tandem.language";

/** The language kept from last time, else the browser's first one that the page knows. */
export function choose(stored: string | null, browser: readonly string[]): Language {
  if (stored === "en" || stored === "tl") return stored;
  const known = browser.map((tag) => tag.toLowerCase().split("-")[0]).map((tag) => (tag === "fil" ? "tl" : tag));
  return known.find((tag): tag is Language => tag === "en" || tag === "tl") ?? "en";
}

/** Puts values into `{name}` places. */
export function fill(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (place, name: string) => String(values[name] ?? place));
}

function stored(): string | null {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null; // Storage is switched off: the choice lasts as long as the page.
  }
}

let language = $state<Language>(
  typeof navigator === "undefined" ? "en" : choose(stored(), navigator.languages ?? [navigator.language]),
);

export const i18n = {
  get language(): Language {
    return language;
  },
  /** For `Intl`, which knows Tagalog as Filipino. */
  get locale(): string {
    return language === "tl" ? "fil" : (navigator.languages?.find((tag) => tag.startsWith("en")) ?? "en");
  },
  use(chosen: Language): void {
    language = chosen;
    try {
      localStorage.setItem(STORED, chosen);
    } catch {
      // As above.
    }
  },
};

export function t(key: Key, values: Record<string, string | number> = {}): string {
  return fill(TABLES[language][key], { ...values });
}

/** The words for `prefix.name` if the table has them, else the name itself: stages and codes of later versions. */
export function known(prefix: string, name: string): string {
  const key = `${prefix}.${name}`;
  return key in TABLES[language] ? TABLES[language][key as Key] : name;
}
