//! Reading certificates.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tandem_types::{Code, Fault, NodeName, reason};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::fleet::{Fingerprint, FleetId, parse_dns_name};
use crate::pki::at;

/// What a certificate says of itself. Nothing of it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) starts: SystemTime,
    pub(crate) ends: SystemTime,
    /// Fingerprint of the public key.
    pub(crate) key: Fingerprint,
    /// Node and fleet, where it is the certificate of a node.
    pub(crate) who: Option<(NodeName, FleetId)>,
}

impl Certificate {
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        let names = read.subject_alternative_name().ok()?;
        let names: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None })
            .collect();
        let who = if let [name] = names[..] { parse_dns_name(name) } else { None };
        Some(Self {
            starts: at(read.validity().not_before.timestamp()),
            ends: at(read.validity().not_after.timestamp()),
            key: Fingerprint::of(read.public_key().raw),
            who,
        })
    }
}

/// The node at the other end of a connection whose certificates TLS has verified.
///
/// # Errors
/// `unauthenticated` when there are none, or the first is not a node's.
pub fn peer_node(certs: &[CertificateDer<'_>]) -> Result<NodeName, Fault> {
    let first = certs.first().ok_or_else(|| {
        Fault::new(
            Code::Unauthenticated,
            reason::NO_IDENTITY,
            "the other side of the connection has shown no certificate",
        )
    })?;
    let node = Certificate::read(first).and_then(|read| read.who).map(|(node, _)| node);
    node.ok_or_else(|| {
        Fault::new(
            Code::Unauthenticated,
            reason::NO_IDENTITY,
            "the certificate of the other side is not that of a node",
        )
    })
}
