//! Making a query out of what a person typed.

use std::collections::BTreeSet;

/// Words of a query that count; a longer one is a paragraph, and its first words say what it is about.
const MAX_WORDS: usize = 32;

/// The query in the language of FTS5: each word as a quoted phrase, any of them enough. None when there is no word.
///
/// Inside quotes FTS5 knows one sign, the quote, and its parser ends at a zero byte; neither is let through, so no text
/// can be a syntax error. A word such as `mag-aral` stays one phrase.
pub(super) fn fts_query(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '"' || c == '\0');
    let mut seen = BTreeSet::new();
    let phrases: Vec<String> = words
        .filter(|word| word.chars().any(char::is_alphanumeric) && seen.insert(word.to_lowercase()))
        .take(MAX_WORDS)
        .map(|word| format!("\"{word}\""))
        .collect();
    (!phrases.is_empty()).then(|| phrases.join(" OR "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_phrases() {
        for (text, query) in [
            ("water the plants", Some(r#""water" OR "the" OR "plants""#)),
            ("mag-aral tayo", Some(r#""mag-aral" OR "tayo""#)),
            ("Water WATER", Some(r#""Water""#)),
            (r#"say "hi" NEAR(x)"#, Some(r#""say" OR "hi" OR "NEAR(x)""#)),
            ("a\0b", Some(r#""a" OR "b""#)),
            (" ?! -- \"\" ", None),
            ("", None),
        ] {
            assert_eq!(fts_query(text).as_deref(), query, "{text:?}");
        }
    }
}
