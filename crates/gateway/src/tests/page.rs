//! The page as a browser gets it.

use sha2::{Digest as _, Sha256};
use std::path::Path;

use super::*;

async fn house() -> House {
    House::start(Rig::new(&DEF)).await
}

#[tokio::test]
async fn the_page_and_its_parts_are_served_with_strict_headers() {
    let house = house().await;
    let index = house.send("GET", "/", &[], "").await;
    for (name, expected) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(header(&index, name), expected);
    }
    let policy = header(&index, "content-security-policy").to_owned();
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let html = text(index).await;
    let parts: Vec<&str> = html.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert!(parts.len() >= 2, "the page has parts: {html}");
    for part in parts {
        assert_eq!(house.send("GET", part, &[], "").await.status(), 200, "{part}");
    }
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let house = house().await;
    for encoding in ["identity", "gzip, br"] {
        let first = house.send("GET", "/", &[("accept-encoding", encoding)], "").await;
        assert_eq!(header(&first, "content-encoding"), if encoding == "identity" { "" } else { "gzip" });
        let tag = header(&first, "etag").to_owned();
        let again = [("accept-encoding", encoding), ("if-none-match", tag.as_str())];
        let again = house.send("GET", "/", &again, "").await;
        assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, tag.as_str()));
    }
    let tags: Vec<String> = [house.send("GET", "/", &[], "").await, house.send("GET", "/assets/app.js", &[], "").await]
        .iter()
        .map(|response| header(response, "etag").to_owned())
        .collect();
    assert_ne!(tags[0], tags[1]);
}

#[tokio::test]
async fn a_packed_part_unpacks_to_itself() {
    let house = house().await;
    let plain = house.send("GET", "/assets/app.js", &[], "").await.into_body().collect().await.unwrap().to_bytes();
    let packed = house.send("GET", "/assets/app.js", &[("accept-encoding", "gzip")], "").await;
    let length: usize = header(&packed, "content-length").parse().unwrap();
    let packed = packed.into_body().collect().await.unwrap().to_bytes();
    assert!(packed.len() == length && length < plain.len() / 2, "{length} of {}", plain.len());
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
    assert!(unpacked == plain);
}

#[tokio::test]
async fn only_navigation_falls_back_to_the_page() {
    let house = house().await;
    for (path, headers, status) in [
        ("/fleet", vec![("sec-fetch-mode", "navigate")], 200),
        ("/fleet", vec![("accept", "text/html,*/*")], 200),
        ("/fleet", vec![("accept", "*/*")], 404),
        ("/assets/gone.js", vec![("sec-fetch-mode", "no-cors")], 404),
        ("/.sources", vec![], 404),
        ("/../Cargo.toml", vec![], 404),
        ("/%2e%2e/Cargo.toml", vec![], 404),
    ] {
        assert_eq!(house.send("GET", path, &headers, "").await.status().as_u16(), status, "{path} {headers:?}");
    }
    let head = house.send("HEAD", "/", &[], "").await;
    assert!(header(&head, "content-length").parse::<usize>().unwrap() > 0);
    assert_eq!(text(head).await, "");
    assert_eq!(house.send("POST", "/", &[], "").await.status(), 405);
}

#[tokio::test]
async fn the_first_page_is_small() {
    let house = house().await;
    let mut bytes = 0;
    for path in ["/", "/assets/app.js", "/assets/app.css"] {
        let response = house.send("GET", path, &[("accept-encoding", "gzip")], "").await;
        bytes += response.into_body().collect().await.unwrap().to_bytes().len();
    }
    assert!(bytes <= 300 * 1024, "{bytes} bytes");
}

fn files_under(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() { files_under(&path, found) } else { found.push(path) }
    }
}

/// The rule is in `web/README.md`.
#[test]
fn the_built_page_belongs_to_its_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let web = ["buf.gen.yaml", "index.html", "package-lock.json", "package.json", "vite.config.ts"];
    let mut files: Vec<_> = web.iter().map(|name| root.join("web").join(name)).collect();
    for folder in ["web/public", "web/src"] {
        files_under(&root.join(folder), &mut files);
    }
    for package in ["common", "coordinator", "model", "session", "telemetry"] {
        files_under(&root.join("crates/contract/proto/tandem").join(package), &mut files);
    }
    let mut paths: Vec<&str> = files.iter().map(|file| file.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
    paths.sort_unstable();
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: String =
        paths.iter().map(|path| format!("{}  {path}\n", hex(&std::fs::read(root.join(path)).unwrap()))).collect();
    let noted = std::fs::read_to_string(root.join("web/dist/.sources")).expect("web/dist/.sources is checked in");
    assert_eq!(
        noted.trim(),
        hex(lines.as_bytes()),
        "web/dist was built from other sources; run `npm ci && npm run build` in web/ and commit web/dist"
    );
}
