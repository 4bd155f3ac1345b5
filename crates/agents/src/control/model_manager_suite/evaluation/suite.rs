//! Suites: questions, and what their answers must be like. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::language::tongue::{self, Tongue};

/// The suites there are.
const TEXTS: &[(&str, &str)] = &[("chat", include_str!("chat.toml")), ("chitchat", include_str!("chitchat.toml"))];

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
    /// What the model is told beside the questions.
    pub(super) prompts: Prompts,
    /// In order.
    pub(super) questions: Vec<Question>,
}

/// What a model is told beside a question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) enum Prompts {
    /// Nothing.
    #[default]
    None,
    /// What ChitchatAgent tells it.
    ChitchatAgent,
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
            #[serde(default)]
            prompts: Prompts,
            question: Vec<Question>,
        }
        let sha256 = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        let Text { prompts, question: questions } = toml::from_str(text)?;
        Ok(Self { sha256, prompts, questions })
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
            wrong.extend(no_answer(&self.say, answer).map(str::to_owned));
        }
        if let Some(most) = self.at_most_words.filter(|most| words > *most) {
            wrong.push(format!("has {words} words instead of at most {most}"));
        }
        wrong.join("; ")
    }
}

/// Why a text in the right language is still no answer. Weak models give back what was said, or say one thing over and
/// over; both are in the language that was wanted. Runs of three words tell.
fn no_answer(before: &[(String, String)], answer: &str) -> Option<&'static str> {
    let runs = |text: &str| -> Vec<String> {
        let text = text.to_lowercase();
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        words.windows(3).map(|run| run.join(" ")).collect()
    };
    let before: BTreeSet<String> = before.iter().flat_map(|(_, text)| runs(text)).collect();
    let answer = runs(answer);
    let different: BTreeSet<&String> = answer.iter().collect();
    // An answer in a whole sentence takes up much of the question: what is there beside it counts.
    if 4 * answer.iter().filter(|run| before.contains(*run)).count() > 3 * answer.len() {
        return Some("says again what was said");
    }
    (2 * different.len() < answer.len()).then_some("goes in circles")
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
        assert_eq!(find("nonsense").unwrap_err(), "chat, chitchat");
    }

    #[test]
    fn conversations_are_of_every_language_and_say_which_by_their_last_message() {
        let mut of = BTreeMap::<&str, u32>::new();
        for question in &find("chitchat").unwrap().questions {
            let (said, (_, last)) = (question.say.len() - 1, question.say.last().unwrap());
            match &question.language {
                Some(language) => {
                    *of.entry(language).or_default() += 1;
                    assert_eq!(tongue::detect(last).map(Tongue::as_str), Some(language.as_str()), "{last}");
                }
                None => {
                    *of.entry("recall").or_default() += 1;
                    let given = question.say.iter().position(|(_, text)| text.contains(&question.any[0])).unwrap();
                    assert!(said - given > 8, "{} is given too late", question.name);
                    assert_eq!(question.say.iter().filter(|(_, text)| text.contains(&question.any[0])).count(), 1);
                }
            }
        }
        assert_eq!(of, BTreeMap::from([("en", 60), ("tl", 25), ("taglish", 15), ("recall", 20)]));
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
            say = [["user", "Should I buy the red car?"]]
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
            (2, "Yes, the red car is a good one.", ""),
            (2, "You should buy the red car.", ""),
            (2, "So should I buy the red car?", "says again what was said"),
            (2, "It is good. It is good. It is good. It is good.", "goes in circles"),
        ] {
            assert_eq!(suite.questions[question].judge(answer), cause, "{answer}");
        }
        assert!(Suite::read("[[question]]\nname = 'x'").is_err());
    }
}
