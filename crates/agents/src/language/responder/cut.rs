//! Cuts a growing Markdown text into pieces that can be shown and spoken before the rest is there.
//!
//! Prose is cut behind the white space that follows the end of a clause; code blocks and tables stay whole. Where a piece
//! ends depends on the text alone, not on how it arrived, and the pieces put together are the text.

/// Characters from which the first piece may end with a clause; before that only with a sentence.
const FIRST: usize = 40;
/// Characters from which later pieces may end.
const LATER: usize = 80;
/// Characters from which a piece ends at any white space.
const LONGEST: usize = 240;

/// What a piece is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Words.
    Prose,
    /// A fenced block of code.
    Code,
    /// A table.
    Table,
}

/// A part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The part, as it was written.
    pub(super) display: String,
    /// What it is made of.
    pub(super) kind: Kind,
}

/// How a line begins.
enum Line {
    Prose,
    Fence,
    Row,
    /// Not enough of it is there to say.
    Unknown,
}

/// Where a text may be cut.
#[derive(PartialEq)]
enum End {
    None,
    Clause,
    Sentence,
}

/// Takes text as it comes and gives pieces.
#[derive(Debug)]
pub(super) struct Cutter {
    /// Text that is in no piece yet.
    rest: String,
    /// Up to here it was looked at.
    seen: usize,
    /// `seen` is at the beginning of a line.
    fresh_line: bool,
    kind: Kind,
    first: bool,
}

impl Cutter {
    /// Has no text yet.
    pub(super) fn new() -> Self {
        Self { rest: String::new(), seen: 0, fresh_line: true, kind: Kind::Prose, first: true }
    }

    /// More text; the pieces that are complete now.
    pub(super) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.rest.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// The text has ended; what is left of it.
    pub(super) fn finish(mut self) -> Option<Piece> {
        let end = self.rest.len();
        self.take(end)
    }

    /// Looks at one more line beginning or character; false when that takes more text.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if self.fresh_line {
            let line = line(&self.rest[self.seen..]);
            match (self.kind, line) {
                (_, Line::Unknown) => return false,
                (Kind::Prose, Line::Prose) | (Kind::Table, Line::Row) => {}
                (Kind::Prose, Line::Fence) => self.enter(Kind::Code, pieces),
                (Kind::Prose, Line::Row) => self.enter(Kind::Table, pieces),
                (Kind::Code, Line::Fence) => {
                    // The block ends with this line; its newline decides nothing else.
                    let Some(length) = self.rest[self.seen..].find('\n') else { return false };
                    let end = self.seen + length + 1;
                    pieces.extend(self.take(end));
                    self.kind = Kind::Prose;
                    return true;
                }
                (Kind::Code, _) => {}
                (Kind::Table, Line::Prose | Line::Fence) => {
                    pieces.extend(self.take(self.seen));
                    self.kind = Kind::Prose;
                    return true;
                }
            }
            self.fresh_line = false;
        }
        let Some(c) = self.rest[self.seen..].chars().next() else { return false };
        let before = self.seen;
        self.seen += c.len_utf8();
        self.fresh_line = c == '\n';
        if self.kind == Kind::Prose && c.is_whitespace() && self.may_end(before, c) {
            pieces.extend(self.take(self.seen));
        }
        true
    }

    /// Begins a block at `seen`; the prose before it is a piece unless it is blank.
    fn enter(&mut self, kind: Kind, pieces: &mut Vec<Piece>) {
        if !self.rest[..self.seen].trim().is_empty() {
            pieces.extend(self.take(self.seen));
        }
        self.kind = kind;
        // The fence itself must not be taken for the end of the block.
        self.fresh_line = false;
    }

    fn may_end(&self, before: usize, space: char) -> bool {
        let text = &self.rest[..before];
        if text.trim().is_empty() || inline_is_open(text) {
            return false;
        }
        let length = text.chars().count();
        match end_of(text, space) {
            End::Sentence if self.first => true,
            End::Sentence | End::Clause => length >= if self.first { FIRST } else { LATER },
            End::None => length >= LONGEST,
        }
    }

    fn take(&mut self, end: usize) -> Option<Piece> {
        if end == 0 {
            return None;
        }
        let tail = self.rest.split_off(end);
        let display = std::mem::replace(&mut self.rest, tail);
        self.seen = self.seen.saturating_sub(end);
        self.fresh_line = display.ends_with('\n') || self.fresh_line && self.seen == 0;
        self.first = false;
        Some(Piece { display, kind: self.kind })
    }
}

/// What kind of line `text` begins with.
fn line(text: &str) -> Line {
    let open = !text.contains('\n');
    let text = text.trim_start_matches([' ', '\t']);
    let fence = |mark: &str| text.starts_with(mark);
    let may_be = |mark: &str| open && mark.starts_with(text);
    if fence("```") || fence("~~~") {
        Line::Fence
    } else if may_be("```") || may_be("~~~") {
        Line::Unknown
    } else if text.starts_with('|') {
        Line::Row
    } else {
        Line::Prose
    }
}

/// How `text` ends, now that `space` follows it.
fn end_of(text: &str, space: char) -> End {
    if space == '\n' {
        return End::Sentence;
    }
    let bare = text.trim_end_matches(['"', '\'', ')', ']', '»', '”', '’', '*', '_']);
    match bare.chars().next_back() {
        Some('!' | '?' | '…') => End::Sentence,
        Some('.') if !is_abbreviation(bare) => End::Sentence,
        Some(',' | ';' | ':' | '—' | '–') => End::Clause,
        _ => End::None,
    }
}

/// Whether the full stop at the end of `text` ends no sentence: titles, initials, numbers of list items.
fn is_abbreviation(text: &str) -> bool {
    const KNOWN: &[&str] =
        &["dr", "mr", "mrs", "ms", "prof", "st", "vs", "e.g", "i.e", "approx", "no", "gng", "atty", "engr"];
    let text = &text[..text.len() - 1];
    let word = text.rsplit(char::is_whitespace).next().unwrap_or(text);
    let start = text.len() - word.len();
    let word = word.trim_start_matches(['(', '"', '*', '_']);
    let begins_line = text[..start].trim_end_matches([' ', '\t']).is_empty() || text[..start].ends_with('\n');
    let number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    KNOWN.contains(&word.to_lowercase().as_str())
        || (number && begins_line)
        || (word.chars().count() == 1 && word.chars().all(char::is_uppercase) && word != "I")
}

/// Whether code between ticks, or a link, has begun on the last line of `text` and not ended.
fn inline_is_open(text: &str) -> bool {
    let line = text.rsplit('\n').next().unwrap_or(text);
    if line.matches('`').count() % 2 == 1 {
        return true;
    }
    match line.rfind("](") {
        Some(target) if !line[target..].contains(')') => true,
        _ => line.rfind('[').is_some_and(|open| !line[open..].contains(']')),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str) -> Vec<Piece> {
        let mut cutter = Cutter::new();
        let mut pieces = cutter.push(text);
        pieces.extend(cutter.finish());
        pieces
    }

    fn displays(text: &str) -> Vec<String> {
        cut(text).into_iter().map(|p| p.display).collect()
    }

    #[test]
    fn the_first_piece_is_short_and_later_ones_longer() {
        for (text, pieces) in [
            ("Yes. I can do that.", vec!["Yes. ", "I can do that."]),
            ("Well, I can.", vec!["Well, I can."]),
            (
                "I can talk with you about many things here, and also remember them.",
                vec!["I can talk with you about many things here, ", "and also remember them."],
            ),
            ("Ask Dr. Cruz at 3.15 today.", vec!["Ask Dr. Cruz at 3.15 today."]),
            ("1. Boil water\n2. Add rice\n", vec!["1. Boil water\n", "2. Add rice\n"]),
            (
                "See [the first. page](http://a.b/c d) now. Bye",
                vec!["See [the first. page](http://a.b/c d) now. ", "Bye"],
            ),
            ("Run `a. b` now. Bye", vec!["Run `a. b` now. ", "Bye"]),
            ("", vec![]),
        ] {
            assert_eq!(displays(text), pieces, "{text}");
        }
    }

    #[test]
    fn code_and_tables_stay_whole() {
        let text =
            "Here:\n```rust\nfn a() { b. c }\n\n| x |\n```\nAnd a table:\n| a | b |\n|---|---|\n| 1 | 2 |\nDone.";
        let found: Vec<(Kind, String)> = cut(text).into_iter().map(|p| (p.kind, p.display)).collect();
        let expected = [
            (Kind::Prose, "Here:\n"),
            (Kind::Code, "```rust\nfn a() { b. c }\n\n| x |\n```\n"),
            (Kind::Prose, "And a table:\n"),
            (Kind::Table, "| a | b |\n|---|---|\n| 1 | 2 |\n"),
            (Kind::Prose, "Done."),
        ];
        assert_eq!(found, expected.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn words_without_any_stop_are_cut_at_last() {
        let pieces = displays(&"word ".repeat(200));
        assert!(pieces.len() > 3 && pieces.iter().all(|p| p.len() <= LONGEST + 5), "{pieces:?}");
    }

    proptest! {
        /// Whatever comes in, in whatever portions, comes out unchanged and cut at the same places.
        #[test]
        fn nothing_is_lost_and_portions_make_no_difference(
            parts in proptest::collection::vec(
                prop_oneof![
                    "[a-zñ]{1,9}", Just(" ".to_owned()), Just(". ".to_owned()), Just(", ".to_owned()), Just("\n".to_owned()),
                    Just("```".to_owned()), Just("`".to_owned()), Just("| a |".to_owned()), Just("[x](http://y z)".to_owned()),
                    Just("- ".to_owned()), Just("1. ".to_owned()), Just("  ".to_owned()), Just("~~~\n".to_owned()), "\\PC{0,4}",
                ],
                0..80,
            ),
            sizes in proptest::collection::vec(1usize..7, 1..20),
        ) {
            let text = parts.concat();
            let whole = cut(&text);
            prop_assert_eq!(whole.iter().map(|p| p.display.as_str()).collect::<String>(), text.clone());
            prop_assert!(whole.iter().all(|p| !p.display.is_empty()));
            let mut cutter = Cutter::new();
            let (mut pieces, mut chars, mut sizes) = (Vec::new(), text.chars().peekable(), sizes.into_iter().cycle());
            while chars.peek().is_some() {
                let portion: String = chars.by_ref().take(sizes.next().unwrap()).collect();
                pieces.extend(cutter.push(&portion));
            }
            pieces.extend(cutter.finish());
            prop_assert_eq!(pieces, whole);
        }
    }
}
