//! What is said of what is shown.
//!
//! Tables, code, links and long lists are for the eye; instead of them it is said that they are on the screen.

use super::cut::{Kind, Piece};
use crate::language::tongue::Tongue;

/// Items of a list that are read out.
const ITEMS_SPOKEN: u32 = 3;

/// Words said in place of what cannot be.
struct Phrases {
    code: &'static str,
    table: &'static str,
    more: &'static str,
    link: &'static str,
}

fn phrases(tongue: Tongue) -> &'static Phrases {
    match tongue {
        Tongue::En => &Phrases {
            code: "The code is on the screen.",
            table: "The table is on the screen.",
            more: "The rest of the list is on the screen.",
            link: "the link on the screen",
        },
        Tongue::Tl => &Phrases {
            code: "Nasa screen ang code.",
            table: "Nasa screen ang talahanayan.",
            more: "Nasa screen ang natitira sa listahan.",
            link: "ang link sa screen",
        },
        Tongue::Taglish => &Phrases {
            code: "Nasa screen yung code.",
            table: "Nasa screen yung table.",
            more: "Nasa screen yung iba pa sa list.",
            link: "yung link sa screen",
        },
    }
}

/// Turns pieces into speech, one after the other.
#[derive(Debug)]
pub(super) struct Speaker {
    /// The next piece begins a line.
    fresh_line: bool,
    /// Items of the list so far; 0 outside lists.
    items: u32,
}

impl Speaker {
    /// At the beginning of a text.
    pub(super) fn new() -> Self {
        Self { fresh_line: true, items: 0 }
    }

    /// What is said of this piece; empty when nothing is.
    pub(super) fn say(&mut self, piece: &Piece, tongue: Tongue) -> String {
        let phrases = phrases(tongue);
        let said = match piece.kind {
            Kind::Code => phrases.code.to_owned(),
            Kind::Table => phrases.table.to_owned(),
            Kind::Prose => self.prose(&piece.display, phrases),
        };
        self.fresh_line = piece.display.ends_with('\n');
        said
    }

    fn prose(&mut self, text: &str, phrases: &Phrases) -> String {
        let mut said: Vec<String> = Vec::new();
        for (n, line) in text.split('\n').enumerate() {
            let begins = n > 0 || self.fresh_line;
            let bare = line.trim();
            if begins && !bare.is_empty() {
                if is_rule(bare) {
                    continue;
                }
                if item(bare).is_some() {
                    self.items += 1;
                    if self.items == ITEMS_SPOKEN + 1 {
                        said.push(phrases.more.to_owned());
                    }
                } else if !line.starts_with([' ', '\t']) {
                    self.items = 0;
                }
            }
            if self.items > ITEMS_SPOKEN {
                continue;
            }
            let words = if begins {
                item(bare).unwrap_or_else(|| bare.trim_start_matches(['#', '>']).trim_start())
            } else {
                bare
            };
            let words = inline(words, phrases);
            if !words.is_empty() {
                said.push(words);
            }
        }
        said.join(" ")
    }
}

/// The words of a list item, without its mark.
fn item(line: &str) -> Option<&str> {
    let after_mark = line.strip_prefix(['-', '*', '+']).or_else(|| {
        let digits = line.len() - line.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        line[digits..].strip_prefix(['.', ')']).filter(|_| (1..=3).contains(&digits))
    })?;
    after_mark.strip_prefix([' ', '\t']).map(str::trim_start)
}

fn is_rule(line: &str) -> bool {
    line.len() >= 3
        && ["-", "*", "_"]
            .iter()
            .any(|mark| line.replace([' ', '\t'], "").trim_matches(|c| mark.starts_with(c)).is_empty())
}

/// Takes links, addresses and marks of emphasis and code out of a line.
fn inline(line: &str, phrases: &Phrases) -> String {
    let mut said = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some((text, after)) = link(rest) {
            said += &inline(text, phrases);
            rest = after;
        } else if rest.starts_with("http://") || rest.starts_with("https://") {
            let end = rest.find(|c: char| c.is_whitespace() || ")>\"]".contains(c)).unwrap_or(rest.len());
            let address = rest[..end].trim_end_matches(['.', ',', '!', '?', ':', ';']);
            said += phrases.link;
            rest = &rest[address.len()..];
        } else {
            let inside_word =
                c == '_' && said.ends_with(char::is_alphanumeric) && rest[1..].starts_with(char::is_alphanumeric);
            if !matches!(c, '*' | '`' | '~' | '<' | '>') && (c != '_' || inside_word) {
                said.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `[text](target)` or `![text](target)` at the beginning: the text, and what follows.
fn link(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('!').unwrap_or(text).strip_prefix('[')?;
    let (words, target) = text.split_once("](")?;
    if words.contains('\n') || words.contains('[') {
        return None;
    }
    let (_, after) = target.split_once(')')?;
    Some((words, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(text: &str, tongue: Tongue) -> String {
        Speaker::new().say(&Piece { display: text.into(), kind: Kind::Prose }, tongue)
    }

    #[test]
    fn marks_are_not_spoken() {
        for (text, said) in [
            ("# Hello **dear** _Ana_\n", "Hello dear Ana"),
            ("Use `ls -l` in my_file_name.", "Use ls -l in my_file_name."),
            ("See [the *manual*](https://a.b/c), please.", "See the manual, please."),
            ("Look: https://a.b/c?d=e_f. Bye", "Look: the link on the screen. Bye"),
            ("![a cat](cat.png) sits", "a cat sits"),
            ("> quoted\n\n---\nnext", "quoted next"),
            ("3 - 2 = 1", "3 - 2 = 1"),
            ("1.5 liters", "1.5 liters"),
            ("   \n", ""),
        ] {
            assert_eq!(say(text, Tongue::En), said, "{text}");
        }
    }

    #[test]
    fn long_lists_are_cut_short_also_across_pieces() {
        let text = "Things:\n- one\n- two\n- three\n- four\n- five\n\nThat is all.";
        assert_eq!(say(text, Tongue::En), "Things: one two three The rest of the list is on the screen. That is all.");
        let mut speaker = Speaker::new();
        let said: Vec<String> = ["1. one\n2. two\n", "3. three\n4. four, ", "and more of it\n5. five\n", "Done."]
            .map(|display| speaker.say(&Piece { display: display.into(), kind: Kind::Prose }, Tongue::Taglish))
            .into();
        assert_eq!(said, ["one two", "three Nasa screen yung iba pa sa list.", "", "Done."]);
    }

    #[test]
    fn blocks_are_on_the_screen() {
        let mut speaker = Speaker::new();
        let mut block = |kind| speaker.say(&Piece { display: "x\n".into(), kind }, Tongue::Tl);
        assert_eq!(
            (block(Kind::Code), block(Kind::Table)),
            ("Nasa screen ang code.".into(), "Nasa screen ang talahanayan.".into())
        );
    }
}
