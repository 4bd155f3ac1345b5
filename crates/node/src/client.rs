//! Questions and orders to a running node, from another process.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use futures::Stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde::Deserialize;
use tandem_types::{Code, Fault, GroupName, reason};
use tokio::net::UnixStream;

use crate::http::{Answer, send, whole};
use crate::layout::Layout;
use crate::status::{Event, Happening, LinkStatus, NodeStatus};

/// How long a node has to answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Speaks with the node of a data directory.
#[derive(Debug, Clone)]
pub struct Control {
    socket: PathBuf,
}

/// A line of the event stream.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Event),
    Status(Box<NodeStatus>),
}

impl Control {
    /// Of the node of this data directory.
    pub fn new(layout: &Layout) -> Self {
        Self { socket: layout.socket() }
    }

    /// How the node is doing.
    ///
    /// # Errors
    /// `unavailable` with reason `peer_away` when no node runs.
    pub async fn status(&self) -> Result<NodeStatus, Fault> {
        let answer = self.ask(Method::GET, "/status").await?;
        serde_json::from_slice(&answer.body).map_err(|e| unreadable(&e))
    }

    /// What the node and the others of its fleet tell each other.
    ///
    /// # Errors
    /// As [`Control::status`].
    pub async fn link(&self) -> Result<LinkStatus, Fault> {
        let answer = self.ask(Method::GET, "/link").await?;
        serde_json::from_slice(&answer.body).map_err(|e| unreadable(&e))
    }

    /// Tells the node to end; answers when the end has begun.
    pub async fn down(&self) -> Result<(), Fault> {
        self.ask(Method::POST, "/down").await.map(drop)
    }

    /// Ends a group and starts it again.
    pub async fn restart(&self, group: &GroupName) -> Result<(), Fault> {
        self.ask(Method::POST, &format!("/groups/{group}/restart")).await.map(drop)
    }

    /// Forgets a group's failures and starts it if it does not run.
    pub async fn clear(&self, group: &GroupName) -> Result<(), Fault> {
        self.ask(Method::POST, &format!("/groups/{group}/clear")).await.map(drop)
    }

    /// The present picture, and everything that happens after it until the node has ended.
    pub async fn events(&self) -> Result<(NodeStatus, impl Stream<Item = Event> + Send + use<>), Fault> {
        let response = self.send(Method::GET, "/events").await?;
        let mut lines = Lines { body: response.into_body(), read: BytesMut::new() };
        let Some(Line::Status(status)) = lines.next().await else {
            return Err(Fault::unavailable(reason::PEER_AWAY, "the node ended"));
        };
        let events = futures::stream::unfold((lines, Vec::new()), |(mut lines, mut queue)| async move {
            loop {
                if let Some(event) = queue.pop() {
                    return Some((event, (lines, queue)));
                }
                match lines.next().await? {
                    Line::Event(event) => return Some((event, (lines, queue))),
                    // This follower fell behind: the whole picture stands for what it missed.
                    Line::Status(status) => {
                        let group = |g| Event { at_ms: 0, what: Happening::Group(Box::new(g)) };
                        queue = status.groups.into_iter().rev().map(group).collect();
                    }
                }
            }
        });
        Ok((*status, events))
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Answer, Fault> {
        let asked = async { whole(self.send(method, path).await?).await };
        let answer = tokio::time::timeout(ANSWER_LIMIT, asked).await.map_err(|_| {
            let message = format!("the node did not answer within {} s", ANSWER_LIMIT.as_secs());
            Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message)
        })??;
        if answer.status == 200 {
            return Ok(answer);
        }
        let refused = serde_json::from_slice::<Fault>(&answer.body);
        Err(refused.unwrap_or_else(|_| Fault::internal(format!("the node answered {} to {path}", answer.status))))
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response<Incoming>, Fault> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| match e.kind() {
            // What a node that has ended or died leaves: nothing, or a socket that nobody listens at.
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Fault::unavailable(reason::PEER_AWAY, "no node runs here; `tandem up` starts it")
            }
            _ => {
                let message = format!("cannot reach the node at {}: {e}", self.socket.display());
                Fault::unavailable(reason::PEER_AWAY, message)
            }
        })?;
        send(stream, "tandem", method, path).await
    }
}

fn unreadable(e: &serde_json::Error) -> Fault {
    Fault::internal(format!("the node's status cannot be read: {e}; is it of another version?"))
}

struct Lines {
    body: Incoming,
    read: BytesMut,
}

impl Lines {
    /// The next line that can be read; none when the stream has ended.
    async fn next(&mut self) -> Option<Line> {
        loop {
            while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                if let Ok(line) = serde_json::from_slice(&line) {
                    return Some(line);
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}
