//! Who may enter: where a request comes from, and whether it knows the token.

mod attempts;
mod hosts;
mod token;

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method, header};
use tandem_types::{Code, Fault, Timestamp, reason};

use attempts::Attempts;
pub(crate) use hosts::Hosts;
pub(crate) use token::{SESSION_LIFE, Session, Token};

/// Cookie that speaks for the owner.
pub(crate) const SESSION_COOKIE: &str = "tandem_session";
/// Cookie whose value our page repeats in [`CSRF_HEADER`].
pub(crate) const CSRF_COOKIE: &str = "tandem_csrf";
/// Header that proves a changing request to come from our page.
pub(crate) const CSRF_HEADER: &str = "x-tandem-csrf";

/// The door's rules.
pub(crate) struct Access {
    hosts: Hosts,
    token: Option<Token>,
    attempts: Mutex<Attempts>,
}

fn unknown(message: &str) -> Fault {
    Fault::new(Code::Unauthenticated, reason::NO_IDENTITY, message)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(given, value)| (given == name).then_some(value))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

impl Access {
    /// Without a token everybody on loopback may enter.
    pub(crate) fn new(hosts: Hosts, token: Option<Token>) -> Self {
        Self { hosts, token, attempts: Mutex::default() }
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        // The map is whole after each operation, so a panic elsewhere does not spoil it.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request was meant for this door. Asked for every request.
    pub(crate) fn check_source(&self, uri: &http::Uri, headers: &HeaderMap) -> Result<(), Fault> {
        self.hosts.check(uri, headers)
    }

    fn try_token(&self, token: &Token, given: &str, from: IpAddr, now: Timestamp) -> Result<(), Fault> {
        let mut attempts = self.attempts();
        if let Some(wait) = attempts.wait(from, now) {
            let message = format!("too many wrong tokens from {from}; try again in {} s", wait.as_secs() + 1);
            return Err(Fault::new(Code::ResourceExhausted, reason::TOO_MANY_ATTEMPTS, message).retry_after(wait));
        }
        if token.is(given) {
            return Ok(());
        }
        attempts.wrong(from, now);
        Err(unknown("this is not the token; its file is named by `token_file` under [web] in the fleet file"))
    }

    /// Whether the caller knows the token. Asked for everything but the page itself and its sign-in.
    pub(crate) fn check_identity(
        &self,
        method: &Method,
        headers: &HeaderMap,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let Some(token) = &self.token else { return Ok(()) };
        if let Some(given) = bearer(headers) {
            return self.try_token(token, given, from, now);
        }
        let Some(session) = cookie(headers, SESSION_COOKIE).and_then(|sealed| token.recognise(sealed, now)) else {
            return Err(unknown("sign in, or send the token as `Authorization: Bearer`"));
        };
        let repeated = headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if method.is_safe() || token::same(repeated, &session.csrf) {
            return Ok(());
        }
        let message =
            format!("a changing request of a signed-in page repeats the cookie {CSRF_COOKIE} in {CSRF_HEADER}");
        Err(Fault::new(Code::PermissionDenied, reason::NOT_ALLOWED, message))
    }

    /// Begins a session for who knows the token.
    pub(crate) fn sign_in(&self, given: &str, from: IpAddr, now: Timestamp) -> Result<Session, Fault> {
        let Some(token) = &self.token else {
            let message = "this door has no token, so nobody needs to sign in";
            return Err(Fault::new(Code::FailedPrecondition, reason::SETTING_MISSING, message));
        };
        self.try_token(token, given, from, now)?;
        Ok(token.sign_in(now, rand::random()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn access(token: Option<&str>) -> Access {
        let hosts = Hosts::new([127, 0, 0, 1].into(), vec![]);
        Access::new(hosts, token.map(|text| Token::new(text).unwrap()))
    }

    fn code(access: &Access, method: Method, pairs: &[(&'static str, &str)]) -> Option<Code> {
        let headers = pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        let headers: HeaderMap = headers.collect::<Vec<(http::HeaderName, _)>>().into_iter().collect();
        access.check_identity(&method, &headers, [10, 0, 0, 1].into(), NOW).err().map(|fault| fault.code)
    }

    #[test]
    fn without_a_token_everybody_enters() {
        for pairs in [vec![], vec![("authorization", "Bearer anything")]] {
            assert_eq!(code(&access(None), Method::POST, &pairs), None);
        }
    }

    #[test]
    fn the_token_or_a_session_is_wanted() {
        let access = access(Some(TOKEN));
        let session = access.sign_in(TOKEN, [10, 0, 0, 1].into(), NOW).unwrap();
        let cookies = format!("a=b; {SESSION_COOKIE}={}; {CSRF_COOKIE}={}", session.sealed, session.csrf);
        let right = format!("Bearer {TOKEN}");
        let refused = Some(Code::Unauthenticated);
        for (method, pairs, expected) in [
            (Method::GET, vec![], refused),
            (Method::GET, vec![("authorization", right.as_str())], None),
            (Method::POST, vec![("authorization", "bearer 0123456789abcdef")], None),
            (Method::GET, vec![("authorization", "Bearer nonsense")], refused),
            (Method::GET, vec![("authorization", "Basic nonsense")], refused),
            // A wrong token is not made good by a session.
            (Method::GET, vec![("authorization", "Bearer nonsense"), ("cookie", &cookies)], refused),
            (Method::GET, vec![("cookie", &cookies)], None),
            (Method::GET, vec![("cookie", "tandem_session=1.2.3")], refused),
            (Method::POST, vec![("cookie", &cookies)], Some(Code::PermissionDenied)),
            (Method::POST, vec![("cookie", &cookies), (CSRF_HEADER, "guess")], Some(Code::PermissionDenied)),
            (Method::POST, vec![("cookie", &cookies), (CSRF_HEADER, &session.csrf)], None),
            (Method::POST, vec![("cookie", "a=b"), (CSRF_HEADER, &session.csrf)], refused),
        ] {
            assert_eq!(code(&access, method.clone(), &pairs), expected, "{method} {pairs:?}");
        }
    }

    #[test]
    fn whoever_guesses_waits_even_when_right_at_last() {
        let access = access(Some(TOKEN));
        for _ in 0..10 {
            assert_eq!(access.sign_in("wrong", [10, 0, 0, 1].into(), NOW).unwrap_err().code, Code::Unauthenticated);
        }
        let fault = access.sign_in(TOKEN, [10, 0, 0, 1].into(), NOW).unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, reason::TOO_MANY_ATTEMPTS));
        assert!(fault.retry_after.is_some());
        assert!(access.sign_in(TOKEN, [10, 0, 0, 2].into(), NOW).is_ok());
    }
}
