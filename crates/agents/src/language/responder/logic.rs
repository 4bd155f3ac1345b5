//! From deltas to segments.

use tandem_contract::pb::tandem::common::v1::ErrorInfo;
use tandem_contract::pb::tandem::dialogue::v1::{ComposeFor, ComposeResponse};

use super::cut::{Cutter, Piece};
use super::failure::sentence;
use super::speech::Speaker;
use crate::language::tongue::{Tongue, detect};

/// Silence after a paragraph, a sentence and a clause, in milliseconds.
const PAUSES: [u32; 3] = [300, 150, 60];

/// Composes one answer.
#[derive(Debug)]
pub(super) struct Composer {
    cutter: Cutter,
    speaker: Speaker,
    /// The wanted language; empty for that of the text.
    wanted: String,
    /// The language of the text so far, once known.
    found: Option<Tongue>,
    said_something: bool,
}

impl Composer {
    /// For this audience.
    pub(super) fn new(audience: ComposeFor) -> Self {
        Self {
            cutter: Cutter::new(),
            speaker: Speaker::new(),
            wanted: audience.language,
            found: None,
            said_something: false,
        }
    }

    /// More of the answer; the segments that are complete now.
    pub(super) fn delta(&mut self, text: &str) -> Vec<ComposeResponse> {
        let pieces = self.cutter.push(text);
        pieces.into_iter().map(|piece| self.segment(piece)).collect()
    }

    /// The answer is complete; its last segment.
    pub(super) fn end(&mut self) -> Option<ComposeResponse> {
        let rest = std::mem::replace(&mut self.cutter, Cutter::new()).finish();
        rest.map(|piece| self.segment(piece))
    }

    /// The handler failed: what it had said, then one sentence with the code on screen.
    pub(super) fn error(&mut self, error: &ErrorInfo) -> Vec<ComposeResponse> {
        let mut segments: Vec<ComposeResponse> = self.end().into_iter().collect();
        let said = sentence(error, self.tongue());
        let gap = if self.said_something { "\n\n" } else { "" };
        segments.push(ComposeResponse {
            speech_text: said.to_owned(),
            display: format!("{gap}{said} (`{}`)", error.code),
            language: self.tongue().as_str().to_owned(),
            ..Default::default()
        });
        segments
    }

    /// The language phrases are put in.
    fn tongue(&self) -> Tongue {
        Tongue::of_tag(&self.wanted).or(self.found).unwrap_or(Tongue::En)
    }

    fn segment(&mut self, piece: Piece) -> ComposeResponse {
        if self.wanted.is_empty() {
            self.found = detect(&piece.display).or(self.found);
        }
        self.said_something = true;
        let other = !self.wanted.is_empty() && Tongue::of_tag(&self.wanted).is_none();
        let language = if other { self.wanted.clone() } else { self.tongue().as_str().to_owned() };
        ComposeResponse {
            speech_text: self.speaker.say(&piece, self.tongue()),
            pause_ms: pause(&piece.display),
            display: piece.display,
            language,
            ..Default::default()
        }
    }
}

fn pause(display: &str) -> u32 {
    let [paragraph, stop, clause] = PAUSES;
    if display.ends_with("\n\n") {
        return paragraph;
    }
    match display.trim_end().chars().next_back() {
        Some(',' | ';' | ':' | '—' | '–') if !display.ends_with('\n') => clause,
        Some(_) => stop,
        None => 0,
    }
}
