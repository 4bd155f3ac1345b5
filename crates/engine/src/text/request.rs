//! What is asked of a text model, and the check of its fields.

use std::fmt;
use std::str::FromStr;

use tandem_types::{Fault, Violation};

/// Who said a message of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatRole {
    /// Instructions to the model.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl ChatRole {
    /// The word chat templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl fmt::Display for ChatRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ChatRole {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::System, Self::User, Self::Assistant]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a role: write system, user or assistant"))
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who said it.
    pub role: ChatRole,
    /// What was said.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: ChatRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// What the model goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, put into the form the model was trained on. Text in it that looks like one of the model's
    /// control tokens is taken as text.
    Chat(Vec<ChatMessage>),
    /// A text as it is; control tokens in it count as such.
    Raw(String),
}

/// How the next token is chosen. The steps run in the order of the fields: penalty, top k, top p, min p, temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Above 1 makes tokens of the last 64 less likely; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Only this many likeliest tokens; 0 for all.
    pub top_k: u32,
    /// The smallest set of tokens whose probability reaches this; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the likeliest; 0 for all.
    pub min_p: f32,
    /// Flattens (above 1) or sharpens (below 1) the choice; 0 always takes the likeliest.
    pub temperature: f32,
    /// The same seed, prompt and parameters give the same answer while nothing else runs on the model; such a
    /// request takes nothing from kept prefixes, whose numbers differ in the last digits.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { repeat_penalty: 1.0, top_k: 40, top_p: 0.95, min_p: 0.05, temperature: 0.8, seed: None }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

/// A request for text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRequest {
    /// What to go on from.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens to write; none for as many as fit the context.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer and are not part of it; at most 16 of at most 256 bytes.
    pub stop: Vec<String>,
    /// Names the conversation whose state is kept, so that its next turn reads only what is new.
    pub session: Option<String>,
    /// Who goes first when all slots are busy: 1 before 10.
    pub priority: u8,
    /// The adapter laid over the model for this answer.
    pub adapter: Option<String>,
}

/// Whether a text can be the name of a model or an adapter: a file is named after it.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('.')
}

/// What [`is_name`] asks for, in words.
pub const NAME_RULE: &str = "must be 1 to 64 of letters, digits and - _ . and not begin with a point";

/// The priority of a text turn.
const PRIORITY_TEXT: u8 = 2;

impl TextRequest {
    /// A request with default sampling and the priority of a text turn.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            session: None,
            priority: PRIORITY_TEXT,
            adapter: None,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `invalid_argument` with all violations at once.
    pub fn check(&self) -> Result<(), Fault> {
        let mut violations = self.prompt.violations();
        let mut wrong = |ok: bool, field: &str, problem: &str| {
            if !ok {
                violations.push(Violation { field: field.to_owned(), problem: problem.to_owned() });
            }
        };
        let Sampling { repeat_penalty, top_p, min_p, temperature, .. } = self.sampling;
        wrong((0.1..=2.0).contains(&repeat_penalty), "sampling.repeat_penalty", "must be between 0.1 and 2");
        wrong(top_p > 0.0 && top_p <= 1.0, "sampling.top_p", "must be above 0 and at most 1");
        wrong((0.0..=1.0).contains(&min_p), "sampling.min_p", "must be between 0 and 1");
        wrong((0.0..=2.0).contains(&temperature), "sampling.temperature", "must be between 0 and 2");
        wrong(self.max_tokens != Some(0), "max_tokens", "must be at least 1; leave it out for as many as fit");
        wrong(self.stop.len() <= 16, "stop", "at most 16 texts");
        wrong(self.stop.iter().all(|s| (1..=256).contains(&s.len())), "stop", "each text has 1 to 256 bytes");
        wrong((1..=10).contains(&self.priority), "priority", "must be between 1 and 10");
        wrong(self.adapter.as_deref().is_none_or(is_name), "adapter", NAME_RULE);
        if violations.is_empty() { Ok(()) } else { Err(Fault::invalid(violations)) }
    }
}

impl Prompt {
    /// Every wrong field of the prompt.
    pub fn violations(&self) -> Vec<Violation> {
        let nul = |field: String| Violation { field, problem: "has a NUL character; remove it".to_owned() };
        match self {
            Self::Chat(messages) if messages.is_empty() => {
                vec![Violation { field: "messages".into(), problem: "is empty: say at least one thing".into() }]
            }
            Self::Chat(messages) => (0..)
                .zip(messages)
                .filter(|(_, message)| message.content.contains('\0'))
                .map(|(index, _): (usize, _)| nul(format!("messages[{index}].content")))
                .collect(),
            Self::Raw(text) if text.is_empty() => {
                vec![Violation { field: "prompt".into(), problem: "is empty: give a text to go on from".into() }]
            }
            Self::Raw(text) if text.contains('\0') => vec![nul("prompt".to_owned())],
            Self::Raw(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> TextRequest {
        TextRequest::new(Prompt::Chat(vec![ChatMessage::new(ChatRole::User, "hello")]))
    }

    #[test]
    fn a_plain_request_is_fine() {
        assert_eq!(hello().check(), Ok(()));
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let request = TextRequest {
            prompt: Prompt::Chat(Vec::new()),
            sampling: Sampling {
                repeat_penalty: 0.0,
                top_p: 0.0,
                min_p: -1.0,
                temperature: f32::NAN,
                ..Sampling::default()
            },
            max_tokens: Some(0),
            stop: vec![String::new()],
            priority: 0,
            adapter: Some("../a".to_owned()),
            ..hello()
        };
        let fields: Vec<_> = request.check().unwrap_err().violations.into_iter().map(|v| v.field).collect();
        assert_eq!(
            fields,
            [
                "messages",
                "sampling.repeat_penalty",
                "sampling.top_p",
                "sampling.min_p",
                "sampling.temperature",
                "max_tokens",
                "stop",
                "priority",
                "adapter"
            ]
        );
    }

    #[test]
    fn a_name_can_be_that_of_a_file() {
        for (text, ok) in [
            ("warm-2", true),
            ("a.b_C", true),
            ("", false),
            (".a", false),
            ("a/b", false),
            ("é", false),
            ("a b", false),
        ] {
            assert_eq!(is_name(text), ok, "{text}");
        }
        assert!(is_name(&"a".repeat(64)) && !is_name(&"a".repeat(65)));
    }

    #[test]
    fn roles_read_back() {
        for role in [ChatRole::System, ChatRole::User, ChatRole::Assistant] {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("tool".parse::<ChatRole>().is_err());
    }
}
