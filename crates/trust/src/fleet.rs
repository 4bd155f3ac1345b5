//! What a machine knows of its fleet.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tandem_types::{Fault, NodeName};

/// A fleet's own number, drawn at random when it is founded: 16 bytes, written as 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FleetId(String);

impl FleetId {
    /// From its 32 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// `invalid_argument` when the text is anything else.
    pub fn new(text: impl Into<String>) -> Result<Self, Fault> {
        let text = text.into();
        if text.len() == 32 && is_hex(&text) {
            Ok(Self(text))
        } else {
            Err(Fault::invalid_field("fleet id", "is not 32 lower-case hexadecimal digits"))
        }
    }

    pub(crate) fn of(bytes: [u8; 16]) -> Self {
        Self(hex(&bytes))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FleetId {
    type Error = Fault;
    fn try_from(text: String) -> Result<Self, Fault> {
        Self::new(text)
    }
}

impl From<FleetId> for String {
    fn from(id: FleetId) -> String {
        id.0
    }
}

/// SHA-256 of a CA's certificate or of a public key, written as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Fault;
    fn try_from(text: String) -> Result<Self, Fault> {
        unhex(&text)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| Fault::invalid_field("fingerprint", "is not 64 lower-case hexadecimal digits"))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

/// The fleet that a machine belongs to, and which of its nodes the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    /// The fleet's number.
    pub id: FleetId,
    /// The fleet's name for people.
    pub name: String,
    /// This machine.
    pub node: NodeName,
    /// The machine that holds the CA.
    pub founder: NodeName,
    /// Fingerprint of the CA's certificate.
    pub ca: Fingerprint,
    /// Where the founder's link listens, `host:port` each; on the founder none until its link has said so.
    pub addresses: Vec<String>,
}

impl Fleet {
    /// True on the machine that holds the CA.
    pub fn is_founder(&self) -> bool {
        self.node == self.founder
    }

    /// The name in a node's certificate.
    pub(crate) fn dns_name(&self, node: &NodeName) -> String {
        dns_name(node, &self.id)
    }
}

/// What follows a fleet's number in the names of certificates. `internal` is set aside for private names (ICANN, 2024).
const DOMAIN: &str = "tandem.internal";

/// The name in a node's certificate: `NODE.FLEETID.tandem.internal`.
pub(crate) fn dns_name(node: &NodeName, fleet: &FleetId) -> String {
    format!("{node}.{fleet}.{DOMAIN}")
}

/// Node and fleet of a certificate's name.
pub(crate) fn parse_dns_name(name: &str) -> Option<(NodeName, FleetId)> {
    let (node, rest) = name.split_once('.')?;
    let (fleet, domain) = rest.split_once('.')?;
    (domain == DOMAIN).then_some(())?;
    Some((node.parse().ok()?, FleetId::new(fleet).ok()?))
}

/// A fleet's name for people: one line that says something.
pub(crate) fn check_fleet_name(name: &str) -> Result<(), Fault> {
    if name.trim().is_empty() || name.chars().count() > 63 || name.chars().any(char::is_control) {
        return Err(Fault::invalid_field("fleet name", "must be 1 to 63 characters on one line"));
    }
    Ok(())
}

/// A node's name becomes part of a name in a certificate, where it may not end in a hyphen.
pub(crate) fn check_node_name(node: &NodeName) -> Result<(), Fault> {
    if node.as_str().ends_with('-') {
        return Err(Fault::invalid_field(
            "node",
            format!("`{node}` ends in `-`, which a certificate cannot say: name the node without it in the fleet file"),
        ));
    }
    Ok(())
}

/// Most addresses of a founder's link.
const ADDRESSES_MOST: usize = 8;

/// Addresses are `host:port`, few and short.
pub(crate) fn check_addresses(addresses: &[String]) -> Result<(), Fault> {
    if addresses.len() > ADDRESSES_MOST {
        return Err(Fault::invalid_field("addresses", format!("are more than {ADDRESSES_MOST}")));
    }
    match addresses.iter().find(|address| !is_address(address)) {
        None => Ok(()),
        Some(wrong) => Err(Fault::invalid_field("addresses", format!("`{wrong}` is not HOST:PORT"))),
    }
}

fn is_address(text: &str) -> bool {
    let sound = |(host, port): (&str, &str)| {
        !host.is_empty()
            && host.chars().all(|c| c.is_ascii_graphic())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
            && port.bytes().all(|b| b.is_ascii_digit())
    };
    text.len() <= 255 && text.rsplit_once(':').is_some_and(sound)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !is_hex(text) {
        return None;
    }
    // Only ASCII is left, so every index is a boundary.
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_certificate_says_node_and_fleet() {
        let fleet = FleetId::of([0xab; 16]);
        let node: NodeName = "my_pc-2".parse().unwrap();
        let name = dns_name(&node, &fleet);
        assert_eq!(name, format!("my_pc-2.{}.tandem.internal", "ab".repeat(16)));
        assert_eq!(parse_dns_name(&name), Some((node, fleet)));
        for foreign in ["", "pc2", "pc2.tandem.internal", "pc2.abc.tandem.internal", "pc2.example.org"] {
            assert_eq!(parse_dns_name(foreign), None, "{foreign}");
        }
        let longer = format!("{name}.example.org");
        assert_eq!(parse_dns_name(&longer), None);
    }

    #[test]
    fn addresses_are_host_and_port() {
        for (text, sound) in [
            ("10.77.0.1:8190", true),
            ("[fd00::1]:8190", true),
            ("mainpc.local:8190", true),
            ("10.77.0.1", false),
            ("10.77.0.1:0", false),
            ("10.77.0.1:70000", false),
            ("10.77.0.1:+80", false),
            (":8190", false),
            ("a b:1", false),
            ("", false),
        ] {
            assert_eq!(check_addresses(&[text.to_owned()]).is_ok(), sound, "{text:?}");
        }
        assert!(check_addresses(&vec!["a:1".to_owned(); 9]).is_err());
    }

    #[test]
    fn digits_go_both_ways() {
        assert_eq!(unhex("00ff1a"), Some(vec![0, 255, 26]));
        for wrong in ["0", "0g", "FF", "é0"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
        let fingerprint = Fingerprint::of(b"");
        // SHA-256 of nothing (FIPS 180-4, example values).
        assert!(fingerprint.to_string().starts_with("e3b0c44298fc1c14"), "{fingerprint}");
        assert_eq!(Fingerprint::try_from(fingerprint.to_string()), Ok(fingerprint));
    }

    #[test]
    fn names_that_no_certificate_can_say_are_refused() {
        assert!(check_node_name(&"pc-".parse().unwrap()).is_err());
        assert!(check_node_name(&"pc".parse().unwrap()).is_ok());
        for (name, sound) in [("home", true), ("", false), (" ", false), ("a\nb", false)] {
            assert_eq!(check_fleet_name(name).is_ok(), sound, "{name:?}");
        }
    }
}
