//! Fetches a file from the model hub over HTTPS, going on where an earlier attempt broke off.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::model::Model;
use super::options::PullOptions;
use super::partial::{Failed, Partial};
use super::progress::Meter;

/// The model hub that the catalogue's official sources live on; `TANDEM_HUB_URL` names another one.
pub(super) const HUB_URL: &str = "https://huggingface.co";

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
/// A connection that brings nothing for so long counts as broken.
const STALL: Duration = Duration::from_secs(30);

/// After an attempt that brought bytes, so many that bring none may follow.
const PATIENCE: u32 = 3;

/// Brings the rest of the file. A source that never brought a byte is given up at its first failure.
pub(super) fn fill(
    model: &Model,
    options: &PullOptions,
    partial: &mut Partial,
    meter: &Meter<'_>,
) -> Result<(), Failed> {
    let official = model.official.as_ref();
    let official = official.ok_or_else(|| Failed::Source(format!("the hub does not have {}", model.name)))?;
    let hub = options.hub_url.trim_end_matches('/');
    let url = format!("{hub}/{}/resolve/{}/{}", official.repo, official.revision, official.file);
    let agent = agent(&url);
    meter.progress.phase(&format!("fetching {} from {hub}", model.name));

    let mut patience = 0;
    while !partial.is_complete() {
        let before = partial.len();
        match attempt(&agent, &url, partial, meter) {
            Err(Failed::Source(why)) => {
                if partial.len() > before {
                    patience = PATIENCE;
                }
                if patience == 0 {
                    return Err(Failed::Source(why));
                }
                patience -= 1;
                meter.progress.phase(&format!("{why}; going on"));
                thread::sleep(options.retry_pause);
            }
            other => other?,
        }
    }
    Ok(())
}

/// One request for what is missing.
fn attempt(agent: &Agent, url: &str, partial: &mut Partial, meter: &Meter<'_>) -> Result<(), Failed> {
    let start = partial.len();
    let mut request = agent.get(url);
    if start > 0 {
        request = request.header(header::RANGE, format!("bytes={start}-"));
    }
    let response = request.call().map_err(|error| Failed::Source(format!("{url}: {error}")))?;
    check_size(&response, url, start, partial.size()).map_err(Failed::Source)?;
    if response.status() == StatusCode::OK && start > 0 {
        partial.restart().map_err(Failed::Disk)?;
        meter.restart();
    }
    partial.append(&mut response.into_body().into_reader(), url, meter)?;
    if partial.is_complete() {
        return Ok(());
    }
    Err(Failed::Source(format!("{url} ended after {} of {} bytes", partial.len(), partial.size())))
}

/// The answer must be the whole file or exactly the missing end of it.
fn check_size(response: &Response<Body>, url: &str, start: u64, size: u64) -> Result<(), String> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    match response.status() {
        StatusCode::OK => match header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length != size => Err(format!("{url} has {length} bytes, the catalogue says {size}")),
            _ => Ok(()),
        },
        StatusCode::PARTIAL_CONTENT => {
            let expected = format!("bytes {start}-{}/{size}", size - 1);
            match header(header::CONTENT_RANGE) {
                Some(range) if range == expected => Ok(()),
                other => Err(format!("{url} answered with range `{}`, not `{expected}`", other.unwrap_or("none"))),
            }
        }
        status => Err(format!("{url} answered {status}")),
    }
}

fn agent(url: &str) -> Agent {
    // The machine's own certificate store: it knows the authority of an office whose proxy looks into HTTPS.
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_send_request(Some(ANSWER))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(STALL));
    // A hub on this machine is never behind the proxy that the environment names.
    let config = if is_loopback(url) { config.proxy(None) } else { config };
    config.build().new_agent()
}

fn is_loopback(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
