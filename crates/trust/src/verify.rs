//! Checks of other people's certificates, by webpki; on top of it only what webpki cannot know.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use tandem_types::NodeName;

use crate::certificate::Certificate;
use crate::fleet::{Fingerprint, FleetId, dns_name};

/// What a certificate is refused for that no error of rustls says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stranger {
    /// It calls itself a node of another fleet.
    #[error("a certificate of another fleet")]
    Fleet {
        /// Whom it calls itself.
        node: NodeName,
        /// The fleet it names.
        fleet: FleetId,
    },
    /// The CA that an invitation names is not in the chain.
    #[error("a certificate that does not come from the CA of the invitation")]
    Ca,
    /// It is for another key.
    #[error("a certificate for another key")]
    Key,
}

impl From<Stranger> for Error {
    fn from(stranger: Stranger) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(stranger))))
    }
}

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A store with one CA in it.
fn roots(ca: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(Arc::new(roots))
}

fn unusable(e: &rustls::server::VerifierBuilderError) -> Error {
    Error::General(format!("the CA or its list of revoked certificates is unusable: {e}"))
}

/// Checks the certificate of a node that came with an answer: its CA, its name, its key, its time.
pub(crate) fn check_node(
    leaf: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    (node, fleet): (&NodeName, &FleetId),
    key: Fingerprint,
    now: SystemTime,
) -> Result<(), Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider()).build();
    let name = ServerName::try_from(dns_name(node, fleet)).map_err(|e| Error::General(e.to_string()))?;
    verifier.map_err(|e| unusable(&e))?.verify_server_cert(leaf, &[], &name, &[], unix(now))?;
    match Certificate::read(leaf) {
        Some(read) if read.key == key => Ok(()),
        _ => Err(Stranger::Key.into()),
    }
}

pub(crate) fn unix(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Lets members of the fleet in, whichever end they are at.
#[derive(Debug)]
pub(crate) struct Peers {
    fleet: FleetId,
    server: Arc<WebPkiServerVerifier>,
    client: Arc<dyn ClientCertVerifier>,
}

impl Peers {
    /// Peers of this fleet, known by its CA and not on its list. `need` says whether a client must show a certificate.
    pub(crate) fn new(
        fleet: &FleetId,
        ca: &CertificateDer<'_>,
        crl: &CertificateRevocationListDer<'static>,
        need: bool,
    ) -> Result<Self, Error> {
        let roots = roots(ca)?;
        let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
            .with_crls([crl.clone()])
            .only_check_end_entity_revocation();
        let client = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .with_crls([crl.clone()])
            .only_check_end_entity_revocation();
        let client = if need { client } else { client.allow_unauthenticated() };
        Ok(Self {
            fleet: fleet.clone(),
            server: server.build().map_err(|e| unusable(&e))?,
            client: client.build().map_err(|e| unusable(&e))?,
        })
    }

    /// Says of a certificate by an unknown CA which fleet it claims to be of, where it does.
    fn told(&self, leaf: &CertificateDer<'_>, error: Error) -> Error {
        if error != Error::InvalidCertificate(CertificateError::UnknownIssuer) {
            return error;
        }
        match Certificate::read(leaf).and_then(|read| read.who) {
            Some((node, fleet)) if fleet != self.fleet => Stranger::Fleet { node, fleet }.into(),
            _ => error,
        }
    }
}

/// TLS 1.2 is not offered, so nothing of it is ever verified.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
}

impl ServerCertVerifier for Peers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.server
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|e| self.told(end_entity, e))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.server.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.server.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Peers {
    fn client_auth_mandatory(&self) -> bool {
        self.client.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.client.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.client.verify_client_cert(end_entity, intermediates, now).map_err(|e| self.told(end_entity, e))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.client.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.client.supported_verify_schemes()
    }
}

/// Lets exactly the founder of an invitation in: the CA of its fingerprint, taken from the chain that the founder sends, is the
/// only root.
pub(crate) struct FounderOnly {
    pub(crate) ca: Fingerprint,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl fmt::Debug for FounderOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FounderOnly").field("ca", &self.ca).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for FounderOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates.iter().find(|der| Fingerprint::of(der) == self.ca).ok_or(Stranger::Ca)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?, self.provider.clone()).build();
        verifier.map_err(|e| unusable(&e))?.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
