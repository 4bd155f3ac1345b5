//! GET over HTTP/1.1, with an end.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Largest page that is read.
const LARGEST: usize = 8 * 1024 * 1024;

/// Fetches pages; keeps one connection to each address.
#[derive(Clone)]
pub(super) struct Http(Client<HttpConnector, Empty<Bytes>>);

impl Http {
    pub(super) fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build_http())
    }

    /// The page at `base` and `path`, whatever its status.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) async fn get(&self, base: &str, path: &str, within: Duration) -> Result<(StatusCode, Bytes), String> {
        let url = format!("{}{path}", base.trim_end_matches('/'));
        let uri: Uri = url.parse().map_err(|e| format!("{url} is no address: {e}"))?;
        let fetch = async {
            let response = self.0.get(uri).await.map_err(|e| chain(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|e| chain(&*e))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(within, fetch).await.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
    }
}

/// The innermost cause, which is the one that says something: `connection refused`.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
