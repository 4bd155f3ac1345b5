//! Real handshakes between machines that are loopback addresses.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::middleware::from_fn;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use tandem_trust::{Founder, Joining};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::{CALLER_HEADER, Channel, Client};

const FOUNDER: [u8; 4] = [127, 0, 0, 2];
const MEMBER: [u8; 4] = [127, 0, 0, 3];

/// A founder, and a member that it admitted.
struct Fleet {
    folders: [TempDir; 2],
}

impl Fleet {
    fn new() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let now = SystemTime::now();
        let open = |i: usize| Folder::open(folders[i].path().join("trust")).unwrap();
        let founder = Founder::init(&open(0), "home", &"mainpc".parse().unwrap(), now).unwrap();
        let addresses = ["127.0.0.2:8300".to_owned()];
        let invitation = founder.invite(&"pc2".parse().unwrap(), Duration::from_secs(60), &addresses, now).unwrap();
        let joining = Joining::new(&open(1), invitation, now).unwrap();
        joining.finish(&founder.admit(&joining.request().unwrap(), now).unwrap(), now).unwrap();
        Self { folders }
    }

    fn trust(&self, i: usize) -> Trust {
        let nodes = [(FOUNDER, "mainpc"), (MEMBER, "pc2")].map(|(ip, node)| (IpAddr::from(ip), node.parse().unwrap()));
        Trust::new(self.folders[i].path().join("trust"), nodes)
    }
}

/// Serves at the founder's address, saying to whoever calls who it is.
async fn served(trust: Trust, only_members: bool) -> String {
    let tcp = TcpListener::bind(SocketAddr::from((FOUNDER, 0))).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let who = |ConnectInfo(remote): ConnectInfo<Remote>| async move {
        remote.node.map_or("nobody".to_owned(), |node| node.to_string())
    };
    let routes = Router::new().route("/who", get(who));
    let routes = if only_members { routes.layer(from_fn(members_only)) } else { routes };
    let listener = SecureListener::new(tcp, trust, only_members).unwrap();
    tokio::spawn(async move { axum::serve(listener, routes.into_make_service_with_connect_info::<Remote>()).await });
    format!("https://{address}")
}

/// What is answered, or how it was refused.
async fn ask(channel: &Channel, base: &str, caller: Option<&str>) -> Result<(u16, String), String> {
    let client = Client::new(channel.clone(), base.parse().unwrap());
    let request = Request::get("/who");
    let request = match caller {
        Some(caller) => request.header(CALLER_HEADER, caller),
        None => request,
    };
    let answer = client.forward(request.body(Bytes::new()).unwrap()).await.map_err(|fault| fault.message)?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test]
async fn a_member_is_known_by_its_certificate_and_speaks_only_for_itself() {
    let fleet = Fleet::new();
    let base = served(fleet.trust(0), true).await;
    let channel = Channel::fleet(fleet.trust(1));
    assert_eq!(ask(&channel, &base, None).await, Ok((200, "pc2".into())));
    assert_eq!(ask(&channel, &base, Some("pc2/memory_stack/ContextManager")).await.unwrap().0, 200);
    assert_eq!(ask(&channel, &base, Some("cli")).await.unwrap().0, 200);
    for other in ["mainpc/coordination/RequestCoordinator", "RequestCoordinator"] {
        let (status, _) = ask(&channel, &base, Some(other)).await.unwrap();
        assert_ne!(status, 200, "it may not speak as {other}");
    }
}

#[tokio::test]
async fn whoever_is_no_member_does_not_come_in() {
    let fleet = Fleet::new();
    let base = served(fleet.trust(0), true).await;
    let other = Fleet::new();
    assert!(ask(&Channel::fleet(other.trust(1)), &base, None).await.is_err(), "of another fleet");
    let identity = fleet.trust(1).identity().unwrap();
    let name = identity.server_name(&"mainpc".parse().unwrap()).unwrap();
    let guest = Channel::guest(identity.renewing_config(&[H2]).unwrap(), name);
    assert!(ask(&guest, &base, None).await.is_err(), "without a certificate");
    let open = served(fleet.trust(0), false).await;
    assert_eq!(ask(&guest, &open, None).await, Ok((200, "nobody".into())));
    let alone = tempfile::tempdir().unwrap();
    let nowhere = Trust::new(alone.path().join("trust"), []);
    let fault = ask(&Channel::fleet(nowhere), &base, None).await.unwrap_err();
    assert!(fault.contains("has not joined the fleet"), "{fault}");
    assert!(ask(&Channel::network(), &base, None).await.is_err());
}

#[tokio::test]
async fn a_connection_ends_when_its_node_is_shut_out() {
    let fleet = Fleet::new();
    let trust = fleet.trust(0);
    let base = served(trust.clone(), true).await;
    let channel = Channel::fleet(fleet.trust(1));
    assert_eq!(ask(&channel, &base, None).await, Ok((200, "pc2".into())));
    assert!(trust.has_peers());
    let folder = Folder::open(fleet.folders[0].path().join("trust")).unwrap();
    Founder::open(&folder).unwrap().revoke(&"pc2".parse().unwrap(), SystemTime::now()).unwrap();
    let mut news = trust.news();
    trust.look();
    assert!(news.has_changed().unwrap() && !trust.has_peers());
    news.borrow_and_update();
    trust.look();
    assert!(!news.has_changed().unwrap(), "nothing has changed since");
    assert!(ask(&channel, &base, None).await.is_err());
    // Over a new connection it is told why.
    let fault = ask(&channel, &base, None).await.unwrap_err();
    assert!(fault.contains("revoked"), "{fault}");
}
