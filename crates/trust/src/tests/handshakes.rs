//! Real handshakes of rustls, over memory.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, Error, ServerConfig, ServerConnection};
use tandem_types::{Fault, reason};

use super::{DAY, HOUR, Machine, founded, invite, joined, node};
use crate::{Identity, explain, peer_node};

const H2: &[&[u8]] = &[b"h2"];

/// How a handshake ended at each side.
struct Met {
    client: Result<Connection, Error>,
    server: Result<Connection, Error>,
}

impl Met {
    /// What the client is told by whoever refused, in words.
    fn client_says(self) -> String {
        explain(&self.client.expect_err("the client fails"), now())
    }

    fn server_says(self) -> String {
        explain(&self.server.expect_err("the server fails"), now())
    }

    fn failed(&self) -> bool {
        self.client.is_err() && self.server.is_err()
    }
}

/// rustls asks the real clock.
fn now() -> SystemTime {
    SystemTime::now()
}

fn pump(from: &mut Connection, to: &mut Connection) -> Result<bool, Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(!bytes.is_empty())
}

fn meet(client: Arc<ClientConfig>, name: ServerName<'static>, server: Arc<ServerConfig>) -> Met {
    let mut client = Connection::from(ClientConnection::new(client, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(server).unwrap());
    let (mut at_client, mut at_server) = (None, None);
    loop {
        let there = pump(&mut client, &mut server);
        let moved = *there.as_ref().unwrap_or(&true);
        at_server = at_server.or(there.err());
        let back = pump(&mut server, &mut client);
        let moved = *back.as_ref().unwrap_or(&true) || moved;
        at_client = at_client.or(back.err());
        if !moved || at_client.is_some() && at_server.is_some() {
            break;
        }
    }
    assert!(at_client.is_some() || !client.is_handshaking(), "the client waits for ever");
    Met { client: at_client.map_or(Ok(client), Err), server: at_server.map_or(Ok(server), Err) }
}

fn identity(machine: &Machine) -> Identity {
    Identity::load(&machine.folder).unwrap()
}

/// `from` calls `to`, which it takes for the node `name`.
fn call(from: &Identity, to: &Identity, name: &str) -> Met {
    let server_name = from.server_name(&node(name)).unwrap();
    meet(from.client_config(H2).unwrap(), server_name, to.server_config(true, H2).unwrap())
}

fn certificates(connection: &Connection) -> Vec<CertificateDer<'static>> {
    connection.peer_certificates().unwrap().to_vec()
}

#[test]
fn members_know_each_other_by_name() {
    let (main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    let (main, pc2) = (identity(&main), identity(&pc2));
    for (from, to, name, caller) in [(&main, &pc2, "pc2", "mainpc"), (&pc2, &main, "mainpc", "pc2")] {
        let met = call(from, to, name);
        let (client, server) = (met.client.unwrap(), met.server.unwrap());
        assert_eq!(peer_node(&certificates(&client)), Ok(node(name)));
        assert_eq!(peer_node(&certificates(&server)), Ok(node(caller)));
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(from.verify(&certificates(&client), now()), Ok(node(name)));
    }
}

#[test]
fn no_session_is_resumed_past_the_checks() {
    let (main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    let (main, pc2) = (identity(&main), identity(&pc2));
    let (client, server) = (pc2.client_config(H2).unwrap(), main.server_config(true, H2).unwrap());
    for _ in 0..2 {
        let met = meet(client.clone(), pc2.server_name(&node("mainpc")).unwrap(), server.clone());
        assert_eq!(met.server.unwrap().handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn somebody_of_another_fleet_is_refused_by_both() {
    let (_main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    let (other, _stranger) = founded(now());
    let (pc2, other) = (identity(&pc2), identity(&other));
    let words = format!("it is mainpc of another fleet ({})", other.fleet().id);
    assert!(call(&pc2, &other, "mainpc").client_says().contains(&words));
    assert!(call(&pc2, &other, "mainpc").server_says().contains("refuses this machine as one of another fleet"));
    // A client of another fleet that takes every server for its own.
    let server = pc2.server_config(true, H2).unwrap();
    let shows = |identity: &Identity| {
        let met = meet(careless(identity), pc2.server_name(&node("pc2")).unwrap(), server.clone());
        assert!(met.failed());
        met
    };
    assert!(shows(&other).server_says().contains(&words));
    assert!(shows(&other).client_says().contains("refuses this machine as one of another fleet"));
}

/// A client that believes every server: what it shows is the server's to refuse.
fn careless(identity: &Identity) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&identity.client_config(H2).unwrap());
    config.dangerous().set_certificate_verifier(Arc::new(Anybody));
    Arc::new(config)
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn a_ca_that_only_calls_itself_ours_is_refused() {
    let (main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    // The same fleet's number and names, another key.
    let fleet = founder.fleet().unwrap();
    let (ca, _) = crate::pki::Ca::make(&fleet.id, now()).unwrap();
    let key = crate::pki::new_key().unwrap();
    let (leaf, _) = ca.issue(&key, (&node("pc2"), &fleet.id), [0x41; 16], now()).unwrap();
    std::fs::write(pc2.file("node.pem"), crate::files::certificates(&[&leaf, ca.certificate()])).unwrap();
    std::fs::write(pc2.file("node.key"), key.serialize_pem()).unwrap();
    let (main, false_pc2) = (identity(&main), identity(&pc2));
    assert!(call(&main, &false_pc2, "pc2").client_says().contains("is not signed by this fleet's CA"));
    assert!(call(&false_pc2, &main, "mainpc").server_says().contains("is not signed by this fleet's CA"));
    assert!(
        call(&false_pc2, &main, "mainpc").client_says().contains("does not know the CA of this machine's certificate")
    );
}

#[test]
fn time_is_kept_and_a_wrong_clock_is_told() {
    // Both were last renewed long ago, or by a clock that is ahead.
    for (made, server, client) in [
        (now() - 10 * DAY, "expired 3 d ago", "has expired or is not valid yet"),
        (now() + 4 * HOUR, "the clocks differ by at least 3 h", "has expired or is not valid yet"),
    ] {
        let (main, founder) = founded(made);
        let (pc2, _member) = joined(&founder, "pc2", made);
        let good = made < now();
        if good {
            founder.renew_own(now()).unwrap();
        }
        let (main, pc2) = (identity(&main), identity(&pc2));
        let said = call(&main, &pc2, "pc2").client_says();
        assert!(said.contains(server), "{said}");
        let (said, told) = (call(&main, &pc2, "pc2").server_says(), meet_careless(&pc2, &main));
        assert!(said.contains(client), "{said}");
        assert!(told.contains(client), "{told}");
    }
}

/// What a client is told whose certificate the server refuses.
fn meet_careless(client: &Identity, server: &Identity) -> String {
    let name = client.server_name(&server.fleet().node).unwrap();
    meet(careless(client), name, server.server_config(true, H2).unwrap()).client_says()
}

#[test]
fn an_expired_member_renews_without_showing_its_certificate() {
    let made = now() - 10 * DAY;
    let (main, founder) = founded(made);
    let (pc2, member) = joined(&founder, "pc2", made);
    founder.renew_own(now()).unwrap();
    let main = identity(&main);
    let met = meet(
        identity(&pc2).renewing_config(H2).unwrap(),
        identity(&pc2).server_name(&node("mainpc")).unwrap(),
        main.server_config(false, H2).unwrap(),
    );
    assert_eq!(peer_node(&certificates(&met.client.unwrap())), Ok(node("mainpc")));
    assert!(met.server.unwrap().peer_certificates().is_none());
    let answer = founder.renew(&member.renewal(now()).unwrap().unwrap(), now()).unwrap();
    member.renewed(&answer.chain, &answer.crl, now()).unwrap();
    assert!(call(&identity(&pc2), &main, "mainpc").server.is_ok());
}

#[test]
fn a_revoked_member_is_refused_by_everyone_who_has_the_list() {
    let (main, founder) = founded(now());
    let (pc2, member) = joined(&founder, "pc2", now());
    let (pc3, other) = joined(&founder, "pc3", now());
    let before = call(&identity(&pc2), &identity(&main), "mainpc").server.unwrap();
    let crl = founder.revoke(&node("pc2"), now()).unwrap();
    for machine in [&main, &pc3] {
        let _ = other.take_crl(&crl.der).unwrap();
        let (here, gone) = (identity(machine), identity(&pc2));
        let said = call(&here, &gone, "pc2").client_says();
        assert!(said.contains("was revoked"), "{said}");
        let met = call(&gone, &here, here.fleet().node.as_str());
        let said = met.client_says();
        assert!(said.contains("this machine was revoked"), "{said}");
        // A connection that was made before is looked at again.
        let fault: Fault = here.verify(&certificates(&before), now()).unwrap_err();
        assert_eq!(fault.reason, reason::REVOKED, "{fault}");
    }
    assert!(member.take_crl(&crl.der).unwrap());
}

#[test]
fn whoever_shows_nothing_is_no_member() {
    let (main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    let (main, pc2) = (identity(&main), identity(&pc2));
    let nobody = || {
        let name = pc2.server_name(&node("mainpc")).unwrap();
        meet(pc2.renewing_config(H2).unwrap(), name, main.server_config(true, H2).unwrap())
    };
    assert!(nobody().server_says().contains("has shown no certificate"));
    assert!(nobody().client_says().contains("takes only members of its fleet"));
    assert!(peer_node(&[]).is_err());
}

#[test]
fn the_wrong_node_at_an_address_is_named() {
    let (main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    let said = call(&identity(&main), &identity(&pc2), "pc3").client_says();
    assert!(said.starts_with("pc2 answers where pc3 was to answer"), "{said}");
}

#[test]
fn a_joiner_accepts_exactly_the_founder_of_its_invitation() {
    let (main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    let (other, _stranger) = founded(now());
    let invitation = invite(&founder, "pc3", now());
    let ask = |machine: &Machine| {
        let server = identity(machine).server_config(false, H2).unwrap();
        meet(invitation.client_config(H2).unwrap(), invitation.server_name().unwrap(), server)
    };
    let met = ask(&main);
    assert_eq!(peer_node(&certificates(&met.client.unwrap())), Ok(node("mainpc")));
    assert!(met.server.is_ok());
    let said = ask(&pc2).client_says();
    assert!(said.contains("pc2 answers where mainpc was to answer"), "{said}");
    let said = ask(&other).client_says();
    assert!(said.contains("is not the founder that made the invitation"), "{said}");
}

#[test]
fn another_protocol_is_told_apart_from_a_stranger() {
    let (main, founder) = founded(now());
    let (pc2, _member) = joined(&founder, "pc2", now());
    let (main, pc2) = (identity(&main), identity(&pc2));
    let server = main.server_config(true, &[b"other"]).unwrap();
    let said = meet(pc2.client_config(H2).unwrap(), pc2.server_name(&node("mainpc")).unwrap(), server).client_says();
    assert!(said.contains("does not speak the protocol of the link"), "{said}");
}
