//! The owner's token, and the sessions that stand for it in a browser.
//!
//! A session is a sealed note, not a row: `<end>.<nonce>.<HMAC-SHA256 under the token>`. It outlives a restart of the
//! group and ends with its time or with the token.

use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tandem_types::{Code, Fault, Timestamp, reason};

/// How long a browser stays signed in.
pub(crate) const SESSION_LIFE: Duration = Duration::from_hours(30 * 24);
/// Shorter tokens could be guessed.
const SHORTEST: usize = 16;

/// What callers must know.
pub(crate) struct Token {
    digest: [u8; 32],
    key: Hmac<Sha256>,
}

/// A signed-in browser, as its two cookies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// Speaks for the owner; scripts cannot read it.
    pub(crate) sealed: String,
    /// Proves that a changing request comes from our own page; scripts read it.
    pub(crate) csrf: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether two texts are equal, in a time that tells nothing about where they differ.
pub(crate) fn same(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

/// A token that other users of the machine can read is theirs too.
fn warn_if_shared(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if std::fs::metadata(file).is_ok_and(|facts| facts.permissions().mode() & 0o077 != 0) {
        tracing::warn!(file = %file.display(), "other users of this machine may read the token; `chmod 600` the file");
    }
}

impl Token {
    /// Reads the token from its file; white space around it does not count.
    pub(crate) fn read(file: &Path) -> Result<Self, Fault> {
        let text = std::fs::read_to_string(file).map_err(|e| {
            let message = format!(
                "cannot read the token of the web door from {}: {e}; make one with `openssl rand -hex 32`",
                file.display()
            );
            Fault::new(Code::FailedPrecondition, reason::SETTING_MISSING, message)
        })?;
        warn_if_shared(file);
        Self::new(text.trim()).map_err(|problem| {
            Fault::new(Code::InvalidArgument, reason::BAD_FIELD, format!("the token in {} {problem}", file.display()))
        })
    }

    /// Takes a token of at least 16 visible characters, or says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.len() < SHORTEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "is not {SHORTEST} or more letters, digits and signs without spaces; make one with `openssl rand -hex 32`"
            ));
        }
        let key = Hmac::new_from_slice(text.as_bytes()).map_err(|e| format!("cannot seal sessions: {e}"))?;
        Ok(Self { digest: Sha256::digest(text).into(), key })
    }

    /// Whether this is the token.
    pub(crate) fn is(&self, given: &str) -> bool {
        Sha256::digest(given).ct_eq(&self.digest).into()
    }

    fn seal(&self, what: &str, text: &str) -> String {
        let mut mac = self.key.clone();
        mac.update(what.as_bytes());
        mac.update(b":");
        mac.update(text.as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    fn session(&self, end: i64, nonce: &str) -> Session {
        let note = format!("{end}.{nonce}");
        let sealed = format!("{note}.{}", self.seal("session", &note));
        Session { csrf: self.seal("csrf", &sealed), sealed }
    }

    /// A new session from `now` on; `nonce` is random.
    pub(crate) fn sign_in(&self, now: Timestamp, nonce: [u8; 16]) -> Session {
        self.session((now + SESSION_LIFE).micros() / 1_000_000, &hex(&nonce))
    }

    /// The session that a cookie holds, unless it is not ours or has ended.
    pub(crate) fn recognise(&self, cookie: &str, now: Timestamp) -> Option<Session> {
        let (end, nonce) = cookie.rsplit_once('.')?.0.split_once('.')?;
        let end: i64 = end.parse().ok()?;
        let session = self.session(end, nonce);
        (same(&session.sealed, cookie) && Timestamp::from_secs(end) > now).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn token(text: &str) -> Token {
        Token::new(text).unwrap()
    }

    #[test]
    fn short_or_strange_tokens_are_refused() {
        for (text, good) in [(GOOD, true), ("0123456789abcde", false), ("with spaces in it ok", false), ("", false)] {
            assert_eq!(Token::new(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn only_the_token_is_the_token() {
        for (given, expected) in [(GOOD, true), ("", false), ("0123456789abcdeF", false), ("0123456789abcdef0", false)]
        {
            assert_eq!(token(GOOD).is(given), expected, "{given:?}");
        }
    }

    #[test]
    fn a_session_holds_until_its_end_and_only_under_its_token() {
        let now = Timestamp::from_secs(1_000);
        let session = token(GOOD).sign_in(now, [7; 16]);
        let cookie = session.sealed.as_str();
        assert_eq!(token(GOOD).recognise(cookie, now), Some(session.clone()));
        let last = now + SESSION_LIFE - Duration::from_secs(1);
        assert_eq!(token(GOOD).recognise(cookie, last), Some(session.clone()));
        assert_eq!(token(GOOD).recognise(cookie, now + SESSION_LIFE), None);
        assert_eq!(token("another-token-of-16").recognise(cookie, now), None);
        assert_ne!(session.csrf, token(GOOD).sign_in(now, [8; 16]).csrf);
    }

    #[test]
    fn a_changed_session_is_none() {
        let now = Timestamp::from_secs(1_000);
        let sealed = token(GOOD).sign_in(now, [7; 16]).sealed;
        let later = sealed.replacen("2593000", "9999999999", 1);
        assert_ne!(later, sealed);
        for cookie in [later.as_str(), "", ".", "..", "a.b.c", &sealed[1..], &sealed[..sealed.len() - 1]] {
            assert_eq!(token(GOOD).recognise(cookie, now), None, "{cookie}");
        }
    }

    #[test]
    fn a_missing_or_poor_token_file_is_said_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let fault = Token::read(&file).err().unwrap();
        assert_eq!(fault.reason, reason::SETTING_MISSING);
        assert!(fault.message.contains(&file.display().to_string()), "{fault}");
        std::fs::write(&file, "short\n").unwrap();
        assert_eq!(Token::read(&file).err().unwrap().code, Code::InvalidArgument);
        std::fs::write(&file, format!("{GOOD}\n")).unwrap();
        assert!(Token::read(&file).unwrap().is(GOOD));
    }
}
