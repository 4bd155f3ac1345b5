//! Waking a machine that sleeps.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tandem_contract::Call;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_types::{Code, Fault, NodeName, Violation, reason};
use tokio::net::UdpSocket;

use super::logic::{mac, magic_packet};
use super::{SystemHand, Wake};

/// How long a caller is taken to wait who does not say.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks whether the machine is up, and between two packets: one may get lost.
const LOOK: Duration = Duration::from_millis(500);

/// Every setting for waking that is wrong.
pub(super) fn check(wake: &BTreeMap<NodeName, Wake>) -> Result<(), Fault> {
    let mut wrong = Vec::new();
    for (node, how) in wake {
        let mut say = |field: &str, problem: &str| {
            wrong.push(Violation { field: format!("wake.{node}.{field}"), problem: problem.to_owned() });
        };
        if mac(&how.mac).is_none() {
            say("mac", "is no hardware address such as 0a:1b:2c:3d:4e:5f");
        }
        if how.broadcast.parse::<SocketAddr>().is_err() {
            say("broadcast", "is no address such as 192.168.1.255:9");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Fault::invalid(wrong)) }
}

impl SystemHand {
    /// Sends the packet until a group of the machine answers.
    pub(super) async fn wake_node(
        self: Arc<Self>,
        call: Call,
        request: pb::WakeNodeRequest,
    ) -> Result<pb::WakeNodeResponse, Fault> {
        let node: NodeName = request.node.parse().map_err(|e| Fault::invalid_field("node", format!("{e}")))?;
        if !self.ctx.fleet().nodes.iter().any(|known| known.name == node) {
            return Err(Fault::not_found(format!("the fleet file has no node {node}")));
        }
        let began = Instant::now();
        let answer = || pb::WakeNodeResponse { seconds: began.elapsed().as_secs_f32(), ..Default::default() };
        if self.is_up(&node).await {
            return Ok(answer());
        }
        let how = self.settings.wake.get(&node).ok_or_else(|| {
            Fault::new(
                Code::FailedPrecondition,
                reason::SETTING_MISSING,
                format!(
                    "{node} does not answer, and how to wake it is not known: set `wake.{node}.mac` among the settings of \
                     UnifiedSystemAgent in the fleet file to the hardware address of its network card"
                ),
            )
        })?;
        let left = Self::time_left(&call, PATIENCE);
        tokio::time::timeout(left, self.wake_until_up(&node, how)).await.unwrap_or_else(|_| {
            let message = format!(
                "{node} was sent the packet that wakes it and did not answer within {} s; it may take longer, or \
                 wake-on-LAN is off in its firmware",
                left.as_secs()
            );
            Err(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message))
        })?;
        Ok(answer())
    }

    async fn wake_until_up(&self, node: &NodeName, how: &Wake) -> Result<(), Fault> {
        let packet = mac(&how.mac).map(magic_packet);
        let packet =
            packet.ok_or_else(|| Fault::internal(format!("the hardware address of {node} was not checked")))?;
        let failed = |doing: &str, e: std::io::Error| {
            Fault::unavailable(reason::PEER_AWAY, format!("cannot {doing} to wake {node} by {}: {e}", how.broadcast))
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(|e| failed("open a socket", e))?;
        socket.set_broadcast(true).map_err(|e| failed("broadcast", e))?;
        loop {
            socket.send_to(&packet, &how.broadcast).await.map_err(|e| failed("send", e))?;
            tokio::time::sleep(LOOK).await;
            if self.is_up(node).await {
                return Ok(());
            }
        }
    }

    /// Whether any group of the machine answers.
    async fn is_up(&self, node: &NodeName) -> bool {
        let groups = self.built_groups().filter(|group| group.id.node == *node);
        join_all(groups.map(|group| self.health_of(&group.id, 0))).await.iter().any(Result::is_ok)
    }
}
