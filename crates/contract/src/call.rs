//! What travels with a call besides its message: who calls, until when, under which trace.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use tandem_types::{AgentId, AgentName, TurnId};

/// Names the provider when several agents of a group serve the same RPC.
pub const AGENT_HEADER: HeaderName = HeaderName::from_static("tandem-agent");
/// Header of an answer that refuses a call because the group is ending: nothing of it was begun.
pub const DRAINING_HEADER: HeaderName = HeaderName::from_static("tandem-draining");
/// Who calls: node/group/agent, or a door such as `cli`.
pub const CALLER_HEADER: HeaderName = HeaderName::from_static("tandem-caller");
/// W3C Trace Context, <https://www.w3.org/TR/trace-context/>, section 3.2.
pub const TRACEPARENT_HEADER: HeaderName = HeaderName::from_static("traceparent");

/// What each hop keeps for itself of the remaining time.
pub const HOP_COST: Duration = Duration::from_millis(5);

/// A W3C trace context: which trace, which span is the parent, whether it is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace id. For a turn it is the turn's id.
    pub trace: TurnId,
    /// The calling span.
    pub span: [u8; 8],
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-", self.trace)?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", u8::from(self.sampled))
    }
}

impl FromStr for TraceParent {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let (Some(version), Some(trace), Some(span), Some(flags)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        // Version 00 has exactly four parts; later versions may add some; ff is invalid.
        if version.len() != 2 || version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(());
        }
        if span.len() != 16 || !span.is_ascii() || flags.len() != 2 {
            return Err(());
        }
        let trace: TurnId = trace.parse().map_err(drop)?;
        let span = u64::from_str_radix(span, 16).map_err(drop)?.to_be_bytes();
        let flags = u8::from_str_radix(flags, 16).map_err(drop)?;
        if trace.0 == [0; 16] || span == [0; 8] {
            return Err(());
        }
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// The circumstances of a call, for the one who serves it and for the calls it makes in turn.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// Who calls; absent when unknown.
    pub caller: Option<String>,
    /// Trace context; absent outside any trace.
    pub trace: Option<TraceParent>,
    /// The agent that is to serve it, where several can.
    pub agent: Option<AgentName>,
}

impl Call {
    /// A call of our own accord, by `caller`.
    pub fn by(caller: &AgentId) -> Self {
        Self { caller: Some(caller.to_string()), ..Self::default() }
    }

    /// A call from a door that is no agent, such as the command line.
    pub fn from_door(door: &str) -> Self {
        Self { caller: Some(door.to_owned()), ..Self::default() }
    }

    /// With at most `limit` from `now` on.
    #[must_use]
    pub fn within(mut self, limit: Duration, now: Instant) -> Self {
        let end = now + limit;
        self.deadline = Some(self.deadline.map_or(end, |d| d.min(end)));
        self
    }

    /// To be served by the agent of this name.
    #[must_use]
    pub fn to(mut self, agent: AgentName) -> Self {
        self.agent = Some(agent);
        self
    }

    /// Part of this trace.
    #[must_use]
    pub fn traced(mut self, trace: TraceParent) -> Self {
        self.trace = Some(trace);
        self
    }

    /// For calls made on behalf of this one by `me`: same end less one hop, same trace.
    #[must_use]
    pub fn next(&self, me: &AgentId) -> Self {
        Self {
            deadline: self.deadline.map(|d| d.checked_sub(HOP_COST).unwrap_or(d)),
            caller: Some(me.to_string()),
            trace: self.trace,
            agent: None,
        }
    }

    /// Reads what came in with a request.
    pub fn from_headers(headers: &HeaderMap, deadline: Option<Instant>) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        Self {
            deadline,
            caller: text(&CALLER_HEADER).map(str::to_owned),
            trace: text(&TRACEPARENT_HEADER).and_then(|t| t.parse().ok()),
            agent: text(&AGENT_HEADER).and_then(|t| t.parse().ok()),
        }
    }

    /// Headers that carry this to the next process; the deadline travels in the protocol's own.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, text: String| {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        };
        if let Some(caller) = &self.caller {
            put(CALLER_HEADER, caller.clone());
        }
        if let Some(trace) = &self.trace {
            put(TRACEPARENT_HEADER, trace.to_string());
        }
        if let Some(agent) = &self.agent {
            put(AGENT_HEADER, agent.to_string());
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_context_keeps_to_the_standard() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed: TraceParent = text.parse().unwrap();
        assert!(parsed.sampled);
        assert_eq!(parsed.to_string(), text);
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
        assert!("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra".parse::<TraceParent>().is_ok());
    }

    #[test]
    fn each_hop_costs_some_of_the_time() {
        let now = Instant::now();
        let me: AgentId = "solo/coordination/RequestCoordinator".parse().unwrap();
        let call = Call::from_door("cli").within(Duration::from_secs(1), now);
        assert_eq!(call.next(&me).deadline, Some(now + Duration::from_millis(995)));
        assert_eq!(call.next(&me).caller.as_deref(), Some("solo/coordination/RequestCoordinator"));
    }

    #[test]
    fn headers_round_trip() {
        let call = Call {
            caller: Some("a/b/C".into()),
            agent: Some("ChitchatAgent".parse().unwrap()),
            trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok(),
            deadline: None,
        };
        let back = Call::from_headers(&call.headers(), None);
        assert_eq!((back.caller, back.agent, back.trace), (call.caller, call.agent, call.trace));
    }
}
