//! Why a handshake failed, in words for people.

use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError, Error};
use tandem_types::NodeName;

use crate::BACKDATE;
use crate::fleet::parse_dns_name;
use crate::verify::Stranger;

/// Why a handshake failed, for a person, and what to do about it. `now` is this machine's clock.
pub fn explain(error: &Error, now: SystemTime) -> String {
    match error {
        Error::InvalidCertificate(why) => certificate(why, now),
        Error::AlertReceived(alert) => alerted(*alert),
        Error::NoCertificatesPresented => {
            "the other side has shown no certificate: it belongs to no fleet, or is no node".to_owned()
        }
        Error::PeerIncompatible(_) => {
            format!("the other side does not speak TLS 1.3 as nodes do: it is no node, or of another version ({error})")
        }
        Error::InvalidMessage(_) => format!("what answers there does not speak TLS: it is no node ({error})"),
        Error::NoApplicationProtocol => {
            "the other side speaks TLS but not the protocol of the link: it is of another version".to_owned()
        }
        other => format!("the connection was refused: {other}"),
    }
}

fn certificate(why: &CertificateError, now: SystemTime) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "the certificate of the other side is not signed by this fleet's CA: it is of another fleet, or was founded anew \
             under the same name"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "the certificate of the other side is not signed by this fleet's CA, whatever it calls itself, or the other side does \
             not have its key"
                .to_owned()
        }
        CertificateError::Revoked => {
            "the certificate of the other side was revoked: to come back it needs a new invitation".to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            let ago = span(since(now, SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.as_secs())));
            format!(
                "the certificate of the other side expired {ago} ago: it was away from the founder too long and renews it when it \
                 reaches it, or this machine's clock is ahead"
            )
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            // It was made `BACKDATE` after it begins, on a clock that showed at least that.
            let made = SystemTime::UNIX_EPOCH + Duration::from_secs(not_before.as_secs()) + BACKDATE;
            let apart = span(since(made, now));
            format!(
                "the certificate of the other side is not valid yet: the clocks differ by at least {apart}, this machine's is behind \
                 or the founder's ahead; set both by NTP"
            )
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let expected = node(&expected).map_or(expected.clone().into_owned(), |node| node.to_string());
            let presented: Vec<String> = presented.iter().map(|name| shown(name)).collect();
            format!("{} answers where {expected} was to answer: look at the addresses in the fleet file", presented.join(", "))
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<Stranger>() {
            Some(Stranger::Fleet { node, fleet }) => {
                format!("the other side says it is {node} of another fleet ({fleet}): a machine belongs to one fleet")
            }
            Some(Stranger::Ca) => {
                "whoever answers there is not the founder that made the invitation: its CA is another one".to_owned()
            }
            Some(Stranger::Key) => "it is for a key that is not this machine's".to_owned(),
            None => format!("the certificate of the other side is refused: {other}"),
        },
        other => format!("the certificate of the other side is refused: {other}"),
    }
}

fn alerted(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the other side does not know the CA of this machine's certificate: it is of another fleet".to_owned()
        }
        AlertDescription::CertificateUnknown => {
            "the other side refuses this machine as one of another fleet: a machine belongs to one fleet".to_owned()
        }
        AlertDescription::CertificateRevoked => {
            "the other side says that this machine was revoked: to come back it needs a new invitation".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "the other side says that this machine's certificate has expired or is not valid yet: it is renewed at the founder, or \
             the clocks differ"
                .to_owned()
        }
        AlertDescription::CertificateRequired => {
            "the other side takes only members of its fleet, and this machine has shown no certificate".to_owned()
        }
        AlertDescription::NoApplicationProtocol => {
            "the other side does not speak the protocol of the link: it is of another version".to_owned()
        }
        other => format!("the other side refused the connection: {other:?}"),
    }
}

fn node(name: &str) -> Option<NodeName> {
    parse_dns_name(name).map(|(node, _)| node)
}

/// webpki gives names as `DnsName("..")`.
fn shown(name: &str) -> String {
    let bare = name.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")")).unwrap_or(name);
    node(bare).map_or_else(|| bare.to_owned(), |node| node.to_string())
}

fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

/// A time span in its largest unit: `42 s`, `5 min`, `3 h`, `12 d`.
pub(crate) fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
