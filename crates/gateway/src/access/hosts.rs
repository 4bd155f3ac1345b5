//! Which addresses this door answers to. A page of another site that has its own name point at us (DNS rebinding), or
//! that sends requests from a visitor's browser, carries its name in `Host` or `Origin`.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, Uri, header};
use tandem_types::{Code, Fault, reason};

/// The names and addresses by which people reach this door.
pub(crate) struct Hosts {
    listen: IpAddr,
    names: Vec<String>,
}

fn refused(message: String) -> Fault {
    Fault::new(Code::PermissionDenied, reason::NOT_ALLOWED, message)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Hosts {
    /// A door at `listen`, also reached by `names`, for example `mainpc.lan`.
    pub(crate) fn new(listen: IpAddr, names: Vec<String>) -> Self {
        Self { listen: listen.to_canonical(), names }
    }

    /// Loopback, our own address, or one of our names; whatever the port, because ports get mapped.
    fn is_ours(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            // An address cannot be rebound: only names can.
            Ok(ip) => {
                let ip = ip.to_canonical();
                ip.is_loopback() || ip == self.listen || self.listen.is_unspecified()
            }
            Err(_) => {
                host.eq_ignore_ascii_case("localhost") || self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
            }
        }
    }

    /// Refuses requests that were sent to another name, or by a page of another origin.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Fault> {
        let mut given = headers.get_all(header::HOST).iter();
        let host = match (given.next().map(|value| value.to_str()), given.next()) {
            (Some(Ok(host)), None) => host,
            _ => return Err(refused("a request names its host once, in the header `Host`".to_owned())),
        };
        let asked = uri.authority().map_or(host, Authority::as_str);
        if !self.is_ours(host) || !self.is_ours(asked) {
            return Err(refused(format!(
                "this door does not answer to `{asked}`; use localhost or its address, or add the name to `names` of \
                 UnifiedWebAgent in the fleet file"
            )));
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let same =
                origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(scheme, rest)| {
                    matches!(scheme, "http" | "https") && rest.eq_ignore_ascii_case(host)
                });
            if !same {
                return Err(refused("pages of other origins may not call this door".to_owned()));
            }
        }
        // Requests of other sites' pages that carry no `Origin`, such as images. A followed link is welcome.
        if text(headers, "sec-fetch-site") == Some("cross-site") && text(headers, "sec-fetch-mode") != Some("navigate")
        {
            return Err(refused("pages of other sites may not call this door".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn passes(listen: &str, uri: &str, pairs: &[(&str, &str)]) -> bool {
        let hosts = Hosts::new(listen.parse().unwrap(), vec!["mainpc.lan".into()]);
        hosts.check(&uri.parse().unwrap(), &headers(pairs)).is_ok()
    }

    #[test]
    fn only_names_of_ours_are_answered() {
        for (listen, host, passes_expected) in [
            ("127.0.0.1", "127.0.0.1:8280", true),
            ("127.0.0.1", "localhost:8280", true),
            ("127.0.0.1", "LOCALHOST", true),
            ("127.0.0.1", "[::1]:8280", true),
            ("127.0.0.1", "127.0.0.9:1", true),
            ("127.0.0.1", "mainpc.lan:8280", true),
            ("127.0.0.1", "evil.example:8280", false),
            ("127.0.0.1", "localhost.evil.example", false),
            ("127.0.0.1", "127.0.0.1.evil.example", false),
            ("127.0.0.1", "evil.example@localhost", false),
            ("127.0.0.1", "192.168.1.5:8280", false),
            ("127.0.0.1", "2130706433", false),
            ("127.0.0.1", "", false),
            ("192.168.1.5", "192.168.1.5:8280", true),
            ("192.168.1.5", "192.168.1.6:8280", false),
            ("0.0.0.0", "192.168.1.6:8280", true),
            ("0.0.0.0", "evil.example", false),
            ("::", "[::ffff:192.168.1.6]:8280", true),
        ] {
            assert_eq!(passes(listen, "/", &[("host", host)]), passes_expected, "{listen} asked as {host:?}");
        }
    }

    #[test]
    fn a_host_is_named_once_and_agrees_with_the_target() {
        assert!(!passes("127.0.0.1", "/", &[]));
        assert!(!passes("127.0.0.1", "/", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(!passes("127.0.0.1", "http://evil.example/", &[("host", "localhost")]));
        assert!(passes("127.0.0.1", "http://localhost/", &[("host", "localhost")]));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let host = ("host", "localhost:8280");
        for (pairs, expected) in [
            (vec![host, ("origin", "http://localhost:8280")], true),
            (vec![host, ("origin", "https://localhost:8280")], true),
            (vec![host, ("origin", "http://localhost:3000")], false),
            (vec![host, ("origin", "http://127.0.0.1:8280")], false),
            (vec![host, ("origin", "http://evil.example")], false),
            (vec![host, ("origin", "null")], false),
            (vec![host, ("origin", "file://localhost:8280")], false),
            (vec![host, ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")], true),
            (vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false),
            (vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], true),
        ] {
            assert_eq!(passes("127.0.0.1", "/", &pairs), expected, "{pairs:?}");
        }
    }
}
