// Markdown as a tree. The tree is drawn by components as elements and text nodes; no HTML is ever parsed, so what a
// model writes cannot become anything but text.
import { Lexer, type Token } from "marked";

const OPTIONS = { gfm: true };

/** Block tokens of a text. Text that the parser gives up on comes back as one paragraph. */
export function blocks(text: string): Token[] {
  try {
    return Lexer.lex(text, OPTIONS).filter((token) => token.type !== "space" && token.type !== "def");
  } catch {
    return [{ type: "paragraph", raw: text, text, tokens: [{ type: "text", raw: text, text }] }];
  }
}

/**
 * The blocks of a text that grew, with the objects of `before` where a block has not changed, so that finished blocks are
 * not drawn again with every piece that arrives.
 */
export function grow(before: Token[], text: string): Token[] {
  return blocks(text).map((token, i) => {
    const known = before[i];
    return known && known.type === token.type && known.raw === token.raw ? known : token;
  });
}
