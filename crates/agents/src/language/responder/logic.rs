//! From deltas to segments.

use tandem_contract::pb::tandem::common::v1::ErrorInfo;
use tandem_contract::pb::tandem::dialogue::v1::{ComposeFor, ComposeResponse};

use super::cut::{Cutter, Piece};
use super::failure::sentence;
use super::speech::Speaker;
use crate::language::tongue::{Tongue, detect};

/// The agent that would put an answer into the wanted language.
const TRANSLATOR: &str = "FixedStreamingTranslation";

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
    /// Some of the text is not in the wanted language.
    foreign: bool,
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
            foreign: false,
            said_something: false,
        }
    }

    /// More of the answer; the segments that are complete now.
    pub(super) fn delta(&mut self, text: &str) -> Vec<ComposeResponse> {
        let pieces = self.cutter.push(text);
        pieces.into_iter().map(|piece| self.segment(piece)).collect()
    }

    /// The answer is complete; its last segment, and a note when it is not in the wanted language.
    pub(super) fn end(&mut self) -> Vec<ComposeResponse> {
        let mut segments: Vec<_> = self.rest().into_iter().collect();
        if self.foreign {
            segments.push(ComposeResponse {
                display: format!("\n\n_{}_", untranslated(self.tongue())),
                language: self.tongue().as_str().to_owned(),
                skipped: vec![TRANSLATOR.to_owned()],
                ..Default::default()
            });
        }
        segments
    }

    fn rest(&mut self) -> Option<ComposeResponse> {
        let rest = std::mem::replace(&mut self.cutter, Cutter::new()).finish();
        rest.map(|piece| self.segment(piece))
    }

    /// The handler failed: what it had said, then one sentence with the code on screen.
    pub(super) fn error(&mut self, error: &ErrorInfo) -> Vec<ComposeResponse> {
        let mut segments: Vec<ComposeResponse> = self.rest().into_iter().collect();
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
        let wanted = Tongue::of_tag(&self.wanted);
        // Languages other than the three cannot be told by their words.
        let other = !self.wanted.is_empty() && wanted.is_none();
        if !other {
            self.found = detect(&piece.display).or(self.found);
        }
        let foreign = wanted.zip(self.found).filter(|(wanted, found)| is_foreign(*wanted, *found));
        self.foreign |= foreign.is_some();
        self.said_something = true;
        let language = match foreign {
            Some((_, found)) => found.as_str().to_owned(),
            None if other => self.wanted.clone(),
            None => self.tongue().as_str().to_owned(),
        };
        ComposeResponse {
            speech_text: self.speaker.say(&piece, self.tongue()),
            pause_ms: pause(&piece.display),
            display: piece.display,
            language,
            skipped: foreign.map(|_| TRANSLATOR.to_owned()).into_iter().collect(),
            ..Default::default()
        }
    }
}

/// Whether somebody who wants one language gets none of it in a text of the other. Taglish is some of both.
fn is_foreign(wanted: Tongue, found: Tongue) -> bool {
    matches!((wanted, found), (Tongue::En, Tongue::Tl) | (Tongue::Tl, Tongue::En))
}

/// The note under an answer that nobody could translate.
fn untranslated(wanted: Tongue) -> &'static str {
    match wanted {
        Tongue::En => "This is in the language it was written in: nothing here translates yet.",
        Tongue::Tl => "Nasa wikang pinagsulatan nito ang sagot: wala pang nagsasalin dito.",
        Tongue::Taglish => "Nasa original na language ang sagot: wala pang nagta-translate dito.",
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
