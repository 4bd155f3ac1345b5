//! The stream of an answer: pieces of text, then how it ended.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tandem_types::Fault;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

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

    /// Joins pieces so that at least `pause` lies between two of them. The first comes at once, and so does the end.
    ///
    /// Every piece costs each process on its way a wake-up, and nobody reads faster than a screen changes.
    pub fn joined(self, pause: Duration) -> impl Stream<Item = Result<TextEvent, Fault>> {
        let state = Joining { stream: self, next: None, ready: Instant::now() };
        futures::stream::unfold(state, move |mut state| async move {
            let event = match state.next.take() {
                Some(event) => event,
                None => state.stream.next().await?,
            };
            let event = match event {
                Ok(TextEvent::Text(text)) => Ok(TextEvent::Text(state.join(text).await)),
                last => last,
            };
            state.ready = Instant::now() + pause;
            Some((event, state))
        })
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

struct Joining {
    stream: TextStream,
    /// What came after the piece that was handed out.
    next: Option<Result<TextEvent, Fault>>,
    /// When the next piece may be handed out.
    ready: Instant,
}

impl Joining {
    /// The piece with all that comes before it may be handed out.
    async fn join(&mut self, mut text: String) -> String {
        while let Ok(event) = timeout_at(self.ready, self.stream.next()).await {
            match event {
                Some(Ok(TextEvent::Text(more))) => text.push_str(&more),
                last => {
                    self.next = last;
                    break;
                }
            }
        }
        text
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

    #[tokio::test(start_paused = true)]
    async fn pieces_are_joined_to_the_pace_of_a_reader() {
        let ms = Duration::from_millis;
        for (pieces, read) in [
            // At 10 ms each; the first comes at once, the end with what is left.
            (&[10, 20, 30, 38, 45][..], &[(10, "a"), (40, "bcd"), (45, "e")][..]),
            (&[10, 50, 90], &[(10, "a"), (50, "b"), (90, "c")]),
            (&[10, 20, 200], &[(10, "a"), (40, "b"), (200, "c")]),
            (&[], &[]),
        ] {
            let (sink, stream) = TextStream::channel(8);
            let start = Instant::now();
            let pieces = pieces.to_vec();
            let end = pieces.last().copied().unwrap_or(0);
            tokio::spawn(async move {
                for (at, letter) in pieces.into_iter().zip(["a", "b", "c", "d", "e"]) {
                    tokio::time::sleep_until(start + ms(at)).await;
                    sink.text(letter.into());
                }
                sink.finish(DONE);
            });
            let events: Vec<_> = stream.joined(ms(30)).map(|event| (start.elapsed(), event.unwrap())).collect().await;
            let mut expected: Vec<_> =
                read.iter().map(|(at, text)| (ms(*at), TextEvent::Text((*text).into()))).collect();
            expected.push((ms(end), TextEvent::Finished(DONE)));
            assert_eq!(events, expected);
        }
        let (sink, stream) = TextStream::channel(8);
        sink.text("a".into());
        drop(sink);
        let events: Vec<_> = stream.joined(ms(30)).collect().await;
        assert_eq!((events[0].clone().unwrap(), events.len()), (TextEvent::Text("a".into()), 2));
        assert_eq!(events[1].clone().unwrap_err().reason, reason::ENGINE_LOST);
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
