//! The screen of Tandem in the browser, and the API for programs.
//!
//! Opens the outside door of the fleet and keeps it open: the page, the page's calls, and the OpenAI-compatible API, all of
//! which live in `tandem-gateway`.

mod logic;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started};
use tandem_gateway::{Gateway, Settings as Door};
use tandem_types::{Code, Fault, reason};

use crate::draining::draining;

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "UnifiedWebAgent",
    about: "Serves the page to people's browsers and an OpenAI-compatible API to their programs.",
    provides: &[],
    needs: &[],
    uses: &[
        // A need once there is one: without it the door knows a token and one owner, and does not wait for it.
        "AuthenticationAgent",
        "RequestCoordinator",
        "SessionMemoryAgent",
        "ModelManagerSuite",
        "ObservabilityHub",
        "UnifiedSystemAgent",
    ],
    roles: &[],
    publishes: &[],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings of the agent in the fleet file. Where to listen, and the token, are the fleet's own: `[web]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Names besides `localhost` by which people reach the page, for example `mainpc.lan`.
    names: Vec<String>,
    /// A stream of the API that is silent this long gets a sign of life.
    keep_alive_ms: u64,
    /// Longest time an answer of the API may take.
    turn_limit_ms: u64,
    /// Connections at once; more wait.
    most_connections: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { names: vec![], keep_alive_ms: 10_000, turn_limit_ms: 600_000, most_connections: 256 }
    }
}

/// How often the health is looked at when nothing was heard.
const LOOK: Duration = Duration::from_secs(30);
/// Groups start side by side: for so long others may still be starting without being missed.
const BEGINNING: Duration = Duration::from_secs(5);

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    let web = ctx.fleet().web.clone();
    if web.listen.is_empty() {
        ctx.health().unavailable("the fleet file has no [web], so there is no page");
        return Ok(Started::default());
    }
    let listen: SocketAddr = web.listen.parse().map_err(|_| {
        let message =
            format!("`listen` under [web] is `{}`; write an IP address and a port: 127.0.0.1:8280", web.listen);
        Fault::new(Code::InvalidArgument, reason::BAD_ADDRESS, message)
    })?;
    let door = Door {
        listen,
        token_file: web.token_file,
        names: settings.names,
        keep_alive: Duration::from_millis(settings.keep_alive_ms.max(1)),
        turn_limit: Duration::from_millis(settings.turn_limit_ms),
        most_connections: settings.most_connections.max(1),
    };
    let gateway = Gateway::open(&ctx, door).await?;
    ctx.spawn(watch(ctx.clone()));
    let (ending, closing) = (draining(&ctx), gateway.clone());
    ctx.spawn(async move {
        ending.await;
        closing.begin_close();
    });
    Ok(Started::default().on_drain(move || {
        let gateway = gateway.clone();
        async move {
            gateway.close().await;
            Ok(())
        }
    }))
}

/// Says what the page lacks, whenever something is heard of an agent.
async fn watch(ctx: Ctx) {
    let mut news = ctx.peers().news();
    let begun = Instant::now();
    loop {
        let beginning = BEGINNING.saturating_sub(begun.elapsed());
        let servers = logic::OFFERS.iter().map(|(path, offer)| {
            let server = ctx.peers().providers(path).into_iter().next();
            (*offer, server.map(|provider| (provider.agent.to_string(), provider.state)))
        });
        let missing = logic::missing(servers, !beginning.is_zero());
        if missing.is_empty() {
            ctx.health().ready()
        } else {
            ctx.health().degraded(missing)
        }
        // The look now and then keeps this going should nothing ever be heard.
        let look = if beginning.is_zero() { LOOK } else { beginning };
        let _ = tokio::time::timeout(look, news.changed()).await;
    }
}
