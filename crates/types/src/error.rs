//! The one error of Tandem: a code out of twelve, a stable reason, a message for a person.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::AgentId;

/// Whose fault it is and whether trying again helps, in twelve words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A field is wrong; `violations` lists every one.
    InvalidArgument,
    /// The state forbids it now: confirmation or consent missing, plan differs.
    FailedPrecondition,
    /// No valid identity.
    Unauthenticated,
    /// Known identity, not allowed.
    PermissionDenied,
    /// No such thing for this user.
    NotFound,
    /// Key reused with another body, version moved on, second live owner.
    Conflict,
    /// Queue, quota, size or memory is full; `retry_after` says when.
    ResourceExhausted,
    /// The caller or an interruption ended it.
    Cancelled,
    /// A bug or corrupt data; `trace_id` finds it.
    Internal,
    /// No such method here.
    Unimplemented,
    /// Cannot serve now: no model, peer away, draining, breaker open.
    Unavailable,
    /// Time was up.
    DeadlineExceeded,
}

impl Code {
    /// All codes, in the order above.
    pub const ALL: [Self; 12] = [
        Self::InvalidArgument,
        Self::FailedPrecondition,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::NotFound,
        Self::Conflict,
        Self::ResourceExhausted,
        Self::Cancelled,
        Self::Internal,
        Self::Unimplemented,
        Self::Unavailable,
        Self::DeadlineExceeded,
    ];

    /// The code's word in replies, metrics and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::FailedPrecondition => "failed_precondition",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
            Self::Unimplemented => "unimplemented",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an error code")]
pub struct ParseCodeError(String);

impl FromStr for Code {
    type Err = ParseCodeError;
    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        Self::ALL.into_iter().find(|c| c.as_str() == text).ok_or_else(|| ParseCodeError(text.to_owned()))
    }
}

/// Stable words for why; programs match on them, so they never change meaning.
pub mod reason {
    /// No model is bound to the role, or its file is missing.
    pub const NO_MODEL: &str = "no_model";
    /// The model is on its way in; `retry_after` says when.
    pub const MODEL_LOADING: &str = "model_loading";
    /// The queue is full.
    pub const QUEUE_FULL: &str = "queue_full";
    /// The other node, or a group, cannot be reached.
    pub const PEER_AWAY: &str = "peer_away";
    /// The process is finishing and takes nothing new.
    pub const DRAINING: &str = "draining";
    /// Too many failures in a row; calls are refused for a while.
    pub const BREAKER_OPEN: &str = "breaker_open";
    /// The engine process ended while it worked.
    pub const ENGINE_LOST: &str = "engine_lost";
    /// The prompt does not fit the model's context.
    pub const CONTEXT_LENGTH: &str = "context_length";
    /// A field has a wrong value; `violations` has the list.
    pub const BAD_FIELD: &str = "bad_field";
    /// A field this version does not know.
    pub const UNKNOWN_FIELD: &str = "unknown_field";
    /// The same idempotency key came with another body.
    pub const KEY_REUSED: &str = "key_reused";
    /// There was no time left.
    pub const TIME_UP: &str = "time_up";
    /// The caller went away or pressed stop.
    pub const CALLER_LEFT: &str = "caller_left";
    /// The process was restarted while it worked on this.
    pub const RESTARTED: &str = "restarted";
    /// No such thing for this user.
    pub const NO_SUCH: &str = "no_such";
    /// No figure has been measured yet.
    pub const NO_SAMPLE: &str = "no_sample";
    /// The caller is not in the list of allowed callers.
    pub const NOT_ALLOWED: &str = "not_allowed";
    /// An agent that the fleet file names but this build has no code for.
    pub const NOT_BUILT: &str = "not_built";
    /// A group's address is not the one in the fleet file.
    pub const BAD_ADDRESS: &str = "bad_address";
    /// Another live instance holds the identity.
    pub const SECOND_OWNER: &str = "second_owner";
    /// A reader of a stream fell too far behind; it is to begin the stream anew.
    pub const BEHIND: &str = "behind";
    /// A setting in the fleet file is missing; `message` names it.
    pub const SETTING_MISSING: &str = "setting_missing";
    /// The person is to say it once more, or with `force`.
    pub const CONFIRMATION_NEEDED: &str = "confirmation_needed";
    /// Another program listens at the port.
    pub const PORT_TAKEN: &str = "port_taken";
    /// No token or session came with the request, or a wrong one.
    pub const NO_IDENTITY: &str = "no_identity";
    /// Too many wrong tokens from one address; `retry_after` says when.
    pub const TOO_MANY_ATTEMPTS: &str = "too_many_attempts";
    /// The request is larger than what is read.
    pub const TOO_LARGE: &str = "too_large";
    /// A bug.
    pub const BUG: &str = "bug";
    /// Reading or writing a disk failed.
    pub const DISK: &str = "disk";
    /// This machine belongs to no fleet.
    pub const NO_TRUST: &str = "no_trust";
    /// This machine belongs to a fleet already.
    pub const TRUST_EXISTS: &str = "trust_exists";
    /// An invitation is cut off, mistyped or of another version.
    pub const BAD_INVITATION: &str = "bad_invitation";
    /// No such invitation was made here, or a newer one has replaced it.
    pub const INVITATION_UNKNOWN: &str = "invitation_unknown";
    /// The time of an invitation is over.
    pub const INVITATION_EXPIRED: &str = "invitation_expired";
    /// Another machine has used the invitation.
    pub const INVITATION_USED: &str = "invitation_used";
    /// The invitation is for a node of another name.
    pub const INVITATION_OTHER_NODE: &str = "invitation_other_node";
    /// Only the machine that founded the fleet can do this.
    pub const NOT_FOUNDER: &str = "not_founder";
    /// No member of the fleet has this name or key.
    pub const NOT_A_MEMBER: &str = "not_a_member";
    /// The node was a member of the fleet and has been revoked.
    pub const REVOKED: &str = "revoked";
    /// A certificate or list is not signed by the CA of this fleet.
    pub const FOREIGN_CA: &str = "foreign_ca";
    /// A list of revoked certificates is older than the one that is here.
    pub const OLD_LIST: &str = "old_list";
    /// Others than its owner can read a file with a secret.
    pub const EXPOSED: &str = "exposed";
    /// The other node runs another fleet file, or a program that does not go together with this one.
    pub const PLAN_DIFFERS: &str = "plan_differs";
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path of the field, for example `messages[2].role`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// An error as it travels between agents and to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which of the twelve.
    pub code: Code,
    /// A stable word out of [`reason`].
    pub reason: String,
    /// For a person: what could not be done, to what, and what to do.
    pub message: String,
    /// Where it happened, once known.
    pub agent: Option<AgentId>,
    /// The trace that finds it in the logs; filled in where it leaves the process.
    pub trace_id: String,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// Every wrong field.
    pub violations: Vec<Violation>,
}

impl Fault {
    /// A fault with a code, a stable reason and a message for a person.
    pub fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            agent: None,
            trace_id: String::new(),
            retry_after: None,
            violations: Vec::new(),
        }
    }

    /// `unavailable: no model for <role>`, the one answer of a role that has no model.
    pub fn no_model(role: &str) -> Self {
        Self::new(Code::Unavailable, reason::NO_MODEL, format!("no model for {role}"))
    }

    /// No such thing for this user.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason::NO_SUCH, message)
    }

    /// Cannot serve now, for the stable `reason`.
    pub fn unavailable(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, reason, message)
    }

    /// A bug or corrupt data.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, reason::BUG, message)
    }

    /// One or more wrong fields, all of them at once.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let message = violations.iter().map(|v| format!("{}: {}", v.field, v.problem)).collect::<Vec<_>>().join("; ");
        Self { violations, ..Self::new(Code::InvalidArgument, reason::BAD_FIELD, message) }
    }

    /// One wrong field.
    pub fn invalid_field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::invalid(vec![Violation { field: field.into(), problem: problem.into() }])
    }

    /// Adds when trying again makes sense.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds where it happened, unless that is known already.
    #[must_use]
    pub fn at(mut self, agent: &AgentId) -> Self {
        self.agent.get_or_insert_with(|| agent.clone());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_model_reads_as_promised() {
        assert_eq!(Fault::no_model("llm.fast").to_string(), "unavailable: no model for llm.fast");
    }

    #[test]
    fn codes_round_trip() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
        }
        assert!("ok".parse::<Code>().is_err());
    }

    #[test]
    fn all_violations_are_in_the_message() {
        let fault = Fault::invalid(vec![
            Violation { field: "user".into(), problem: "is empty".into() },
            Violation { field: "text".into(), problem: "is longer than 100 characters".into() },
        ]);
        assert_eq!(fault.message, "user: is empty; text: is longer than 100 characters");
    }
}
