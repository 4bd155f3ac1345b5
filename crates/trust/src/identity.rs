//! What a process needs to speak TLS as its node.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};
use tandem_types::{Code, Fault, NodeName, reason};

use crate::certificate::{Certificate, peer_node};
use crate::explain::explain;
use crate::files::{Folder, NODE, NODE_KEY};
use crate::fleet::{Fleet, dns_name};
use crate::invitation::Invitation;
use crate::pki;
use crate::verify::{FounderOnly, Peers, provider, unix};

/// A node's certificate and key, its fleet's CA and the list of revoked certificates, as they stood when it was read.
///
/// All of it is TLS 1.3 with client certificates. No session is ever resumed: a resumed one would skip the check of certificates,
/// and with it a revocation.
#[derive(Debug)]
pub struct Identity {
    fleet: Fleet,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ends: SystemTime,
    crl_number: u64,
    provider: Arc<CryptoProvider>,
    /// Lets members in; whoever shows nothing is refused.
    members: Arc<Peers>,
    /// The same, but lets in who shows nothing.
    anybody: Arc<Peers>,
}

impl Identity {
    /// Reads the identity that is in a folder.
    ///
    /// # Errors
    /// `failed_precondition`: `no_trust` where there is none, `exposed` where others can read the node's key; `internal` where a file
    /// is damaged or certificate and key do not belong together.
    pub fn load(folder: &Folder) -> Result<Self, Fault> {
        let fleet = folder.need_fleet()?;
        let (chain, ca, crl) = (folder.chain()?, folder.ca()?, folder.crl()?);
        let key_text = folder.secret(NODE_KEY)?;
        let key = pki::read_key(&key_text).ok_or_else(|| folder.damaged(NODE_KEY))?;
        let own = chain.first().and_then(|leaf| Certificate::read(leaf)).ok_or_else(|| folder.damaged(NODE))?;
        if own.key != pki::key_fingerprint(&key) {
            return Err(folder.damaged(NODE));
        }
        let key = PrivateKeyDer::from_pem_slice(key_text.as_bytes()).map_err(|_| folder.damaged(NODE_KEY))?;
        let list = CertificateRevocationListDer::from(crl.der);
        let peers = |need| Peers::new(&fleet.id, &ca, &list, need).map(Arc::new).map_err(|e| unusable(&e));
        let (members, anybody) = (peers(true)?, peers(false)?);
        let provider = provider();
        Ok(Self { fleet, chain, key, ends: own.ends, crl_number: crl.number, provider, members, anybody })
    }

    /// The fleet, and which of its nodes this is.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// When the node's certificate ends.
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// Number of the list of revoked certificates.
    pub fn crl_number(&self) -> u64 {
        self.crl_number
    }

    /// For listening. With `require_client` only members come in; without it also who shows no certificate, which is for joins and
    /// renewals: whoever shows one still has to be a member. `alpn` names the protocols, such as `h2`.
    ///
    /// # Errors
    /// When certificate and key are refused by rustls.
    pub fn server_config(&self, require_client: bool, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Fault> {
        let verifier = if require_client { &self.members } else { &self.anybody };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(verifier.clone())
                    .with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|e| unusable(&e))?;
        config.alpn_protocols = protocols(alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For calling another member.
    ///
    /// # Errors
    /// When certificate and key are refused by rustls.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Fault> {
        let builder = client_builder(&self.provider).map_err(|e| unusable(&e))?;
        let config = builder
            .with_custom_certificate_verifier(self.members.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|e| unusable(&e))?;
        Ok(finished(config, alpn))
    }

    /// For asking the founder for a new certificate where the old one has expired: shows none.
    ///
    /// # Errors
    /// When rustls refuses what it is given.
    pub fn renewing_config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Fault> {
        let builder = client_builder(&self.provider).map_err(|e| unusable(&e))?;
        Ok(finished(builder.with_custom_certificate_verifier(self.members.clone()).with_no_client_auth(), alpn))
    }

    /// The name that another node's certificate must have.
    ///
    /// # Errors
    /// `invalid_argument` for a node whose name no certificate can say.
    pub fn server_name(&self, node: &NodeName) -> Result<ServerName<'static>, Fault> {
        name(self.fleet.dns_name(node), node)
    }

    /// Checks certificates of a connection that was verified earlier, against what is known now; gives the node at its other end.
    ///
    /// # Errors
    /// `unauthenticated` where they would be refused now: expired since, or revoked.
    pub fn verify(&self, certs: &[CertificateDer<'_>], now: SystemTime) -> Result<NodeName, Fault> {
        let node = peer_node(certs)?;
        let refused = |e: Error| {
            let reason = if e == Error::InvalidCertificate(rustls::CertificateError::Revoked) {
                reason::REVOKED
            } else {
                reason::NO_IDENTITY
            };
            Fault::new(Code::Unauthenticated, reason, format!("{node}: {}", explain(&e, now)))
        };
        let [leaf, rest @ ..] = certs else { return Ok(node) };
        self.members.verify_client_cert(leaf, rest, unix(now)).map_err(refused)?;
        Ok(node)
    }
}

impl Invitation {
    /// For reaching the founder before there is any trust but this invitation: accepts exactly its CA and its founder, and shows no
    /// certificate.
    ///
    /// # Errors
    /// When rustls refuses what it is given.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Fault> {
        let provider = provider();
        let builder = client_builder(&provider).map_err(|e| unusable(&e))?;
        let verifier = Arc::new(FounderOnly { ca: self.ca, provider });
        Ok(finished(builder.with_custom_certificate_verifier(verifier).with_no_client_auth(), alpn))
    }

    /// The name that the founder's certificate must have.
    ///
    /// # Errors
    /// `invalid_argument` for a founder whose name no certificate can say.
    pub fn server_name(&self) -> Result<ServerName<'static>, Fault> {
        name(dns_name(&self.founder, &self.fleet), &self.founder)
    }
}

type ClientBuilder = rustls::client::danger::DangerousClientConfigBuilder;

/// Verifiers of our own: "dangerous" is rustls's word for that.
fn client_builder(provider: &Arc<CryptoProvider>) -> Result<ClientBuilder, Error> {
    Ok(ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?.dangerous())
}

fn finished(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = protocols(alpn);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

fn name(text: String, node: &NodeName) -> Result<ServerName<'static>, Fault> {
    ServerName::try_from(text)
        .map_err(|_| Fault::invalid_field("node", format!("`{node}` is a name that no certificate can say")))
}

fn unusable(e: &Error) -> Fault {
    Fault::internal(format!("this machine's certificates cannot be used: {e}"))
}
