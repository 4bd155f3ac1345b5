// What drawing a Markdown token needs, apart from the parser.
import type { Token, Tokens } from "marked";

export type { Token, Tokens };

/** The address if it is one to follow, else nothing. */
export function safeHref(href: string): string | undefined {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** Text with the character references that models write outside code. */
export function plain(text: string): string {
  return text.replace(/&(?:#(\d{1,7})|([a-z]{2,4}));/g, (whole, digits: string | undefined, name: string | undefined) => {
    if (name !== undefined) return ENTITIES[name] ?? whole;
    const point = Number(digits);
    return point > 0 && point <= 0x10ffff && !(point >= 0xd800 && point <= 0xdfff) ? String.fromCodePoint(point) : whole;
  });
}

/** The children of an inline or block token; empty for leaves. */
export function children(token: Token): Token[] {
  return ("tokens" in token && token.tokens) || [];
}

/** The highest rank among headings; 1 when there are none. */
export function topHeading(tokens: Token[]): number {
  const ranks = tokens.flatMap((token) => (token.type === "heading" ? [(token as Tokens.Heading).depth] : []));
  return ranks.length > 0 ? Math.min(...ranks) : 1;
}
