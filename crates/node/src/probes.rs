//! Watches the process of one group: sends its probes, hears its heartbeats, looks at it, as the watch wants it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use serde::Deserialize;
use tandem_process::{NotifySocket, Stat, all_arrived};
use tandem_types::{Fault, State};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::group::{News, Run};
use crate::http::{connect, get, send, whole};
use crate::logic::Moment;
use crate::logic::watch::{Act, Fact, Hang, Watch};

/// What a group says of its health.
#[derive(Debug, Deserialize)]
pub(crate) struct Health {
    pub(crate) state: State,
    pub(crate) cause: String,
}

impl Health {
    /// Asks for it.
    ///
    /// # Errors
    /// When there is no answer, or none that can be read.
    pub(crate) async fn ask(address: SocketAddr, within: Duration) -> Result<Self, Fault> {
        let answer = get(address, "/health", within).await?;
        Self::read(&answer.body, address)
    }

    async fn ask_on(stream: TcpStream, address: SocketAddr) -> Result<Self, Fault> {
        let answer = whole(send(stream, &address.to_string(), Method::GET, "/health").await?).await?;
        Self::read(&answer.body, address)
    }

    fn read(body: &[u8], address: SocketAddr) -> Result<Self, Fault> {
        serde_json::from_slice(body)
            .map_err(|e| Fault::internal(format!("what {address} says of its health cannot be read: {e}")))
    }
}

/// A process that hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hung {
    /// Since when it was suspect.
    pub since: Instant,
    /// What it lacks, as the rest of a sentence about it.
    pub how: String,
}

/// What a probe brought.
enum Probed {
    Health(Duration, Health),
    Refused(Moment, Fault),
    /// Nothing, in all the time it had.
    Nothing,
}

/// Time until it is first looked whether a probe without an answer has arrived, and the longest between two looks.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LOOKS: Duration = Duration::from_millis(250);
/// Word of probes that have arrived and that the watch has not read: more than are ever under way.
const ARRIVALS: usize = 16;

/// Sends a probe; says meanwhile when it has `arrived`.
async fn probe(address: SocketAddr, sent: Moment, limit: Duration, arrived: mpsc::Sender<Moment>) -> Probed {
    let began = Instant::now();
    let asked = async {
        let stream = connect(address).await?;
        let ends = stream.local_addr().and_then(|from| Ok((from, stream.peer_addr()?)));
        let look = async {
            let mut pause = FIRST_LOOK;
            loop {
                tokio::time::sleep(pause).await;
                // Where the kernel does not tell, a connection has to do.
                if ends.as_ref().map_or(true, |(from, to)| all_arrived(*from, *to).unwrap_or(true)) {
                    // Nobody listens any more: the watch has ended.
                    let _ = arrived.send(sent).await;
                    return std::future::pending().await;
                }
                pause = (2 * pause).min(LOOKS);
            }
        };
        tokio::select! {
            health = Health::ask_on(stream, address) => health,
            never = look => never,
        }
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(health)) => Probed::Health(began.elapsed(), health),
        Ok(Err(fault)) => Probed::Refused(sent, fault),
        Err(_) => Probed::Nothing,
    }
}

/// What a group says by itself.
#[derive(Debug)]
pub enum Signs {
    /// Heartbeats to this socket, which say when its health changes.
    Heartbeats(Arc<NotifySocket>),
    /// Only that something about its health may have changed.
    Changes(watch::Receiver<u64>),
}

/// A sign of a group, with the mark of its health that it had.
enum Sign {
    Beat(Option<String>),
    Changed,
}

impl Signs {
    /// The next one. Loses none when it is dropped.
    async fn next(&mut self) -> Sign {
        match self {
            Self::Heartbeats(socket) => loop {
                let message = socket.receive().await;
                if message.is_heartbeat() {
                    return Sign::Beat(message.health_mark().map(str::to_owned));
                }
            },
            Self::Changes(changes) => match changes.changed().await {
                Ok(()) => Sign::Changed,
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Run {
    /// Watches over a group that is ready until it hangs. `pid` is the process that is looked at before it is blamed.
    pub async fn watch(&self, pid: Option<u32>, mut signs: Signs) -> Hung {
        let began = Instant::now();
        let mut watch = Watch::new(Moment::ZERO);
        let mut acts: VecDeque<Act> = watch.step(Moment::ZERO, Fact::Tick).into();
        let mut probes = JoinSet::new();
        let (arrived, mut arrivals) = mpsc::channel(ARRIVALS);
        let mut told = None;
        let mut marked = None;
        loop {
            while let Some(act) = acts.pop_front() {
                match act {
                    Act::Probe { sent, limit } => {
                        probes.spawn(probe(self.spec.contract, sent, limit, arrived.clone()));
                    }
                    Act::Look => {
                        let stopped = pid.and_then(Stat::of).is_some_and(Stat::is_stopped);
                        acts.extend(watch.step(began.elapsed(), Fact::Looked { stopped }));
                    }
                    Act::Hung(Hang { since, lack }) => {
                        return Hung { since: began + since, how: lack.words().to_owned() };
                    }
                }
            }
            if told != Some(watch.verdict()) {
                told = Some(watch.verdict());
                self.tell(News::Verdict(watch.verdict())).await;
            }
            let fact = tokio::select! {
                // What came while the node did not run counts before the time that passed.
                biased;
                sign = signs.next() => match sign {
                    Sign::Beat(mark) if mark.is_some() && mark != marked => {
                        marked = mark;
                        acts.extend(watch.step(began.elapsed(), Fact::Beat));
                        Fact::Changed
                    }
                    Sign::Beat(_) => Fact::Beat,
                    Sign::Changed => Fact::Changed,
                },
                Some(sent) = arrivals.recv() => Fact::Arrived(sent),
                Some(probed) = probes.join_next() => match probed {
                    Ok(Probed::Health(took, health)) => {
                        self.tell(News::Health(health)).await;
                        Fact::Answered(took)
                    }
                    Ok(Probed::Refused(sent, fault)) => {
                        tracing::warn!(group = %self.spec.id, %fault, "a health probe was refused");
                        Fact::Refused(sent)
                    }
                    Ok(Probed::Nothing) => {
                        tracing::warn!(group = %self.spec.id, "a health probe got no answer");
                        continue;
                    }
                    // Only the end of the runtime ends a probe by itself.
                    Err(_) => continue,
                },
                () = tokio::time::sleep_until((began + watch.wake()).into()) => Fact::Tick,
            };
            acts.extend(watch.step(began.elapsed(), fact));
        }
    }
}
