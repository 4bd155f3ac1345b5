//! The calling side: each peer over each path, each second and whenever something changes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tandem_contract::pb::tandem::link::v1 as pb;
use tandem_contract::{Call, Channel, Client, rpc};
use tandem_link::Moment;
use tandem_types::{Code, Fault, NodeName};

use super::desk::{Desk, Path};
use super::{Link, wire};

/// Time between two words to a peer while nothing changes.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// How long a peer has to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Changes that come in a burst go together.
pub(super) const BURST: Duration = Duration::from_millis(20);
/// After a word that took as long as it may, the next one waits for so long.
const LEAST: Duration = Duration::from_millis(100);

/// How long to wait after a word that took so long. One that waited in vain for an answer has spent its period: the next
/// follows soon, so that a way that works again is found within a good second.
pub(super) fn rest(took: Duration) -> Duration {
    PERIOD.saturating_sub(took).max(LEAST)
}

/// Whether news are told over this path at once, rather than with the next word: one path is enough.
pub(super) fn carries(desk: &Desk, node: &NodeName, path: Path, now: Moment) -> bool {
    path == Path::Overlay || !desk.overlay_works(node, now)
}

/// Tells a peer what is new over one path; never ends by itself.
pub(super) async fn keep(link: Link, node: NodeName, path: Path, address: SocketAddr) {
    let mut client: Option<Client> = None;
    let mut told = link.shared.told.subscribe();
    loop {
        told.borrow_and_update();
        let began = Instant::now();
        if link.shared.trust.has_peers() {
            match exchange(&link, &node, path, address, &mut client).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(fault) => {
                    // What the network did to a connection does not mend; a new one finds the way as it is now.
                    client = None;
                    let why = match fault.code {
                        Code::DeadlineExceeded => format!("no answer within {} s", PATIENCE.as_secs()),
                        _ => fault.message,
                    };
                    link.desk().failed(&node, path, why);
                    link.shared.learned.send_modify(|count| *count += 1);
                }
            }
        }
        let carries = carries(&link.desk(), &node, path, link.shared.began.elapsed());
        wait(carries, rest(began.elapsed()), &mut told).await;
    }
}

/// Until the next word is due, or there are news and they are to go this way.
async fn wait(carries: bool, rest: Duration, told: &mut tokio::sync::watch::Receiver<u64>) {
    let news = async {
        // The sender lives in the link, so that waiting cannot fail.
        let (Ok(()) | Err(_)) = told.changed().await;
        tokio::time::sleep(BURST).await;
    };
    tokio::select! {
        () = news, if carries => {}
        () = tokio::time::sleep(rest) => {}
    }
}

/// One exchange; whether there is more to say at once.
async fn exchange(
    link: &Link,
    node: &NodeName,
    path: Path,
    address: SocketAddr,
    client: &mut Option<Client>,
) -> Result<bool, Fault> {
    // The first answer on a connection takes as long as it takes to make the connection.
    let stood = client.is_some();
    let client = match client {
        Some(client) => client,
        None => {
            let uri = format!("https://{address}");
            let uri = uri.parse().map_err(|e| Fault::internal(format!("`{uri}` is not an address to call: {e}")))?;
            client.insert(Client::new(Channel::fleet(link.shared.trust.clone()), uri))
        }
    };
    let request = pb::ExchangeRequest { telling: wire::to_wire(link.tell(node)?).into(), ..Default::default() };
    let asked = Instant::now();
    let call = Call::default().within(PATIENCE, asked);
    let response = client.unary(rpc::link::EXCHANGE, request, &call).await?;
    let took = asked.elapsed();
    let telling = wire::of_wire(&response.telling)?;
    if telling.hello.node != *node {
        return Err(Fault::internal(format!("{} answers at the address of {node}", telling.hello.node)));
    }
    if stood {
        link.desk().answered(node, path, took);
    }
    Ok(link.heard(telling, path))
}
