//! From the events of a turn to what a chat client hears. Pure: events in, pieces out.

use tandem_contract::fault_from_info;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::pb::tandem::coordinator::v1::{Final, TurnEvent};
use tandem_types::{Code, Fault, reason};

/// What one event comes to.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// Nothing to pass on.
    Nothing,
    /// The turn is known by this id from here on.
    Accepted(String),
    /// How far the turn is, in words.
    Waiting(String),
    /// Text to append.
    Text(String),
    /// The answer is complete. Text that no piece has brought yet comes with it.
    Ended(String, Box<Final>),
    /// The turn failed, or goes on in a way a chat client cannot follow.
    Failed(Fault),
}

/// Follows one turn.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// Pieces passed on so far; a client that waits for the whole answer gets none.
    said: String,
    /// The client hears pieces as they come.
    streams: bool,
}

impl Telling {
    /// `streams`: the client hears pieces as they come.
    pub(crate) fn new(streams: bool) -> Self {
        Self { streams, ..Self::default() }
    }

    /// What this event comes to.
    pub(crate) fn hear(&mut self, event: TurnEvent) -> Heard {
        match event.event {
            Some(Event::Accepted(accepted)) => Heard::Accepted(accepted.turn_id),
            Some(Event::Status(status)) if status.stage == "restarted" && !self.said.is_empty() => {
                let message = "the answer began anew after a restart; what came before counts no more, so ask again";
                Heard::Failed(Fault::unavailable(reason::RESTARTED, message))
            }
            Some(Event::Status(status)) if status.position > 0 => {
                Heard::Waiting(format!("{}, {} before it", status.stage, status.position))
            }
            Some(Event::Status(status)) => Heard::Waiting(status.stage),
            Some(Event::Delta(delta)) if self.streams && !delta.text.is_empty() => {
                self.said.push_str(&delta.text);
                Heard::Text(delta.text)
            }
            Some(Event::Final(end)) => {
                // Answers without a model come whole; so does what was cut from the end of a stream.
                let rest = if self.streams {
                    end.text.strip_prefix(&self.said).unwrap_or_default().to_owned()
                } else {
                    String::new()
                };
                Heard::Ended(rest, end)
            }
            Some(Event::Error(info)) => Heard::Failed(fault_from_info(&info)),
            Some(Event::Confirm(_)) => {
                let message = "the answer waits for a person's confirmation; ask on the page or with `tandem ask`";
                Heard::Failed(Fault::new(Code::FailedPrecondition, reason::CONFIRMATION_NEEDED, message))
            }
            // Segments are the deltas once more, cut for the ear.
            Some(Event::Delta(_) | Event::Routed(_) | Event::Segment(_) | Event::ToolCall(_)) | None => Heard::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_contract::pb::tandem::coordinator::v1::{Accepted, ConfirmationNeeded, Delta, Segment, Status};

    fn event(event: impl Into<Event>) -> TurnEvent {
        TurnEvent { event: Some(event.into()), ..Default::default() }
    }
    fn delta(text: &str) -> TurnEvent {
        event(Delta { text: text.into(), ..Default::default() })
    }
    fn status(stage: &str, position: u32) -> TurnEvent {
        event(Status { stage: stage.into(), position, ..Default::default() })
    }
    fn end(text: &str) -> TurnEvent {
        event(Final { text: text.into(), finish_reason: "stop".into(), ..Default::default() })
    }
    fn rest(heard: Heard) -> String {
        match heard {
            Heard::Ended(rest, _) => rest,
            other => panic!("not an end: {other:?}"),
        }
    }

    #[test]
    fn a_stream_brings_every_character_once() {
        for (pieces, whole, expected) in [
            (&["Hel", "", "lo"][..], "Hello", ""),
            (&["Hel"], "Hello", "lo"),
            (&[], "Hello", "Hello"),
            // What was said stays said.
            (&["Hello "], "Hello", ""),
        ] {
            let mut telling = Telling::new(true);
            for piece in pieces {
                let heard = telling.hear(delta(piece));
                assert_eq!(heard, if piece.is_empty() { Heard::Nothing } else { Heard::Text((*piece).into()) });
            }
            assert_eq!(rest(telling.hear(end(whole))), expected, "{pieces:?} then {whole:?}");
        }
    }

    #[test]
    fn who_waits_for_the_whole_answer_hears_no_pieces_and_survives_a_restart() {
        let mut telling = Telling::new(false);
        assert_eq!(telling.hear(delta("Hel")), Heard::Nothing);
        assert_eq!(telling.hear(status("restarted", 0)), Heard::Waiting("restarted".into()));
        assert_eq!(rest(telling.hear(end("Hello"))), "");
    }

    #[test]
    fn a_restart_after_the_first_piece_ends_a_stream() {
        let mut telling = Telling::new(true);
        assert_eq!(telling.hear(status("restarted", 0)), Heard::Waiting("restarted".into()));
        telling.hear(delta("Hel"));
        assert!(matches!(telling.hear(status("restarted", 0)), Heard::Failed(f) if f.reason == reason::RESTARTED));
    }

    #[test]
    fn other_events() {
        let mut telling = Telling::new(true);
        let accepted = Accepted { turn_id: "7f".into(), ..Default::default() };
        assert_eq!(telling.hear(event(accepted)), Heard::Accepted("7f".into()));
        assert_eq!(telling.hear(status("queued", 3)), Heard::Waiting("queued, 3 before it".into()));
        assert_eq!(telling.hear(event(Segment::default())), Heard::Nothing);
        assert_eq!(telling.hear(TurnEvent::default()), Heard::Nothing);
        let failed = telling.hear(event(tandem_contract::error_info(&Fault::no_model("llm.fast"))));
        assert!(matches!(failed, Heard::Failed(f) if f == Fault::no_model("llm.fast")));
        let asked = telling.hear(event(ConfirmationNeeded::default()));
        assert!(matches!(asked, Heard::Failed(f) if f.reason == reason::CONFIRMATION_NEEDED));
    }
}
