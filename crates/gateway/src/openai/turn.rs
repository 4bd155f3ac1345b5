//! Follows one turn at the coordinator for a client that cannot do so itself: goes on after a broken line, and ends the
//! turn at once when the client is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use tandem_agent::backoff;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::pb::tandem::coordinator::v1::{CancelRequest, ResumeRequest, SubmitRequest, TurnEvent};
use tandem_contract::rpc::coordinator;
use tandem_contract::{Call, TraceParent};
use tandem_types::{Code, Fault, reason};
use tokio::sync::mpsc;

use crate::Door;

/// Events that may wait for a slow client; beyond that the turn waits.
const BUFFER: usize = 64;
/// How long a coordinator may take to begin with a turn.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// How long a coordinator may be away in the middle of a turn.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long ending a turn may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

type Events = Pin<Box<dyn Stream<Item = Result<TurnEvent, Fault>> + Send>>;

/// A turn on its way; dropping it ends the turn.
pub(crate) type Turn = mpsc::Receiver<Result<TurnEvent, Fault>>;

/// Begins a turn, as part of the caller's trace if it has one. The last item is a final event, an error event, or a fault.
pub(crate) fn begin(door: &Arc<Door>, request: SubmitRequest, trace: Option<TraceParent>) -> Turn {
    let (listener, turn) = mpsc::channel(BUFFER);
    let call = Call { trace, ..door.ctx.call() };
    let follower = Follower {
        call: call.within(door.settings.turn_limit, Instant::now()),
        door: door.clone(),
        user_id: request.user_id.clone(),
        turn_id: None,
        last: 0,
        listener,
    };
    door.ctx.spawn(follower.follow(request));
    turn
}

struct Follower {
    door: Arc<Door>,
    call: Call,
    user_id: String,
    /// Known from the first event on.
    turn_id: Option<String>,
    /// Number of the last event.
    last: u64,
    listener: mpsc::Sender<Result<TurnEvent, Fault>>,
}

/// How following a turn ended.
enum Ended {
    /// It is over at the coordinator too.
    Over,
    /// Nobody listens any more.
    Left,
    /// This is to be told, and the turn ended.
    Failed(Fault),
}

fn is_lost(fault: &Fault) -> bool {
    fault.code == Code::Unavailable
        && matches!(fault.reason.as_str(), reason::PEER_AWAY | reason::DRAINING | reason::BREAKER_OPEN)
}

impl Follower {
    async fn follow(mut self, request: SubmitRequest) {
        let submitted = self.door.ctx.peers().server_stream(coordinator::SUBMIT, request, &self.call);
        let ended = match tokio::time::timeout(BEGIN_LIMIT, submitted).await {
            Ok(Ok(stream)) => {
                self.hear(stream.map(|item| item.map(|r| r.event.into_option().unwrap_or_default())).boxed()).await
            }
            Ok(Err(fault)) => Ended::Failed(fault),
            Err(_) => {
                let message = format!("the coordinator did not begin within {} s", BEGIN_LIMIT.as_secs());
                Ended::Failed(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message))
            }
        };
        match ended {
            Ended::Over => {}
            Ended::Left => self.cancel().await,
            Ended::Failed(fault) => {
                // A client that is gone as well loses nothing by not hearing it.
                let _ = self.listener.send(Err(fault)).await;
                self.cancel().await;
            }
        }
    }

    /// Passes events on until the turn, the client or this door ends.
    async fn hear(&mut self, mut events: Events) -> Ended {
        loop {
            let next = tokio::select! {
                biased;
                // Before the first event there is no id to end the turn by.
                () = self.listener.closed(), if self.turn_id.is_some() => return Ended::Left,
                () = self.door.cut.cancelled() => return Ended::Failed(self.door.draining()),
                next = events.next() => next,
            };
            let lost = match next {
                Some(Ok(event)) => match self.pass_on(event).await {
                    Some(ended) => return ended,
                    None => continue,
                },
                Some(Err(fault)) if self.turn_id.is_some() && is_lost(&fault) => fault,
                Some(Err(fault)) => return Ended::Failed(fault),
                None => Fault::unavailable(reason::PEER_AWAY, "the coordinator's stream ended before its turn"),
            };
            match self.resume(lost).await {
                Ok(stream) => events = stream,
                Err(ended) => return ended,
            }
        }
    }

    async fn pass_on(&mut self, event: TurnEvent) -> Option<Ended> {
        self.last = event.number;
        if let Some(Event::Accepted(accepted)) = &event.event {
            self.turn_id = Some(accepted.turn_id.clone());
        }
        let is_last = matches!(event.event, Some(Event::Final(_) | Event::Error(_)));
        match self.listener.send(Ok(event)).await {
            _ if is_last => Some(Ended::Over),
            Ok(()) => None,
            Err(_) if self.turn_id.is_some() => Some(Ended::Left),
            Err(_) => None,
        }
    }

    /// Finds the turn again after a lost line.
    async fn resume(&self, mut lost: Fault) -> Result<Events, Ended> {
        let Some(turn_id) = &self.turn_id else { return Err(Ended::Failed(lost)) };
        let (give_up, mut attempt) = (Instant::now() + PATIENCE, 0);
        while Instant::now() < give_up {
            attempt += 1;
            tokio::select! {
                () = self.listener.closed() => return Err(Ended::Left),
                () = self.door.cut.cancelled() => return Err(Ended::Failed(self.door.draining())),
                () = tokio::time::sleep(backoff(attempt, rand::random())) => {}
            }
            let request = ResumeRequest {
                user_id: self.user_id.clone(),
                turn_id: turn_id.clone(),
                after_number: self.last,
                ..Default::default()
            };
            match self.door.ctx.peers().server_stream(coordinator::RESUME, request, &self.call).await {
                Ok(stream) => {
                    return Ok(stream.map(|item| item.map(|r| r.event.into_option().unwrap_or_default())).boxed());
                }
                Err(fault) if is_lost(&fault) => lost = fault,
                Err(fault) => return Err(Ended::Failed(fault)),
            }
        }
        Err(Ended::Failed(lost))
    }

    async fn cancel(self) {
        let Some(turn_id) = self.turn_id else { return };
        let ctx = &self.door.ctx;
        let request = CancelRequest { user_id: self.user_id, turn_id: turn_id.clone(), ..Default::default() };
        let call = ctx.call().within(CANCEL_LIMIT, Instant::now());
        if let Err(fault) = ctx.peers().unary(coordinator::CANCEL, request, &call).await {
            tracing::warn!(turn_id, %fault, "could not end a turn that nobody waits for");
        }
    }
}
