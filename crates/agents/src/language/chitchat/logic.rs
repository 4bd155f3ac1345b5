//! What the model is told: language, prompt, conversation, and what gives way when it does not fit.

use tandem_contract::pb::tandem::dialogue::v1::{ContextItem, HandleRequest, Message as Said};
use tandem_contract::pb::tandem::model::v1::Message;

use crate::language::tongue::{Tongue, detect};

/// Entries of the conversation that go into the prompt.
pub(super) const HISTORY: usize = 10;
/// What a message costs beside its text, in tokens, at most.
const MESSAGE_TOKENS: usize = 8;

/// The language of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// One of the three.
    Known(Tongue),
    /// Another one, by its tag.
    Other(String),
}

impl Reply {
    /// Its tag.
    pub(super) fn tag(&self) -> &str {
        match self {
            Self::Known(tongue) => tongue.as_str(),
            Self::Other(tag) => tag,
        }
    }
}

/// The wanted language; else that of what was said, or of what the person said before it; else English.
pub(super) fn reply_language(wanted: &str, text: &str, history: &[Said]) -> Reply {
    if !wanted.is_empty() {
        return Tongue::of_tag(wanted).map_or_else(|| Reply::Other(wanted.to_owned()), Reply::Known);
    }
    let before = history.iter().rev().filter(|message| message.role == "user").map(|message| message.content.as_str());
    Reply::Known(std::iter::once(text).chain(before).find_map(detect).unwrap_or(Tongue::En))
}

/// The language of what was written, which need not be the one that was asked for. Another than the three cannot be told by
/// its words, and neither can a text without any that give it away.
pub(super) fn written_language(asked: &str, text: &str) -> String {
    Tongue::of_tag(asked)
        .and_then(|_| detect(text))
        .map_or_else(|| asked.to_owned(), |tongue| tongue.as_str().to_owned())
}

/// A prompt file: the rules, what stands above known facts, and exchanges that show how to answer, where telling it does
/// not do.
struct File {
    rules: String,
    known: &'static str,
    examples: Vec<Message>,
}

fn file(language: &Reply) -> File {
    let text = match language {
        Reply::Known(Tongue::En) => include_str!("prompt.en.md"),
        Reply::Known(Tongue::Tl) => include_str!("prompt.tl.md"),
        Reply::Known(Tongue::Taglish) => include_str!("prompt.taglish.md"),
        Reply::Other(_) => include_str!("prompt.other.md"),
    };
    let mut parts = text.split("---\n");
    let rules = parts.next().unwrap_or_default().trim().replace('\n', " ").replace("{language}", language.tag());
    let known = parts.next().unwrap_or_default().trim();
    let examples = parts.next().unwrap_or_default().lines().filter_map(|line| line.split_once(": "));
    File { rules, known, examples: examples.map(|(role, text)| message(role, text)).collect() }
}

fn system(rules: String, known: &str, context: &[ContextItem]) -> String {
    let mut text = rules;
    if !context.is_empty() {
        text += "\n\n";
        text += known;
        for item in context {
            text += &format!("\n- [{}] {}", item.id, item.text.trim());
        }
    }
    text
}

fn message(role: &str, content: impl Into<String>) -> Message {
    Message { role: role.to_owned(), content: content.into(), ..Default::default() }
}

/// A prompt that can be shortened.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompt {
    /// For the model.
    pub(super) messages: Vec<Message>,
    /// Which of them may go, oldest first; the others stay.
    removable: std::ops::Range<usize>,
    /// Messages that went.
    pub(super) dropped: u32,
}

impl Prompt {
    /// A conversation the caller keeps itself: nothing is added and nothing may go.
    pub(super) fn as_given(messages: Vec<Said>) -> Self {
        let messages = messages.into_iter().map(|m| message(&m.role, m.content)).collect();
        Self { messages, removable: 0..0, dropped: 0 }
    }

    /// Persona, known facts, examples, the last of the conversation, and what was said now.
    ///
    /// Chat forms of many models accept only a person's message first and speakers in turn, so the conversation begins
    /// with one and neighbours of one speaker become one message.
    pub(super) fn build(language: &Reply, request: &HandleRequest, history: &[Said]) -> Self {
        let File { rules, known, examples } = file(language);
        let mut messages = vec![message("system", system(rules, known, &request.context))];
        messages.extend(examples);
        let fixed = messages.len();
        let recent = &history[history.len().saturating_sub(HISTORY)..];
        let now = Said { role: "user".to_owned(), content: request.text.clone(), ..Default::default() };
        let before = recent.iter().filter(|said| !said.content.is_empty()).skip_while(|said| said.role != "user");
        for said in before.chain([&now]) {
            match messages.last_mut().filter(|last| last.role == said.role) {
                Some(last) => last.content = format!("{}\n{}", last.content, said.content),
                None => messages.push(message(&said.role, said.content.as_str())),
            }
        }
        let removable = fixed..messages.len() - 1;
        Self { messages, removable, dropped: 0 }
    }

    /// More tokens than this prompt can have: no tokenizer makes more than a token of two characters of running text.
    pub(super) fn most_tokens(&self) -> usize {
        self.messages.iter().map(|m| m.content.chars().count() / 2 + MESSAGE_TOKENS).sum()
    }

    /// Lets go of the oldest exchange of the conversation; false when there is none left.
    pub(super) fn drop_oldest(&mut self) -> bool {
        if self.removable.is_empty() {
            return false;
        }
        let mut gone = 0;
        // What follows must begin with the person again.
        while gone == 0 || (gone < self.removable.len() && self.messages[self.removable.start + gone].role != "user") {
            gone += 1;
        }
        self.messages.drain(self.removable.start..self.removable.start + gone);
        self.removable.end -= gone;
        self.dropped += u32::try_from(gone).unwrap_or(u32::MAX);
        true
    }
}

/// Tokens a prompt may have so that the answer still fits; a quarter of the context at least.
pub(super) fn room(context_tokens: u32, max_tokens: u32) -> u32 {
    context_tokens.saturating_sub(max_tokens).max(context_tokens / 4)
}
