//! Making certificates and lists: everything that the CA signs, and requests that nodes make.

use std::time::{Duration, SystemTime};

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use tandem_types::{Code, Fault, NodeName, reason};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::fleet::{Fingerprint, FleetId, dns_name};
use crate::{BACKDATE, LIFE};

/// How long a CA holds. Whoever still runs the fleet then founds it anew.
const CA_LIFE: Duration = Duration::from_secs(3_650 * 86_400);
/// A request is a few hundred bytes.
const CSR_MOST: usize = 8_192;

/// Bytes by chance.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    let source = ring::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_| Fault::internal("this machine gives no random numbers"))?;
    Ok(bytes)
}

fn made(e: &rcgen::Error) -> Fault {
    Fault::internal(format!("cannot make a certificate: {e}"))
}

/// A new key: ECDSA on P-256.
pub(crate) fn new_key() -> Result<KeyPair, Fault> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| made(&e))
}

/// A key from its file; nothing of it is in the error.
pub(crate) fn read_key(text: &str) -> Option<KeyPair> {
    KeyPair::from_pem(text).ok().filter(|key| key.is_compatible(&PKCS_ECDSA_P256_SHA256))
}

/// A request for a certificate to this key. It names nobody: names come from whoever signs.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>, Fault> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(|e| made(&e))?.der().to_vec())
}

/// A request whose signature shows that its maker has the key.
#[derive(Debug)]
pub(crate) struct Requested {
    key: rcgen::PublicKey,
}

impl Requested {
    pub(crate) fn read(csr: &[u8]) -> Result<Self, Fault> {
        let refused = |problem: &str| Fault::invalid_field("csr", problem);
        if csr.len() > CSR_MOST {
            return Err(refused("is larger than a request can be"));
        }
        let parsed = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
            .map_err(|_| refused("is no certificate request that is signed by its own key"))?;
        if PublicKeyData::algorithm(&parsed.public_key) != &PKCS_ECDSA_P256_SHA256 {
            return Err(refused("has a key that is not ECDSA on P-256"));
        }
        Ok(Self { key: parsed.public_key })
    }

    /// Fingerprint of the public key, which a member is known by.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        key_fingerprint(&self.key)
    }
}

/// Fingerprint of a public key (its SubjectPublicKeyInfo).
pub(crate) fn key_fingerprint(key: &impl PublicKeyData) -> Fingerprint {
    Fingerprint::of(&key.subject_public_key_info())
}

/// The serial number of a new certificate: 16 bytes whose first bits make them a positive number of exactly this length.
pub(crate) fn new_serial() -> Result<[u8; 16], Fault> {
    let mut serial: [u8; 16] = random()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// A certificate authority with its key.
#[derive(Debug)]
pub(crate) struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    ends: SystemTime,
}

impl Ca {
    /// A new CA for a fleet, and its key as text.
    pub(crate) fn make(fleet: &FleetId, now: SystemTime) -> Result<(Self, String), Fault> {
        let key = new_key()?;
        let text = key.serialize_pem();
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + CA_LIFE).into();
        params.serial_number = Some(SerialNumber::from_slice(&new_serial()?));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named(&format!("Tandem fleet {fleet}"));
        let certificate = params.self_signed(&key).map_err(|e| made(&e))?.der().clone();
        Ok((Self::new(certificate, key)?, text))
    }

    /// The CA of a certificate and its key, which must belong together.
    pub(crate) fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, Fault> {
        let apart =
            || Fault::new(Code::Internal, reason::DISK, "the CA's certificate and its key do not belong together");
        let (_, read) = X509Certificate::from_der(&certificate).map_err(|_| apart())?;
        if Fingerprint::of(read.public_key().raw) != key_fingerprint(&key) {
            return Err(apart());
        }
        let ends = at(read.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| made(&e))?;
        Ok(Self { certificate, issuer, ends })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for the requested key under a node's name; also when it ends.
    pub(crate) fn issue(
        &self,
        key: &impl PublicKeyData,
        (node, fleet): (&NodeName, &FleetId),
        serial: [u8; 16],
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, SystemTime), Fault> {
        if now >= self.ends {
            let message = "the fleet's CA has expired: found the fleet anew with `tandem init` on an empty folder";
            return Err(Fault::new(Code::FailedPrecondition, reason::NO_TRUST, message));
        }
        let ends = (now + LIFE).min(self.ends);
        let name = dns_name(node, fleet).try_into().map_err(|e| made(&e))?;
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = ends.into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.distinguished_name = named(node.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(|e| made(&e))?;
        Ok((certificate.der().clone(), ends))
    }

    /// The same for a request.
    pub(crate) fn grant(
        &self,
        requested: &Requested,
        who: (&NodeName, &FleetId),
        serial: [u8; 16],
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, SystemTime), Fault> {
        self.issue(&requested.key, who, serial, now)
    }

    /// A list of what is revoked. It holds as long as the CA: a founder that is away makes no list invalid, and what it would have
    /// revoked ends by itself within a week.
    pub(crate) fn crl(
        &self,
        number: u64,
        revoked: impl IntoIterator<Item = (Vec<u8>, SystemTime)>,
        now: SystemTime,
    ) -> Result<Crl, Fault> {
        let entry = |(serial, when): (Vec<u8>, SystemTime)| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: when.into(),
            reason_code: Some(RevocationReason::PrivilegeWithdrawn),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - BACKDATE).into(),
            next_update: (now + CA_LIFE).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.into_iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(|e| made(&e))?;
        Ok(Crl { number, der: list.der().to_vec() })
    }
}

/// A list of revoked certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// Its number: a later list has a higher one.
    pub number: u64,
    /// The list, DER.
    pub der: Vec<u8>,
}

impl Crl {
    /// A list as it came, unchecked.
    pub(crate) fn read(der: Vec<u8>) -> Option<Self> {
        let number = {
            let (rest, list) = CertificateRevocationList::from_der(&der).ok()?;
            rest.is_empty().then_some(())?;
            u64::try_from(list.crl_number()?).ok()?
        };
        Some(Self { number, der })
    }

    /// A list as it came, signed by this CA.
    pub(crate) fn checked(der: &[u8], ca: &CertificateDer<'_>) -> Result<Self, Fault> {
        let foreign = || {
            let message = "the list of revoked certificates is not signed by this fleet's CA: nothing of it was taken";
            Fault::new(Code::PermissionDenied, reason::FOREIGN_CA, message)
        };
        let crl = Self::read(der.to_vec()).ok_or_else(foreign)?;
        let (_, list) = CertificateRevocationList::from_der(&crl.der).map_err(|_| foreign())?;
        let (_, ca) = X509Certificate::from_der(ca).map_err(|_| foreign())?;
        if list.issuer().as_raw() != ca.subject().as_raw() {
            return Err(foreign());
        }
        list.verify_signature(ca.public_key()).map_err(|_| foreign())?;
        Ok(crl)
    }

    pub(crate) fn to_pem(&self) -> String {
        to_pem("X509 CRL", &self.der)
    }
}

pub(crate) fn to_pem(kind: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(kind, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

fn named(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// A time that X.509 gives in seconds since 1970.
pub(crate) fn at(seconds: i64) -> SystemTime {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    if seconds < 0 { epoch.checked_sub(span) } else { epoch.checked_add(span) }.unwrap_or(epoch)
}
