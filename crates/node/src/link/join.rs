//! Becoming and staying a member.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tandem_contract::pb::tandem::link::v1 as pb;
use tandem_contract::{Call, Channel, Client, rpc};
use tandem_trust::{Admission, FleetId, Folder, Founder, Invitation, JoinRequest, Joining, Member, Secret};
use tandem_types::{Code, Fault, NodeName, Timestamp, reason};

use super::desk::{Hello, LINK_VERSION};
use super::{Link, state, wire};
use crate::layout::Layout;

/// How often it is looked whether a certificate is due.
const LOOK: Duration = Duration::from_secs(60);
/// How often a founder that does not answer is asked.
const TRIES: u32 = 4;
/// Time between two of these.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// How long the founder has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs what reads and writes files where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Fault::internal(format!("work on the fleet's certificates broke: {e}"))))
}

fn admission_to_wire(admission: Admission) -> pb::Admission {
    let Admission { fleet, chain, crl } = admission;
    pb::Admission { fleet: fleet.to_string(), chain, crl, ..Default::default() }
}

fn admission_of_wire(admission: &pb::Admission) -> Result<Admission, Fault> {
    let fleet = FleetId::new(admission.fleet.clone())?;
    Ok(Admission { fleet, chain: admission.chain.clone(), crl: admission.crl.clone() })
}

/// Answers whoever wants to join.
pub(super) async fn admit(link: Link, request: pb::JoinRequest) -> Result<pb::JoinResponse, Fault> {
    let hello = wire::hello_of_wire(&request.hello)?;
    let config = &link.shared.config;
    if hello.link_version != LINK_VERSION {
        let message = format!(
            "{} speaks version {LINK_VERSION} of the link, this machine version {}: install the same Tandem on both",
            config.node, hello.link_version
        );
        return Err(Fault::new(Code::FailedPrecondition, reason::PLAN_DIFFERS, message));
    }
    if !request.fleet_file.is_empty() && hello.plan_hash != config.plan_hash {
        let message = state::files_differ(&request.fleet_file, Some(&config.fleet_file), &config.node);
        let message = format!("{message}; copy the file of {} to this machine, then join again", config.node);
        return Err(Fault::new(Code::FailedPrecondition, reason::PLAN_DIFFERS, message));
    }
    let secret: [u8; 32] =
        request.secret.as_slice().try_into().map_err(|_| Fault::invalid_field("secret", "is not 32 bytes"))?;
    let (folder, node) = (config.trust.clone(), hello.node.clone());
    let asked = JoinRequest { secret: Secret::new(secret), csr: request.csr, node: hello.node };
    let admission = blocking(move || Founder::open(&Folder::open(folder)?)?.admit(&asked, SystemTime::now()))
        .await
        .inspect_err(|fault| tracing::warn!(%node, %fault, "a machine that wants to join is turned away"))?;
    tracing::info!(%node, "joined the fleet");
    let trust = link.shared.trust.clone();
    blocking(move || {
        trust.look();
        Ok(())
    })
    .await?;
    let fleet_file = config.fleet_file.clone();
    Ok(pb::JoinResponse { admission: admission_to_wire(admission).into(), fleet_file, ..Default::default() })
}

/// Answers a member whose certificate is due. The request is signed by the member's key, which is all that counts.
pub(super) async fn renew(link: Link, request: pb::RenewRequest) -> Result<pb::RenewResponse, Fault> {
    let folder = link.shared.config.trust.clone();
    let admission =
        blocking(move || Founder::open(&Folder::open(folder)?)?.renew(&request.csr, SystemTime::now())).await?;
    Ok(pb::RenewResponse { admission: admission_to_wire(admission).into(), ..Default::default() })
}

/// Joins the fleet of an invitation as one of its nodes. The founder's fleet file goes to its place in `layout`. `own` is the fleet
/// file that this machine means to run, with its hash: it has to mean the same as the founder's.
///
/// # Errors
/// What is wrong with the invitation; the founder that cannot be reached, at each of its addresses; the founder's refusal. Nothing
/// has changed on this machine then.
pub async fn join(
    layout: Layout,
    invitation: Invitation,
    program_version: &str,
    own: Option<(&str, &str)>,
) -> Result<Member, Fault> {
    let now = SystemTime::now;
    let (founder, addresses) = (invitation.founder.clone(), invitation.addresses.clone());
    let hello = Hello {
        node: invitation.node.clone(),
        link_version: LINK_VERSION,
        program_version: program_version.to_owned(),
        plan_hash: own.map(|(_, hash)| hash.to_owned()).unwrap_or_default(),
        sent: Timestamp::from(now()),
    };
    let (config, name) = (invitation.client_config(&[b"h2"])?, invitation.server_name()?);
    let trust = layout.trust();
    let joining = blocking(move || Joining::new(&Folder::open(trust)?, invitation, now())).await?;
    let asked = joining.request()?;
    let request = pb::JoinRequest {
        hello: wire::hello_to_wire(&hello).into(),
        secret: asked.secret.expose().to_vec(),
        csr: asked.csr,
        fleet_file: own.map(|(file, _)| file.to_owned()).unwrap_or_default(),
        ..Default::default()
    };
    let channel = Channel::guest(config, name);
    let ask = move |client: Client, call: Call| {
        let request = request.clone();
        async move { client.unary(rpc::link::JOIN, request, &call).await }.boxed()
    };
    let mut tries = 1;
    let response = loop {
        match at_any(&founder, addresses.clone(), channel.clone(), &ask).await {
            // A founder that has just been told of the invitation begins to listen within a second.
            Err(fault) if fault.reason == reason::PEER_AWAY && tries < TRIES => tries += 1,
            answer => break answer?,
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    };
    let admission = admission_of_wire(&response.admission)?;
    blocking(move || {
        // A member without the fleet's file could not be told apart from one of another fleet; the file alone does no harm.
        layout.keep_fleet(&response.fleet_file)?;
        joining.finish(&admission, now())
    })
    .await
}

/// Asks the founder at each of its addresses until one answers; a refusal is an answer.
async fn at_any<T>(
    founder: &NodeName,
    addresses: Vec<String>,
    channel: Channel,
    ask: impl Fn(Client, Call) -> BoxFuture<'static, Result<T, Fault>> + Send,
) -> Result<T, Fault> {
    let mut silent = Vec::new();
    for address in addresses {
        let uri = format!("https://{address}");
        let uri = uri.parse().map_err(|_| Fault::invalid_field("address", format!("`{address}` cannot be called")))?;
        let call = Call::default().within(PATIENCE, std::time::Instant::now());
        match ask(Client::new(channel.clone(), uri), call).await {
            Err(fault) if matches!(fault.code, Code::Unavailable | Code::DeadlineExceeded) => {
                silent.push(format!("{address}: {}", fault.message));
            }
            answer => return answer,
        }
    }
    let message = format!(
        "{founder} does not answer ({}); is its node running (`tandem up` there), and this machine in its network?",
        silent.join("; ")
    );
    Err(Fault::unavailable(reason::PEER_AWAY, message))
}

/// Keeps this node's certificate and its list of revoked ones good; never ends by itself.
pub(super) async fn stay_valid(link: Link) {
    let mut news = link.shared.trust.news();
    let mut told = String::new();
    loop {
        news.borrow_and_update();
        if link.shared.trust.is_there() {
            match refresh(&link).await {
                Ok(()) => told.clear(),
                Err(fault) if fault.message == told => {}
                Err(fault) => {
                    tracing::warn!(%fault, "this node's certificate could not be renewed");
                    told = fault.message;
                }
            }
        }
        tokio::select! {
            // The sender lives in the link, so that waiting cannot fail.
            Ok(()) | Err(_) = news.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn refresh(link: &Link) -> Result<(), Fault> {
    let folder = Folder::open(link.shared.config.trust.clone())?;
    let reading = folder.clone();
    let (crl, fleet) = blocking(move || Ok((reading.crl()?, reading.need_fleet()?))).await?;
    *link.shared.crl.lock().unwrap_or_else(PoisonError::into_inner) = (crl.number, crl.der);
    let now = SystemTime::now();
    if fleet.is_founder() {
        return blocking(move || Founder::open(&folder)?.renew_own(now).map(drop)).await;
    }
    let member = folder.clone();
    let Some(csr) = blocking(move || Member::open(&member)?.renewal(now)).await? else { return Ok(()) };
    let identity = link.shared.trust.identity().ok_or_else(|| Fault::internal("this node's identity is gone"))?;
    let channel = Channel::guest(identity.renewing_config(&[b"h2"])?, identity.server_name(&fleet.founder)?);
    let addresses = founder_addresses(link, &fleet.founder, &fleet.addresses);
    let response = at_any(&fleet.founder, addresses, channel, move |client, call| {
        let request = pb::RenewRequest { csr: csr.clone(), ..Default::default() };
        async move { client.unary(rpc::link::RENEW, request, &call).await }.boxed()
    })
    .await?;
    let admission = admission_of_wire(&response.admission)?;
    blocking(move || Member::open(&folder)?.renewed(&admission.chain, &admission.crl, SystemTime::now())).await?;
    tracing::info!("this node's certificate is renewed");
    Ok(())
}

/// Where the founder is by the fleet file, then where it was when this node joined.
fn founder_addresses(link: &Link, founder: &NodeName, known: &[String]) -> Vec<String> {
    let planned = link.shared.config.peers.iter().find(|(node, _)| node == founder);
    let planned = planned.into_iter().flat_map(|(_, plan)| std::iter::once(plan.overlay).chain(plan.lan));
    let mut all: Vec<String> = planned.map(|address: SocketAddr| address.to_string()).collect();
    all.extend(known.iter().filter(|address| !all.contains(address)).cloned().collect::<Vec<_>>());
    all
}

/// A peer has a newer list of revoked certificates.
pub(super) fn take_crl(link: Link, crl: Vec<u8>) {
    let folder = link.shared.config.trust.clone();
    // It ends by itself within a write to disk; the list comes again should the process end before.
    tokio::spawn(async move {
        let taken = blocking(move || Member::open(&Folder::open(folder)?)?.take_crl(&crl).map(drop)).await;
        match taken {
            Ok(()) => tracing::info!("took a newer list of revoked certificates"),
            Err(fault) => tracing::warn!(%fault, "a peer's list of revoked certificates is refused"),
        }
    });
}
