//! What is told of an alert to an address outside, how it is signed, and when it is tried again.

use std::time::Duration;

use hmac::{Hmac, Mac as _};
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;
use tandem_store::alerts::Alert;
use tandem_store::errors::Severity;
use tandem_types::{AgentId, NodeName, Timestamp};

/// First pause after a try that failed; it doubles up to the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_hours(1);
/// Tries go on for this long.
pub(crate) const GIVEN_UP: Duration = Duration::from_hours(24);

/// An address that wants to hear of alerts, as the fleet file says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhook {
    /// An `http` or `https` address.
    pub(crate) url: String,
    /// Alerts below this are not told: `info`, `warning`, `error` or `critical`.
    #[serde(default = "warning")]
    pub(crate) min_severity: Severity,
    /// File with the secret that signs what is sent.
    #[serde(default)]
    pub(crate) secret_file: Option<std::path::PathBuf>,
}

fn warning() -> Severity {
    Severity::Warning
}

/// What became of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Raised,
    Cleared,
}

impl Told {
    fn word(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Cleared => "cleared",
        }
    }

    /// Identifies what is told; it is told once.
    pub(crate) fn key(self, alert: &Alert) -> String {
        format!("{}-{}", alert.id, self.word())
    }
}

/// What is sent.
pub(crate) fn body(node: &NodeName, alert: &Alert, told: Told) -> String {
    let since = match told {
        Told::Raised => alert.first,
        Told::Cleared => alert.cleared.unwrap_or(alert.last),
    };
    json!({
        "alert_id": alert.id,
        "kind": alert.what.kind,
        "severity": alert.what.severity,
        "node": node,
        "subject": alert.what.subject,
        // Alerts about a group or a machine have no agent.
        "agent": alert.what.subject.parse::<AgentId>().ok(),
        "state": told.word(),
        "since_us": since.micros(),
        "message": alert.what.message,
    })
    .to_string()
}

/// HMAC-SHA256 of what is sent, as `sha256=` and hexadecimal digits.
pub(crate) fn signature(secret: &[u8], body: &[u8]) -> String {
    // HMAC takes keys of every length.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes any key");
    mac.update(body);
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

/// When to try again what was tried `attempts` times in vain before this time; none when it is given up.
pub(crate) fn again(created: Timestamp, attempts: u32, now: Timestamp) -> Option<Timestamp> {
    let pause = FIRST.saturating_mul(1 << attempts.min(16)).min(LONGEST);
    (now.since(created) < GIVEN_UP).then(|| now + pause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_store::alerts::NewAlert;

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        // Test cases 2 and 6: a short key, and one longer than a block.
        for (key, data, digits) in [
            (
                &b"Jefe"[..],
                &b"what do ya want for nothing?"[..],
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131][..],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(signature(key, data), format!("sha256={digits}"));
        }
    }

    #[test]
    fn it_is_tried_for_a_day_ever_less_often() {
        let created = Timestamp::from_secs(1_790_000_000);
        for (attempts, seconds) in [(0, 5), (1, 10), (5, 160), (9, 2_560), (10, 3_600), (200, 3_600)] {
            assert_eq!(again(created, attempts, created), Some(created + Duration::from_secs(seconds)), "{attempts}");
        }
        assert!(again(created, 30, created + Duration::from_secs(86_399)).is_some());
        assert_eq!(again(created, 30, created + Duration::from_secs(86_400)), None);
    }

    #[test]
    fn what_is_told_names_the_agent_where_there_is_one() {
        let at = Timestamp(5);
        let alert = |subject: &str, cleared| Alert {
            id: "a1".into(),
            what: NewAlert {
                kind: "agent_failed".into(),
                subject: subject.into(),
                severity: Severity::Error,
                message: "it failed".into(),
                evidence: "{}".into(),
                count: 1,
            },
            first: at,
            last: Timestamp(9),
            acked: None,
            cleared,
            node: None,
        };
        let said = |subject: &str, cleared, told| {
            serde_json::from_str::<serde_json::Value>(&body(&"pc2".parse().unwrap(), &alert(subject, cleared), told))
                .unwrap()
        };
        let raised = said("pc2/a/B", None, Told::Raised);
        assert_eq!(
            raised,
            json!({ "alert_id": "a1", "kind": "agent_failed", "severity": "error", "node": "pc2", "subject": "pc2/a/B",
                    "agent": "pc2/a/B", "state": "raised", "since_us": 5, "message": "it failed" })
        );
        let cleared = said("pc2/a", Some(Timestamp(11)), Told::Cleared);
        assert_eq!(
            (&cleared["agent"], &cleared["state"], &cleared["since_us"]),
            (&json!(null), &json!("cleared"), &json!(11))
        );
        assert_eq!(Told::Cleared.key(&alert("x", None)), "a1-cleared");
    }
}
