//! One turn while it lives: what it has told so far, who listens, and what ends it from outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use futures::future::{BoxFuture, Shared};
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::{Call, HOP_COST, TraceParent};
use tandem_store::requests::{Accepted, Stage};
use tandem_types::{AgentId, Code, Fault, IdempotencyKey, RequestId, SessionId, Timestamp, TurnId, reason};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::ask::Asked;

/// Events of one turn kept at most; an answer in more pieces is ended.
pub(super) const MOST_EVENTS: usize = 50_000;

/// Work that several wait for; none when the agent ended before it did.
pub(super) type Common<T> = Shared<BoxFuture<'static, Option<T>>>;

/// What is known of a turn from its beginning.
pub(super) struct Known {
    /// The request.
    pub(super) request: RequestId,
    /// The turn, which is also the trace.
    pub(super) id: TurnId,
    /// The span that what is done for it belongs to.
    pub(super) span: [u8; 8],
    /// What makes sending it twice safe; none once it was restored.
    pub(super) key: Option<IdempotencyKey>,
    /// The request as it came, to tell a repetition from a reused key.
    pub(super) body: String,
    /// What is asked.
    pub(super) asked: Asked,
    /// Where what is said is kept; none where the caller keeps it.
    pub(super) session: Option<SessionId>,
    /// The caller named the session, so it may be somebody else's, or ended.
    pub(super) named_session: bool,
    /// When it was received, for rows and priorities.
    pub(super) at: Timestamp,
    /// The same for measuring.
    pub(super) received: Instant,
    /// When its time is up.
    pub(super) deadline: Instant,
    /// It was left behind by a former process.
    pub(super) restored: bool,
    /// Who works on it.
    pub(super) by: AgentId,
}

/// A turn.
pub(super) struct Turn {
    pub(super) known: Known,
    /// Its row on disk.
    pub(super) accepted: Common<Result<Accepted, Fault>>,
    log: Mutex<Log>,
    /// Number of the last event.
    told: watch::Sender<u64>,
    listeners: watch::Sender<usize>,
    /// Its turn to run has come.
    pub(super) may_run: Notify,
    stop: CancellationToken,
    stopped_by: Mutex<Option<Fault>>,
    /// How far it came, and when.
    progress: Mutex<Progress>,
}

/// Events of a turn, without a gap.
#[derive(Default)]
struct Log {
    events: Vec<pb::TurnEvent>,
    /// Number of the last event before `events`.
    before: u64,
    /// Only the last event is still to come, and then nothing.
    sealed: bool,
    ended: bool,
}

/// What a turn has come to; read when it ends, however it ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Stages entered, and when.
    pub(super) stages: Vec<(Stage, Timestamp)>,
    /// The path it walked.
    pub(super) timings: Vec<pb::StageTiming>,
    /// What was away, late or failed, and what is missing because of it.
    pub(super) missing: Vec<String>,
    /// What this build has no code for, and what is missing because of it.
    pub(super) not_built: Vec<String>,
    /// The answer so far.
    pub(super) text: String,
    /// Who answers.
    pub(super) handler: Option<AgentId>,
    /// When the first piece of the answer came.
    pub(super) first_delta: Option<Duration>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of these is whole after any single operation, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turn {
    /// A turn that has told nothing in this process; `before` events were told by a former one.
    pub(super) fn new(known: Known, accepted: Common<Result<Accepted, Fault>>, before: u64) -> Arc<Self> {
        Arc::new(Self {
            known,
            accepted,
            log: Mutex::new(Log { before, ..Log::default() }),
            told: watch::Sender::new(before),
            listeners: watch::Sender::new(0),
            may_run: Notify::new(),
            stop: CancellationToken::new(),
            stopped_by: Mutex::default(),
            progress: Mutex::default(),
        })
    }

    /// Milliseconds since it was received.
    pub(super) fn elapsed_ms(&self) -> u32 {
        ms(self.known.received.elapsed())
    }

    /// For calls made for this turn: its time, its trace.
    pub(super) fn call(&self) -> Call {
        let trace = TraceParent { trace: self.known.id, span: self.known.span, sampled: true };
        let deadline = self.known.deadline.checked_sub(HOP_COST).unwrap_or(self.known.deadline);
        Call { deadline: Some(deadline), ..Call::by(&self.known.by) }.traced(trace)
    }

    /// What it has come to.
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// Notes how long a part of the path took.
    pub(super) fn timing(&self, stage: &str, took: Duration, agent: Option<&AgentId>) {
        metrics::histogram!("tandem_turn_stage_seconds", "stage" => stage.to_owned()).record(took.as_secs_f64());
        self.progress().timings.push(pb::StageTiming {
            stage: stage.to_owned(),
            micros: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
            agent: agent.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        });
    }

    /// Notes what is missing and why.
    pub(super) fn missing(&self, agent: &str, what: &str) {
        let note = format!("{agent}: {what}");
        let missing = &mut self.progress().missing;
        if !missing.contains(&note) {
            missing.push(note);
        }
    }

    /// Tells an event to everybody who listens; after [`Turn::seal`] it is dropped. False when there were too many.
    pub(super) fn tell(&self, event: impl Into<Event>) -> bool {
        let number = {
            let mut log = lock(&self.log);
            if log.sealed {
                return true;
            }
            if log.events.len() >= MOST_EVENTS {
                return false;
            }
            log.push(event.into())
        };
        self.told.send_replace(number);
        true
    }

    /// From here on only the last event is told. Its number, and all events so far.
    pub(super) fn seal(&self) -> (u64, Vec<pb::TurnEvent>) {
        let mut log = lock(&self.log);
        log.sealed = true;
        (log.before + log.events.len() as u64 + 1, log.events.clone())
    }

    /// Tells the last event. Those who listen get it and then their streams end.
    pub(super) fn tell_last(&self, event: Event) {
        let number = {
            let mut log = lock(&self.log);
            if log.ended {
                return;
            }
            log.ended = true;
            log.push(event)
        };
        self.told.send_replace(number);
    }

    /// Counts somebody who waits for this turn until the guard is dropped.
    pub(super) fn listen(self: &Arc<Self>) -> Listener {
        self.listeners.send_modify(|count| *count += 1);
        Listener { turn: self.clone() }
    }

    /// Ends it from outside; the first reason counts.
    pub(super) fn stop(&self, why: Fault) {
        lock(&self.stopped_by).get_or_insert(why);
        self.stop.cancel();
    }

    /// Something outside has ended it already.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves with the reason once something outside ends the turn: a call to [`Turn::stop`], the end of its time, or
    /// nobody listening for longer than `grace`, where somebody is expected to.
    pub(super) async fn stopped(&self, grace: Option<Duration>) -> Fault {
        tokio::select! {
            () = self.stop.cancelled() => lock(&self.stopped_by).clone().unwrap_or_else(left),
            () = tokio::time::sleep_until(self.known.deadline.into()) => {
                Fault::new(Code::DeadlineExceeded, reason::TIME_UP, "the time for this turn was up")
            }
            () = self.abandoned(grace) => left(),
        }
    }

    async fn abandoned(&self, grace: Option<Duration>) {
        let Some(grace) = grace else { return std::future::pending().await };
        let mut listeners = self.listeners.subscribe();
        loop {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = listeners.wait_for(|count| *count == 0).await;
            let back = tokio::time::timeout(grace, listeners.wait_for(|count| *count > 0)).await;
            if back.is_err() {
                return;
            }
        }
    }
}

fn left() -> Fault {
    Fault::new(Code::Cancelled, reason::CALLER_LEFT, "the caller left and did not come back")
}

/// Whole milliseconds.
pub(super) fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl Log {
    fn push(&mut self, event: Event) -> u64 {
        let number = self.before + self.events.len() as u64 + 1;
        self.events.push(pb::TurnEvent { number, event: Some(event), ..Default::default() });
        number
    }
}

/// Somebody who waits for a turn.
pub(super) struct Listener {
    turn: Arc<Turn>,
}

impl Listener {
    /// What is listened to.
    pub(super) fn turn(&self) -> &Arc<Turn> {
        &self.turn
    }

    /// Events after number `after`, until the last. Numbers of a former process mean nothing for events of this one, so a
    /// restored turn is told whole.
    pub(super) fn follow(self, after: u64) -> impl Stream<Item = Result<pb::TurnEvent, Fault>> + Send {
        let from = self.turn.from(if self.turn.known.restored { 0 } else { after });
        let told = self.turn.told.subscribe();
        futures::stream::unfold((self, told, from), |(listener, mut told, after)| async move {
            loop {
                // Marked before looking, so that an event told in between is seen by the next wait.
                told.mark_unchanged();
                let (event, ended) = listener.turn.next_after(after);
                if let Some(event) = event {
                    let number = event.number;
                    return Some((Ok(event), (listener, told, number)));
                }
                if ended || told.changed().await.is_err() {
                    return None;
                }
            }
        })
    }
}

impl Turn {
    /// `after`, but never past the last event of a turn that has ended: its end is worth telling twice.
    fn from(&self, after: u64) -> u64 {
        let log = lock(&self.log);
        let last = log.before + log.events.len() as u64;
        after.min(last - u64::from(log.ended))
    }

    fn next_after(&self, after: u64) -> (Option<pb::TurnEvent>, bool) {
        let log = lock(&self.log);
        let index = usize::try_from(after.saturating_sub(log.before)).unwrap_or(usize::MAX);
        (log.events.get(index).cloned(), log.ended)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.turn.listeners.send_modify(|count| *count -= 1);
    }
}
