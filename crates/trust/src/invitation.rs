//! The line of text that invites a machine.

use std::fmt;
use std::time::SystemTime;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use tandem_types::{Code, Fault, NodeName, Timestamp, reason};

use crate::explain::span;
use crate::fleet::{Fingerprint, FleetId, check_addresses, check_fleet_name, check_node_name};
use crate::pki;

/// What every invitation of this version begins with.
const PREFIX: &str = "tandem1.";
/// Longer texts are not looked at.
const TEXT_MOST: usize = 8_192;
/// Bytes before what an invitation says (its length) and after it (its checksum).
const HEAD: usize = 2;
const CHECKSUM: usize = 4;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        // The last character of a text that was cut off stands for bits that are missing.
        .with_decode_allow_trailing_bits(true),
);

/// 32 random bytes that let one machine in, once. Nothing prints them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be sent to the founder over a connection that was verified.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the founder keeps of it. Of 256 random bits nobody finds the origin of a hash.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a founder gives to a person to carry to another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The fleet's number.
    pub fleet: FleetId,
    /// The fleet's name for people.
    pub fleet_name: String,
    /// The machine that holds the CA.
    pub founder: NodeName,
    /// Who is invited.
    pub node: NodeName,
    /// Where the founder's link listens, `host:port` each.
    pub addresses: Vec<String>,
    /// Fingerprint of the CA's certificate: what the joiner trusts.
    pub ca: Fingerprint,
    /// What lets it in.
    pub secret: Secret,
    /// Until when, in whole seconds.
    pub ends_at: SystemTime,
}

/// What the text carries, short: people carry it too.
#[derive(Serialize, Deserialize)]
struct Wire {
    f: FleetId,
    n: String,
    m: NodeName,
    j: NodeName,
    a: Vec<String>,
    c: String,
    s: String,
    e: i64,
}

fn bad(message: impl Into<String>) -> Fault {
    Fault::new(Code::InvalidArgument, reason::BAD_INVITATION, message)
}

impl Invitation {
    /// The line: who has it can join.
    pub fn text(&self) -> String {
        let wire = Wire {
            f: self.fleet.clone(),
            n: self.fleet_name.clone(),
            m: self.founder.clone(),
            j: self.node.clone(),
            a: self.addresses.clone(),
            c: BASE64.encode(self.ca.as_bytes()),
            s: BASE64.encode(self.secret.expose()),
            e: Timestamp::from(self.ends_at).micros().div_euclid(1_000_000),
        };
        // Strings and numbers always have a form in JSON, and the checks of what goes in keep it far below 64 KiB.
        let said = serde_json::to_vec(&wire).unwrap_or_default();
        let mut bytes = u16::try_from(said.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        bytes.extend_from_slice(&said);
        bytes.extend_from_slice(&checksum(&said));
        format!("{PREFIX}{}", BASE64.encode(bytes))
    }

    /// Reads what a person has typed or pasted; a terminal may have broken the line.
    ///
    /// # Errors
    /// `invalid_argument`, `bad_invitation` for a text that is cut off, mistyped, or made by another version, each in its own words;
    /// `failed_precondition`, `invitation_expired` for one whose time is over by this machine's clock.
    pub fn read(text: &str, now: SystemTime) -> Result<Self, Fault> {
        if text.len() > TEXT_MOST {
            return Err(bad("this is no invitation: it is far too long"));
        }
        let text: String = text.split_whitespace().collect();
        let said = said(&text)?;
        let invitation = Self::from_wire(&said).ok_or_else(|| {
            bad(
                "the invitation is whole, but says something this version does not understand: run the same version of \
                 Tandem on both machines",
            )
        })?;
        let (now, ends) = (Timestamp::from(now), Timestamp::from(invitation.ends_at));
        if now >= ends {
            return Err(Fault::new(
                Code::FailedPrecondition,
                reason::INVITATION_EXPIRED,
                format!(
                    "the invitation expired {} ago by this machine's clock: `tandem invite {}` on {} makes a new one",
                    span(now.since(ends)),
                    invitation.node,
                    invitation.founder,
                ),
            ));
        }
        Ok(invitation)
    }

    fn from_wire(said: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(said).ok()?;
        let bytes = |text: &str| <[u8; 32]>::try_from(BASE64.decode(text).ok()?).ok();
        let sound = check_fleet_name(&wire.n)
            .and_then(|()| check_node_name(&wire.j))
            .and_then(|()| check_node_name(&wire.m))
            .and_then(|()| check_addresses(&wire.a));
        sound.ok()?;
        Some(Self {
            ca: Fingerprint::from_bytes(bytes(&wire.c)?),
            secret: Secret::new(bytes(&wire.s)?),
            fleet: wire.f,
            fleet_name: wire.n,
            founder: wire.m,
            node: wire.j,
            addresses: wire.a,
            ends_at: pki::at(wire.e),
        })
    }
}

/// What a text says, once it is known to be whole.
fn said(text: &str) -> Result<Vec<u8>, Fault> {
    let cut = || bad("the invitation is cut off at its end: copy the whole line");
    let mistyped = || bad("the invitation has a wrong character in it, or one too many: copy it again");
    let Some(body) = text.strip_prefix(PREFIX) else {
        return Err(match text.strip_prefix("tandem").and_then(|rest| rest.split_once('.')) {
            Some((version, _)) if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()) => bad(format!(
                "the invitation is of version {version}, and this Tandem reads version 1: run the same version on both machines"
            )),
            _ if !text.is_empty() && PREFIX.starts_with(text) => cut(),
            _ => bad(format!("this is no invitation: one begins with `{PREFIX}`; `tandem invite` makes it")),
        });
    };
    // A single character more than whole bytes need is half of the next one.
    let (body, half) = body.split_at_checked(body.len() - usize::from(body.len() % 4 == 1)).ok_or_else(mistyped)?;
    let bytes = BASE64.decode(body).map_err(|_| mistyped())?;
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Err(cut()) };
    let length = usize::from(u16::from_be_bytes(*head));
    if rest.len() < length + CHECKSUM {
        return Err(cut());
    }
    let (said, sum) = rest.split_at(length);
    if !half.is_empty() || sum != checksum(said) {
        return Err(mistyped());
    }
    Ok(said.to_vec())
}

fn checksum(said: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = *Fingerprint::of(said).as_bytes();
    [a, b, c, d]
}
