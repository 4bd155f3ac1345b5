//! The stream of an answer: pieces of text, then how it ended.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tandem_types::Fault;
use tokio::sync::mpsc;

use crate::engine_lost;

/// A step of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextEvent {
    /// Text to append, whole characters only, never empty.
    Text(String),
    /// The last event.
    Finished(Finished),
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// Tokens read and written.
    pub tokens: TokenCounts,
    /// Time waiting for a slot.
    pub waited: Duration,
    /// Time from getting the slot to the first token.
    pub prompt: Duration,
    /// Time from the first token to the last.
    pub writing: Duration,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// The token limit or the end of the context was reached.
    Length,
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenCounts {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Of these, how many were taken from a kept prefix.
    pub reused: u32,
    /// Tokens written, with the one that ended the turn.
    pub written: u32,
}

/// The receiving end of an answer. Dropping it cancels the answer.
///
/// It ends after [`TextEvent::Finished`] or the first error. When the engine goes away in mid-answer, that error is
/// `unavailable`, `engine_lost`.
#[derive(Debug)]
pub struct TextStream {
    events: mpsc::Receiver<Result<TextEvent, Fault>>,
    ended: bool,
}

impl TextStream {
    /// Both ends of an answer of at most `events` events.
    ///
    /// The channel holds a whole answer, so that a slow reader never keeps a slot busy.
    pub fn channel(events: usize) -> (TextSink, Self) {
        let (sender, receiver) = mpsc::channel(events.max(1));
        (TextSink(sender), Self { events: receiver, ended: false })
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The error the stream ended with.
    pub async fn collect(mut self) -> Result<(String, Finished), Fault> {
        let mut answer = String::new();
        while let Some(event) = self.next().await {
            match event? {
                TextEvent::Text(text) => answer.push_str(&text),
                TextEvent::Finished(finished) => return Ok((answer, finished)),
            }
        }
        Err(engine_lost())
    }
}

impl Stream for TextStream {
    type Item = Result<TextEvent, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.events.poll_recv(cx).map(|event| {
            let event = event.unwrap_or_else(|| Err(engine_lost()));
            self.ended = !matches!(event, Ok(TextEvent::Text(_)));
            Some(event)
        })
    }
}

/// The sending end of an answer, held by the engine.
#[derive(Debug)]
pub struct TextSink(mpsc::Sender<Result<TextEvent, Fault>>);

impl TextSink {
    /// The reader went away; the answer is of no use any more.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the reader goes away.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Sends a piece of text; an empty one is not an event.
    pub fn text(&self, text: String) {
        if !text.is_empty() {
            self.send(Ok(TextEvent::Text(text)));
        }
    }

    /// Ends the answer.
    pub fn finish(&self, finished: Finished) {
        self.send(Ok(TextEvent::Finished(finished)));
    }

    /// Ends the answer with an error.
    pub fn fail(&self, fault: Fault) {
        self.send(Err(fault));
    }

    fn send(&self, event: Result<TextEvent, Fault>) {
        // A channel holds a whole answer, so the one way to fail is that the reader left, and then nobody misses it.
        let _ = self.0.try_send(event);
    }
}

#[cfg(test)]
mod tests {
    use tandem_types::reason;

    use super::*;

    const DONE: Finished = Finished {
        reason: FinishReason::Stop,
        tokens: TokenCounts { prompt: 1, reused: 0, written: 2 },
        waited: Duration::ZERO,
        prompt: Duration::ZERO,
        writing: Duration::ZERO,
    };

    #[tokio::test]
    async fn an_answer_arrives_whole_and_ends_once() {
        let (sink, mut stream) = TextStream::channel(4);
        sink.text("Hel".into());
        sink.text(String::new());
        sink.text("lo".into());
        sink.finish(DONE);
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event.unwrap());
        }
        assert_eq!(events, [TextEvent::Text("Hel".into()), TextEvent::Text("lo".into()), TextEvent::Finished(DONE)]);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn an_engine_that_goes_away_ends_the_answer_with_an_error() {
        let (sink, stream) = TextStream::channel(4);
        sink.text("Hel".into());
        drop(sink);
        assert_eq!(stream.collect().await.unwrap_err().reason, reason::ENGINE_LOST);
    }

    #[tokio::test]
    async fn a_reader_that_leaves_is_noticed() {
        let (sink, stream) = TextStream::channel(4);
        assert!(!sink.is_closed());
        drop(stream);
        assert!(sink.is_closed());
        sink.closed().await;
    }
}
