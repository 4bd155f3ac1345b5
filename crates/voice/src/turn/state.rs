//! What is known of a conversation, and when it wants to be told that time has passed.

use std::time::Duration;

use super::{GIVE_UP, SILENCE, UTTERANCE, WATCHDOG};
use crate::interrupt::{BACK_CHANNEL, DUCK_AFTER, LONG, STOP_PAUSE, Said};
use crate::{Moment, TurnNumber};

/// From here on signs of listening are a speech.
const BACK_CHANNEL_OVER: Duration = BACK_CHANNEL.saturating_add(Duration::from_millis(1));

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// The number of the current turn.
    pub(super) current: TurnNumber,
    /// The highest number that was given to anything.
    pub(super) last: TurnNumber,
    /// Until when the ear is open although nothing happens.
    pub(super) listening: Option<Moment>,
    /// The number that the open ear was told.
    pub(super) ear: Option<TurnNumber>,
    /// Somebody speaks, whether or not the ear is open.
    pub(super) sound: bool,
    /// What was heard and is not settled, in the order of their numbers. Only the last of them may still go on.
    pub(super) utterances: Vec<Utterance>,
    pub(super) answer: Option<Answer>,
    pub(super) ducked: bool,
    /// When a stop was decided last.
    pub(super) stopped: Option<Moment>,
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Utterance {
    pub(super) turn: TurnNumber,
    pub(super) since: Moment,
    /// When the speaker fell silent.
    pub(super) until: Option<Moment>,
    /// The silence that ends it.
    pub(super) silence: Duration,
    /// Its final words were asked for.
    pub(super) asked: bool,
    /// Its final words are there.
    pub(super) complete: bool,
    pub(super) said: Said,
    pub(super) fate: Fate,
    /// It began while there was an answer to interrupt.
    pub(super) over: bool,
}

/// What becomes of an utterance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// It is open.
    Open,
    /// It has interrupted, and is the current turn.
    Turn,
    /// It has done what it was for; what follows of it is not listened to.
    Spent,
}

/// The answer to the current turn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub(super) turn: TurnNumber,
    /// Pieces that were given to the loudspeaker, and those it has said.
    pub(super) given: u32,
    pub(super) played: u32,
    /// No more pieces will come.
    pub(super) ended: bool,
    pub(super) samples: u64,
    /// When the person last heard anything of it.
    pub(super) heard: Moment,
    /// When it last showed a sign of life.
    pub(super) sign: Moment,
    /// Until when it is held.
    pub(super) held: Option<Moment>,
}

/// A conversation in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing happens, and only the name is listened for.
    Idle,
    /// The ear is open.
    Listening,
    /// Somebody speaks, or what was said is being understood.
    UserSpeaking,
    /// An answer is to come.
    Thinking,
    /// An answer is spoken.
    Speaking,
    /// An answer is spoken, quieter, as somebody may be interrupting.
    Ducked,
    /// An answer is held.
    Held,
}

impl State {
    /// Before anybody has said anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of the current turn.
    pub fn turn(&self) -> TurnNumber {
        self.current
    }

    /// How it stands.
    pub fn phase(&self) -> Phase {
        match &self.answer {
            Some(answer) if answer.held.is_some() => Phase::Held,
            Some(_) if self.ducked => Phase::Ducked,
            Some(answer) if answer.is_audible() => Phase::Speaking,
            Some(_) => Phase::Thinking,
            None if self.utterances.iter().any(|utterance| utterance.fate != Fate::Spent) => Phase::UserSpeaking,
            None if self.ear.is_some() => Phase::Listening,
            None => Phase::Idle,
        }
    }

    /// When it wants a [`super::Event::Tick`] at the latest, if nothing happens before.
    pub fn due(&self, now: Moment) -> Option<Moment> {
        let quiet = self.utterances.is_empty() && self.answer.is_none();
        let listening = self.listening.filter(|_| quiet);
        let utterances = self.utterances.iter().flat_map(|utterance| utterance.dues(self));
        let answer = self.answer.iter().flat_map(|answer| match answer.held {
            Some(until) => [until, until],
            None => [answer.heard + WATCHDOG, answer.sign + GIVE_UP],
        });
        listening.into_iter().chain(utterances).chain(answer).filter(|at| *at > now).min()
    }

    /// The utterance that goes on.
    pub(super) fn live(&mut self) -> Option<&mut Utterance> {
        self.utterances.last_mut().filter(|utterance| !utterance.asked)
    }
}

impl Utterance {
    pub(super) fn new(turn: TurnNumber, since: Moment, over: bool) -> Self {
        let (until, silence, said, fate) = (None, SILENCE, Said::Nothing, Fate::Open);
        Self { turn, since, until, silence, asked: false, complete: false, said, fate, over }
    }

    /// How long it was spoken.
    pub(super) fn speech(&self, now: Moment) -> Duration {
        self.until.unwrap_or(now).saturating_sub(self.since)
    }

    /// Whether it may be somebody who interrupts, so that the answer is to be quieter. Not for ever, as it may be a machine.
    pub(super) fn ducks(&self, now: Moment) -> bool {
        let may_interrupt = self.fate == Fate::Open && self.said != Said::Echo;
        may_interrupt && self.speech(now) >= DUCK_AFTER && now < self.since + WATCHDOG
    }

    /// When it ends, if nothing is heard of it.
    pub(super) fn end(&self) -> Moment {
        match self.until {
            Some(until) if self.asked => until + WATCHDOG,
            Some(until) => (until + self.silence).min(self.since + UTTERANCE),
            None => self.since + UTTERANCE,
        }
    }

    /// When time alone may change what is to be done about it.
    fn dues(&self, state: &State) -> impl Iterator<Item = Moment> + use<> {
        let over_an_answer = self.fate == Fate::Open && state.answer.is_some();
        let after = |span| over_an_answer.then_some(self.since + span);
        let stop =
            state.stopped.filter(|_| over_an_answer && self.said == Said::Stop).map(|stopped| stopped + STOP_PAUSE);
        let end = (!self.complete).then(|| self.end());
        [after(DUCK_AFTER), after(LONG), after(BACK_CHANNEL_OVER), after(WATCHDOG), stop, end].into_iter().flatten()
    }
}

impl Answer {
    pub(super) fn new(turn: TurnNumber, now: Moment) -> Self {
        Self { turn, given: 0, played: 0, ended: false, samples: 0, heard: now, sign: now, held: None }
    }

    /// Whether the loudspeaker has something to say.
    pub(super) fn is_audible(&self) -> bool {
        self.given > self.played
    }

    /// Whether all of it was said.
    pub(super) fn is_over(&self) -> bool {
        self.ended && !self.is_audible()
    }
}
