//! Suites: questions, and what their answers must be like. No IO.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::language::tongue::{self, Tongue};

/// The suites there are.
const TEXTS: &[(&str, &str)] = &[("chat", include_str!("chat.toml"))];

/// The suite that is meant when none is named.
pub(super) const USUAL: &str = "chat";

/// Tokens of an answer to a question that does not say how many.
const MOST_TOKENS: u32 = 48;

/// All of them, by name.
static SUITES: LazyLock<BTreeMap<&str, Suite>> = LazyLock::new(|| {
    let read = |(name, text): &(&'static str, &str)| {
        (*name, Suite::read(text).expect("a test reads every suite that is built in"))
    };
    TEXTS.iter().map(read).collect()
});

/// Questions that belong together.
#[derive(Debug, PartialEq)]
pub(super) struct Suite {
    /// SHA-256 of its text, hexadecimal.
    pub(super) sha256: String,
    /// In order.
    pub(super) questions: Vec<Question>,
}

/// A question and what its answer must be like; what is left out does not matter.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Its name, once in a suite.
    pub(super) name: String,
    /// What it tries.
    pub(super) kind: String,
    /// The conversation: who and what, the last one by the user.
    pub(super) say: Vec<(String, String)>,
    /// Most tokens of the answer.
    #[serde(default = "most_tokens")]
    pub(super) most_tokens: u32,
    /// The answer is in this language.
    language: Option<String>,
    /// One of these is in it.
    #[serde(default)]
    any: Vec<String>,
    /// It has no more words than this.
    at_most_words: Option<usize>,
}

fn most_tokens() -> u32 {
    MOST_TOKENS
}

impl Suite {
    fn read(text: &str) -> Result<Self, toml::de::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Text {
            question: Vec<Question>,
        }
        let sha256 = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { sha256, questions: toml::from_str::<Text>(text)?.question })
    }
}

/// A suite by its name; else the names there are.
pub(super) fn find(name: &str) -> Result<&'static Suite, String> {
    SUITES.get(name).ok_or_else(|| SUITES.keys().copied().collect::<Vec<_>>().join(", "))
}

impl Question {
    /// What is wrong with an answer; empty when nothing is.
    pub(super) fn judge(&self, answer: &str) -> String {
        let (lower, words) = (answer.to_lowercase(), answer.split_whitespace().count());
        let mut wrong = Vec::new();
        if words == 0 {
            wrong.push("is empty".to_owned());
        }
        if !self.any.is_empty() && !self.any.iter().any(|text| lower.contains(&text.to_lowercase())) {
            wrong.push(format!("has no `{}`", self.any.join("` or `")));
        }
        if let Some(language) = &self.language {
            let is = tongue::detect(answer).map_or("unknown", Tongue::as_str);
            if is != language {
                wrong.push(format!("is in `{is}` instead of `{language}`"));
            }
        }
        if let Some(most) = self.at_most_words.filter(|most| words > *most) {
            wrong.push(format!("has {words} words instead of at most {most}"));
        }
        wrong.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suites_that_are_built_in_make_sense() {
        for (name, _) in TEXTS {
            let suite = find(name).unwrap();
            assert!(suite.questions.len() >= 10 && suite.sha256.len() == 64, "{name}");
            let mut seen = std::collections::BTreeSet::new();
            for question in &suite.questions {
                assert!(seen.insert(&question.name), "{} is there twice", question.name);
                assert!(question.say.last().is_some_and(|(role, _)| role == "user"), "{}", question.name);
                assert!(question.say.iter().all(|(role, _)| ["system", "user", "assistant"].contains(&role.as_str())));
                assert!(!question.judge("").is_empty(), "{}: nothing is never an answer", question.name);
                let asks = question.language.is_some() || !question.any.is_empty() || question.at_most_words.is_some();
                assert!(asks, "{} takes any answer", question.name);
            }
        }
        assert_eq!(find("nonsense").unwrap_err(), "chat");
    }

    #[test]
    fn answers_are_judged_by_what_the_question_says() {
        let text = r#"
            [[question]]
            name = "name"
            kind = "recall"
            say = [["user", "?"]]
            any = ["Maria"]
            [[question]]
            name = "brief"
            kind = "instruction"
            say = [["user", "?"]]
            at_most_words = 2
            [[question]]
            name = "english"
            kind = "language"
            say = [["user", "?"]]
            language = "en""#;
        let suite = Suite::read(text).unwrap();
        for (question, answer, cause) in [
            (0, "You are maria.", ""),
            (0, "You never said so.", "has no `Maria`"),
            (0, " ", "is empty; has no `Maria`"),
            (1, "two words", ""),
            (1, "these are four words", "has 4 words instead of at most 2"),
            (2, "This is what I think of it.", ""),
            (2, "Hindi ko po alam kung ano iyan.", "is in `tl` instead of `en`"),
            (2, "12345", "is in `unknown` instead of `en`"),
        ] {
            assert_eq!(suite.questions[question].judge(answer), cause, "{answer}");
        }
        assert!(Suite::read("[[question]]\nname = 'x'").is_err());
    }
}
