//! Plain HTTP for tests that speak as a program outside would.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// `GET base/path`: status and body.
pub async fn get(base: &str, path: &str) -> (u16, String) {
    send(base, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
}

/// `POST base/path` with a JSON body: status and body.
pub async fn post_json(base: &str, path: &str, body: &str) -> (u16, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    send(base, &(head + body)).await
}

async fn send(base: &str, request: &str) -> (u16, String) {
    let address = base.trim_start_matches("http://");
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the server listens");
    socket.write_all(request.as_bytes()).await.expect("the server reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("the server answers");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, body.to_owned())
}
