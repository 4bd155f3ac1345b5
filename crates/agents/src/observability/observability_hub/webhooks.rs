//! Tells addresses outside of alerts: once for each alert and state, in order, until they have it.
//!
//! What is to be told is on disk before it is tried. An address that does not take it is tried ever less often for a day;
//! what comes later for it waits. Redirects are not followed: they are not what the fleet file says.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::Uri;
use futures::future::join_all;
use metrics::counter;
use tandem_store::alerts::{Alert, AlertStore as _};
use tandem_store::deliveries::{Delivery, DeliveryStore as _, NewDelivery};
use tandem_store::paging::{MAX_SIZE, Page};
use tandem_types::Fault;
use tokio::sync::Notify;
use ureq::tls::{RootCerts, TlsConfig};

use super::logic::webhook::{Told, Webhook, again, body, signature};
use super::{Hub, lock};
use crate::fields::Fields;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most that waits for one address; the oldest give way.
const MOST: u32 = 1_000;
/// Most rounds of one run, so that a long queue does not keep the agent from its end.
const ROUNDS: usize = 100;
/// Tries in vain after which the hub says that it is poorer.
const MUTE: u32 = 3;

/// One address.
struct Hook {
    of: Webhook,
    secret: Option<Vec<u8>>,
    /// Address without what may be secret in it.
    shown: String,
}

/// The addresses, and the way to them.
pub(super) struct Outside {
    hooks: Vec<Hook>,
    http: ureq::Agent,
    /// There is something to send.
    pub(super) wake: Arc<Notify>,
    /// What was kept in this life, so that an alert that goes on costs no write each time.
    kept: Mutex<BTreeSet<String>>,
}

impl Outside {
    /// Checks the addresses and reads their secrets.
    ///
    /// # Errors
    /// `invalid_argument` with everything that is wrong.
    pub(super) fn open(hooks: &[Webhook]) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let mut opened: Vec<Hook> = Vec::new();
        for (n, of) in hooks.iter().enumerate() {
            let field = |name: &str| format!("webhooks[{n}].{name}");
            let uri = of.url.parse::<Uri>().ok();
            let scheme = uri.as_ref().and_then(Uri::scheme_str).filter(|scheme| ["http", "https"].contains(scheme));
            let host = uri.as_ref().and_then(Uri::host);
            let shown = scheme.zip(host).map(|(scheme, host)| format!("{scheme}://{host}"));
            if shown.is_none() {
                fields.wrong(field("url"), "is no address; write http://HOST/PATH or https://HOST/PATH");
            }
            if opened.iter().any(|known| known.of.url == of.url) {
                fields.wrong(field("url"), "is there twice");
            }
            let secret = of
                .secret_file
                .as_deref()
                .map(|file| read_secret(file).map_err(|e| fields.wrong(field("secret_file"), e)));
            let secret = secret.and_then(Result::ok);
            opened.extend(shown.map(|shown| Hook { of: of.clone(), secret, shown }));
        }
        let hooks = fields.all(Some(opened))?;
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let http = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            // Addresses are mostly at home, where the proxy that an environment names does not lead.
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self { hooks, http, wake: Arc::default(), kept: Mutex::default() })
    }

    fn hook(&self, url: &str) -> Option<&Hook> {
        self.hooks.iter().find(|hook| hook.of.url == url)
    }
}

fn read_secret(file: &Path) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read {shown}: {e}"))?;
    let secret = text.trim().as_bytes().to_vec();
    if secret.is_empty() {
        return Err(format!("{shown} is empty; make a secret with `openssl rand -hex 32`"));
    }
    if std::fs::metadata(file).is_ok_and(|facts| facts.permissions().mode() & 0o077 != 0) {
        tracing::warn!(file = %shown, "other users of this machine may read the secret; `chmod 600` the file");
    }
    Ok(secret)
}

impl Hub {
    /// Keeps what addresses are to be told of an alert. One that was told of it already is not told again.
    pub(super) async fn tell_outside(&self, alert: &Alert, told: Told) {
        let (what, least) = (told.key(alert), alert.what.severity);
        let wants = |hook: &&Hook| least >= hook.of.min_severity;
        let fresh = |hook: &&Hook| lock(&self.outside.kept).insert(format!("{what} {}", hook.of.url));
        let new: Vec<NewDelivery> = self
            .outside
            .hooks
            .iter()
            .filter(wants)
            .filter(fresh)
            .map(|hook| NewDelivery { url: hook.of.url.clone(), what: what.clone(), body: body(&self.me, alert, told) })
            .collect();
        if told == Told::Cleared {
            lock(&self.outside.kept).retain(|kept| !kept.starts_with(&alert.id));
        }
        if new.is_empty() {
            return;
        }
        match self.store.deliveries.take(new, MOST, self.now()).await {
            Ok(dropped) => count("dropped", dropped),
            Err(fault) => tracing::error!(alert = alert.id, %fault, "what is to be told outside could not be kept"),
        }
        self.outside.wake.notify_one();
    }

    /// Addresses that are new hear of what stands; what waits for those that are gone is removed.
    pub(super) async fn tell_standing(&self) -> Result<(), Fault> {
        self.forget_addresses().await?;
        let mut token = String::new();
        loop {
            let page = self.store.alerts.alerts(true, Page { size: MAX_SIZE, token }).await?;
            for alert in page.items.iter().filter(|alert| alert.node.is_none()) {
                self.tell_outside(alert, Told::Raised).await;
            }
            if page.next.is_empty() {
                return Ok(());
            }
            token = page.next;
        }
    }

    pub(super) async fn forget_addresses(&self) -> Result<(), Fault> {
        let urls = self.outside.hooks.iter().map(|hook| hook.of.url.clone()).collect();
        self.store.deliveries.prune(urls, self.now()).await.map(drop)
    }

    /// Sends what is due, to each address one after the other.
    pub(super) async fn deliver(self: Arc<Self>) -> Result<(), Fault> {
        if self.outside.hooks.is_empty() {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            let now = self.now();
            let due: Vec<Delivery> =
                self.store.deliveries.heads().await?.into_iter().filter(|d| d.due <= now).collect();
            if due.is_empty() {
                break;
            }
            let sent = join_all(due.iter().map(|delivery| self.send(delivery))).await;
            for (delivery, outcome) in due.iter().zip(sent) {
                self.sent(delivery, outcome).await?;
            }
            self.ctx.beat();
        }
        let mute: Vec<String> = self
            .store
            .deliveries
            .heads()
            .await?
            .iter()
            .filter(|head| head.attempts >= MUTE)
            .filter_map(|head| Some(self.outside.hook(&head.of.url)?.shown.clone()))
            .collect();
        self.trouble("webhooks", (!mute.is_empty()).then(|| format!("alerts do not reach {}", mute.join(", "))));
        Ok(())
    }

    /// One try.
    async fn send(&self, delivery: &Delivery) -> Result<(), String> {
        let Some(hook) = self.outside.hook(&delivery.of.url) else { return Err("nobody wants it any more".to_owned()) };
        let mut request = self
            .outside
            .http
            .post(&hook.of.url)
            .header("content-type", "application/json")
            .header("idempotency-key", &delivery.of.what);
        if let Some(secret) = &hook.secret {
            request = request.header("tandem-signature", signature(secret, delivery.of.body.as_bytes()));
        }
        let body = delivery.of.body.clone();
        let answer = tokio::task::spawn_blocking(move || request.send(body.as_str())).await;
        match answer {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("it answers {}", answer.status())),
            Ok(Err(e)) => Err(e.to_string()),
            Err(e) => Err(format!("the thread that sent it ended: {e}")),
        }
    }

    async fn sent(&self, delivery: &Delivery, outcome: Result<(), String>) -> Result<(), Fault> {
        let (now, id) = (self.now(), delivery.id);
        let Err(cause) = outcome else {
            count("delivered", 1);
            return self.store.deliveries.ended(id, now).await;
        };
        let to = self.outside.hook(&delivery.of.url).map_or("", |hook| &hook.shown);
        tracing::debug!(to, what = delivery.of.what, cause, "an alert could not be told outside");
        count("failed", 1);
        match again(delivery.created, delivery.attempts, now) {
            Some(due) => self.store.deliveries.again(id, due).await,
            None => {
                tracing::warn!(to, what = delivery.of.what, cause, "an alert was not told outside for a day; given up");
                count("given_up", 1);
                self.store.deliveries.ended(id, now).await
            }
        }
    }
}

fn count(outcome: &'static str, n: u64) {
    counter!("tandem_webhook_deliveries_total", "outcome" => outcome).increment(n);
}
