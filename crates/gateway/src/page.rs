//! The page, embedded into the program.

use std::collections::HashMap;
use std::io::Write as _;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use rust_embed::{Embed, EmbeddedFile};

/// Files of the built page. A build without it fails; see `build.rs`.
#[derive(Embed)]
#[folder = "../../web/dist"]
struct Dist;

const INDEX: &str = "index.html";

/// One file as it is sent.
struct File {
    kind: &'static str,
    plain: Bytes,
    /// Smaller, for kinds that shrink.
    gzip: Option<Bytes>,
    /// SHA-256 of the file.
    hash: String,
}

/// The files of the page, ready to be sent.
pub(crate) struct Page {
    files: HashMap<String, File>,
}

/// Media type by the end of the name, and whether the kind shrinks; none for what is not part of the page.
fn kind(name: &str) -> Option<(&'static str, bool)> {
    Some(match name.rsplit_once('.')? {
        ("", _) => return None,
        (_, "html") => ("text/html; charset=utf-8", true),
        (_, "js") => ("text/javascript; charset=utf-8", true),
        (_, "css") => ("text/css; charset=utf-8", true),
        (_, "svg") => ("image/svg+xml", true),
        (_, "json") => ("application/json", true),
        (_, "txt") => ("text/plain; charset=utf-8", true),
        (_, "webmanifest") => ("application/manifest+json", true),
        (_, "png") => ("image/png", false),
        (_, "webp") => ("image/webp", false),
        (_, "woff2") => ("font/woff2", false),
        _ => return None,
    })
}

fn gzip(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).ok()?;
    let packed = encoder.finish().ok()?;
    (packed.len() < plain.len()).then(|| packed.into())
}

fn file(name: &str, embedded: EmbeddedFile) -> Option<File> {
    let (kind, shrinks) = kind(name)?;
    let plain = match embedded.data {
        std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        std::borrow::Cow::Owned(bytes) => bytes.into(),
    };
    let hash = embedded.metadata.sha256_hash().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(File { kind, gzip: if shrinks { gzip(&plain) } else { None }, plain, hash })
}

/// Whether a browser goes to an address, rather than fetching a part of a page.
fn is_navigation(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => text("accept").is_some_and(|accept| accept.contains("text/html")),
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim().eq_ignore_ascii_case("gzip") && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given
        .flat_map(|line| line.split(','))
        .any(|known| matches!(known.trim(), "*") || known.trim().trim_start_matches("W/") == tag)
}

impl Page {
    /// Packs the files once.
    pub(crate) fn open() -> Self {
        let files = Dist::iter().filter_map(|name| Some((name.to_string(), file(&name, Dist::get(&name)?)?))).collect();
        Self { files }
    }

    fn find(&self, path: &str, headers: &HeaderMap) -> Option<&File> {
        let name = match path.trim_start_matches('/') {
            "" => INDEX,
            name => name,
        };
        // Addresses of views are the page's own business; parts of it that are not there are missing.
        self.files.get(name).or_else(|| is_navigation(headers).then(|| self.files.get(INDEX)).flatten())
    }

    /// The file at `path`. Names stay from build to build, so a browser asks each time whether it has changed.
    pub(crate) fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
        let file = self.find(path, headers)?;
        let packed = file.gzip.as_ref().filter(|_| accepts_gzip(headers));
        let tag = format!("\"{}{}\"", &file.hash[..32], if packed.is_some() { "-gz" } else { "" });
        let body = packed.unwrap_or(&file.plain);
        let mut response = if knows(headers, &tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let bytes = if method == Method::HEAD { Bytes::new() } else { body.clone() };
            let mut full = Body::from(bytes).into_response();
            full.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
            full.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            if packed.is_some() {
                full.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            full
        };
        let answer = response.headers_mut();
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        answer.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            answer.insert(header::ETAG, tag);
        }
        Some(response)
    }
}
