//! How long a stream may be silent.
//!
//! A call with a deadline is held to that. A stream without one has an idle limit instead, as a unary call has the
//! default deadline of its RPC: both ends keep it, the provider so that its work ends, the caller because a provider
//! that hangs keeps nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tandem_types::{Code, Fault, reason};
use tokio::time::{Instant, sleep_until};

use crate::call::Call;
use crate::rpc::{DEFAULT_IDLE, idle_limit};
use crate::service::Reply;

/// What a caller waits beyond the limit, so that the provider's own word, which says where it happened, comes first.
const PATIENCE: Duration = Duration::from_secs(1);

/// Measures the silence of one stream; for streams both ways, of both directions together. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Idle {
    path: &'static str,
    opening: Option<Duration>,
    limit: Option<Duration>,
    last: Arc<Mutex<Instant>>,
}

impl Idle {
    /// As the provider of `path` keeps it.
    pub(crate) fn of_provider(path: &'static str, call: &Call) -> Self {
        Self::new(path, call, Duration::ZERO)
    }

    /// As a caller of `path` keeps it.
    pub(crate) fn of_caller(path: &'static str, call: &Call) -> Self {
        Self::new(path, call, PATIENCE)
    }

    fn new(path: &'static str, call: &Call, more: Duration) -> Self {
        let limits = call.deadline.is_none().then(|| idle_limit(path));
        Self {
            path,
            // What may be silent for hours once it is open still opens, or does not.
            opening: limits.map(|limit| limit.unwrap_or(DEFAULT_IDLE) + more),
            limit: limits.flatten().map(|limit| limit + more),
            last: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Something came or went.
    pub(crate) fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn within<T>(&self, limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, Fault> {
        let Some(limit) = limit else { return Ok(work.await) };
        // Whoever reads slowly is not the one who is silent: time counts from the wait on.
        self.beat();
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(self.last() + limit) => if self.last() + limit <= Instant::now() {
                    return Err(Fault::new(
                        Code::DeadlineExceeded,
                        reason::TIME_UP,
                        format!("{} was silent for {} s; set a deadline to wait longer", self.path, limit.as_secs()),
                    ));
                },
            }
        }
    }

    /// Waits for the stream to open.
    pub(crate) async fn open<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        self.within(self.opening, work).await?
    }

    /// Waits for what comes next on the stream.
    pub(crate) async fn next<T>(&self, work: impl Future<Output = T>) -> Result<T, Fault> {
        self.within(self.limit, work).await
    }

    /// `reply`, ended by a fault when it is silent for too long.
    pub(crate) fn guard<T: Send + 'static>(self, reply: Reply<T>) -> Reply<T> {
        if self.limit.is_none() {
            return reply;
        }
        Box::pin(futures::stream::unfold(Some((reply, self)), |state| async move {
            let (mut reply, idle) = state?;
            match idle.next(reply.next()).await {
                Ok(item) => item.map(|item| (item, Some((reply, idle)))),
                Err(fault) => Some((Err(fault), None)),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::tandem::dialogue::v1::{ComposeRequest, ComposeResponse};
    use crate::pb::tandem::registry::v1::{WatchRequest, WatchResponse};
    use crate::pb::tandem::system::v1::{ExportRequest, ExportResponse};
    use crate::rpc::{dialogue, host, registry};
    use crate::{Channel, Client, FaultStream, Service, local};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    fn client(service: Service) -> Client {
        Client::new(Channel::Local(local(service.into_http())), http::Uri::from_static("http://x"))
    }

    /// An export whose rows come when the test says so, and hears when its work is dropped.
    fn exporting() -> (Client, mpsc::Sender<Result<ExportResponse, Fault>>) {
        let (rows, reply) = mpsc::channel(8);
        let reply = Mutex::new(Some(reply));
        let service = Service::new().server_stream(host::EXPORT, move |_, _: ExportRequest| {
            let reply = reply.lock().unwrap().take().unwrap();
            async move { Ok(Box::pin(ReceiverStream::new(reply)) as Reply<ExportResponse>) }
        });
        (client(service), rows)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_ends_and_its_work_is_dropped() {
        let (client, rows) = exporting();
        let call = Call::from_door("test");
        let began = Instant::now();
        let mut stream = client.server_stream(host::EXPORT, ExportRequest::default(), &call).await.unwrap();
        rows.send(Ok(ExportResponse::default())).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        let dropped = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(29)).await;
            rows.send(Ok(ExportResponse::default())).await.unwrap();
            rows.closed().await;
        });
        assert!(stream.next().await.unwrap().is_ok(), "29 s of silence are within the limit");
        let fault = stream.next().await.unwrap().unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::DeadlineExceeded, reason::TIME_UP));
        assert!(fault.message.contains("silent for 30 s"), "{fault}");
        assert!(stream.next().await.is_none());
        assert_eq!(began.elapsed().as_secs(), 59);
        dropped.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_takes_the_place_of_the_idle_limit() {
        let (client, rows) = exporting();
        let call = Call::from_door("test").within(Duration::from_secs(3600), std::time::Instant::now());
        let mut stream = client.server_stream(host::EXPORT, ExportRequest::default(), &call).await.unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(600)).await;
            rows.send(Ok(ExportResponse::default())).await.unwrap();
        });
        assert!(stream.next().await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_changes_may_be_silent_for_hours() {
        let service = Service::new().server_stream(registry::WATCH, |_, _: WatchRequest| async move {
            let later = futures::stream::once(async {
                tokio::time::sleep(Duration::from_secs(7200)).await;
                Ok(WatchResponse { revision: 9, ..Default::default() })
            });
            Ok(Box::pin(later) as Reply<_>)
        });
        let call = Call::from_door("test");
        let mut stream = client(service).server_stream(registry::WATCH, WatchRequest::default(), &call).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().revision, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_leaves_a_provider_that_hangs() {
        let hangs = crate::LocalService::new(tower::service_fn(|_: http::Request<crate::Body>| {
            std::future::pending::<Result<http::Response<crate::Body>, std::convert::Infallible>>()
        }));
        let client = Client::new(Channel::Local(hangs), http::Uri::from_static("http://x"));
        let call = Call::from_door("test");
        let exported = client.server_stream(host::EXPORT, ExportRequest::default(), &call).await;
        let watched = client.server_stream(registry::WATCH, WatchRequest::default(), &call).await;
        for fault in [exported.err().unwrap(), watched.err().unwrap()] {
            assert_eq!(fault.code, Code::DeadlineExceeded, "{fault}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_keeps_a_stream_both_ways_alive() {
        // It reads everything and never answers.
        let service =
            Service::new().bidi(dialogue::COMPOSE, |_, mut requests: FaultStream<ComposeRequest>| async move {
                let silent = futures::stream::once(async move {
                    while requests.next().await.is_some() {}
                    std::future::pending::<Result<ComposeResponse, Fault>>().await
                });
                Ok(Box::pin(silent) as Reply<_>)
            });
        let call = client(service).bidi(dialogue::COMPOSE, &Call::from_door("test")).await.unwrap();
        let (mut sender, mut receiver) = (call.sender, call.receiver);
        let began = Instant::now();
        let sending = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(40)).await;
                sender.send(ComposeRequest::default()).await.unwrap();
            }
            sender
        });
        let fault = receiver.message().await.unwrap_err();
        assert_eq!(fault.code, Code::DeadlineExceeded, "{fault}");
        assert!(began.elapsed() >= Duration::from_secs(460), "{:?}", began.elapsed());
        drop(sending.await.unwrap());
    }
}
