//! One typed constant per RPC: path, request and response type, default deadline.

use std::marker::PhantomData;
use std::time::Duration;

use connectrpc::HasMessageView;
use connectrpc::codec::{JsonDeserialize, JsonSerialize};

/// What a message must be able to do to travel.
pub trait Wire: HasMessageView + JsonSerialize + JsonDeserialize + Send + Sync + 'static {}
impl<T: HasMessageView + JsonSerialize + JsonDeserialize + Send + Sync + 'static> Wire for T {}

/// How messages flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStream,
    /// Many requests, many responses.
    Bidi,
}

/// What is known of an RPC without its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcFacts {
    /// Path such as `/tandem.session.v1.Sessions/GetWindow`.
    pub path: &'static str,
    /// How messages flow.
    pub flow: Flow,
}

impl RpcFacts {
    /// Time a unary call gets that states none.
    pub fn deadline(&self) -> Duration {
        default_deadline(self.path)
    }
}

macro_rules! rpc {
    ($(#[$doc:meta])* $name:ident, $flow:expr) => {
        $(#[$doc])*
        pub struct $name<Req, Res> {
            path: &'static str,
            types: PhantomData<fn(Req) -> Res>,
        }
        impl<Req, Res> Clone for $name<Req, Res> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<Req, Res> Copy for $name<Req, Res> {}
        impl<Req, Res> $name<Req, Res> {
            pub(crate) const fn new(path: &'static str) -> Self {
                Self { path, types: PhantomData }
            }
            /// Path such as `/tandem.session.v1.Sessions/GetWindow`.
            pub const fn path(&self) -> &'static str {
                self.path
            }
            /// The same without types.
            pub const fn facts(&self) -> RpcFacts {
                RpcFacts { path: self.path, flow: $flow }
            }
        }
    };
}
rpc!(
    /// One request, one response.
    Unary, Flow::Unary
);
rpc!(
    /// One request, a stream of responses.
    ServerStream, Flow::ServerStream
);
rpc!(
    /// A stream of requests, a stream of responses.
    Bidi, Flow::Bidi
);

/// `(path prefix, milliseconds)`; the longest prefix counts. Time of a unary call that states none.
const DEADLINES: &[(&str, u64)] = &[
    ("/", 5_000),
    ("/tandem.registry.v1.Registry/", 1_000),
    ("/tandem.twin.v1.Twin/", 1_000),
    ("/tandem.system.v1.Host/", 5_000),
    ("/tandem.system.v1.Host/StartEngine", 120_000),
    ("/tandem.system.v1.Host/StopEngine", 30_000),
    ("/tandem.system.v1.Host/RestartAgent", 30_000),
    ("/tandem.system.v1.Host/StopAgent", 30_000),
    ("/tandem.system.v1.Host/Drain", 30_000),
    ("/tandem.system.v1.System/", 10_000),
    ("/tandem.system.v1.System/RestartAgent", 40_000),
    ("/tandem.system.v1.System/StopAgent", 40_000),
    ("/tandem.system.v1.System/RecycleGroup", 120_000),
    ("/tandem.coordinator.v1.Coordinator/", 2_000),
    ("/tandem.model.v1.Models/", 2_000),
    ("/tandem.model.v1.Models/Load", 120_000),
    ("/tandem.model.v1.Models/Unload", 60_000),
    ("/tandem.model.v1.Models/Acquire", 30_000),
    ("/tandem.model.v1.Models/Evaluate", 3_600_000),
    ("/tandem.model.v1.Models/RegisterModel", 120_000),
    ("/tandem.model.v1.Engine/", 30_000),
    ("/tandem.telemetry.v1.Telemetry/", 2_000),
    ("/tandem.session.v1.Sessions/", 200),
    ("/tandem.session.v1.Sessions/SearchTurns", 1_000),
    ("/tandem.dialogue.v1.Dialogue/", 1_000),
    ("/tandem.link.v1.Link/", 10_000),
    ("/tandem.link.v1.Link/Exchange", 1_000),
    ("/grpc.health.v1.Health/", 1_000),
];

/// The longest silence of a stream that states no deadline, unless [`IDLE`] has another.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(30);

/// Streams with another idle limit, in seconds. None: it follows changes and may be silent for hours; whether its
/// provider is still there is asked of the connection beneath it.
const IDLE: &[(&str, Option<u64>)] = &[
    // A turn may wait long for its place and is ended by its coordinator, at the latest after this time.
    ("/tandem.coordinator.v1.Coordinator/Submit", Some(600)),
    ("/tandem.coordinator.v1.Coordinator/Resume", Some(600)),
    ("/tandem.dialogue.v1.Dialogue/Handle", Some(60)),
    ("/tandem.dialogue.v1.Dialogue/Compose", Some(60)),
    ("/tandem.registry.v1.Registry/Watch", None),
    ("/tandem.twin.v1.Twin/Watch", None),
    ("/tandem.telemetry.v1.Telemetry/WatchHealth", None),
    ("/tandem.system.v1.Host/Subscribe", None),
];

/// How long a stream at `path` may be silent when its caller set no deadline; none for those that follow changes.
pub fn idle_limit(path: &str) -> Option<Duration> {
    match IDLE.iter().find(|(known, _)| *known == path) {
        Some((_, seconds)) => seconds.map(Duration::from_secs),
        None => Some(DEFAULT_IDLE),
    }
}

/// Time of a unary call to `path` that states none.
pub fn default_deadline(path: &str) -> Duration {
    let (_, ms) = DEADLINES
        .iter()
        .filter(|(prefix, _)| path.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .unwrap_or(&("/", 5_000));
    Duration::from_millis(*ms)
}

/// Whether a call to `path` begins a trace when its caller is in none: what a person asks for does.
pub fn begins_trace(path: &str) -> bool {
    path == coordinator::SUBMIT.path()
}

include!(concat!(env!("OUT_DIR"), "/_rpcs.rs"));

/// The facts of the RPC at `path`.
pub fn find(path: &str) -> Option<RpcFacts> {
    ALL.iter().copied().find(|facts| facts.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_deadline_counts() {
        for (path, ms) in [
            (sessions::GET_WINDOW.path(), 200),
            (sessions::SEARCH_TURNS.path(), 1_000),
            (models::LOAD.path(), 120_000),
            (models::LIST_MODELS.path(), 2_000),
            ("/unheard.of/Rpc", 5_000),
        ] {
            assert_eq!(default_deadline(path), Duration::from_millis(ms), "{path}");
        }
    }

    #[test]
    fn every_stated_idle_limit_is_of_a_stream() {
        for (path, _) in IDLE {
            assert!(find(path).is_some_and(|rpc| rpc.flow != Flow::Unary), "{path} is no stream of the contract");
        }
        assert_eq!(idle_limit(engine::GENERATE.path()), Some(DEFAULT_IDLE));
        assert_eq!(idle_limit(host::SUBSCRIBE.path()), None);
    }

    #[test]
    fn every_deadline_rule_is_for_something() {
        for (prefix, _) in DEADLINES.iter().filter(|(p, _)| *p != "/" && !p.starts_with("/grpc.")) {
            assert!(ALL.iter().any(|rpc| rpc.path.starts_with(prefix)), "no RPC begins with {prefix}");
        }
    }
}
