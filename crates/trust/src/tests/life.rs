//! Init, invite, join, renew, expire, revoke, come back.

use std::time::Duration;

use tandem_types::{Fault, reason};

use super::{AT, DAY, HOUR, Machine, founded, invite, join, joined, node, start};
use crate::{Admission, Folder, Founder, INVITATION, Identity, Invitation, JoinRequest, Joining, Member, Secret};

fn certificate(machine: &Machine) -> Vec<u8> {
    machine.folder.chain().unwrap()[0].to_vec()
}

fn renew(founder: &Founder, member: &Member, now: std::time::SystemTime) -> Result<Admission, Fault> {
    founder.renew(&member.renewal(now).unwrap().expect("a renewal is due"), now)
}

#[test]
fn a_fleet_lives() {
    let (main, founder) = founded(start());
    let (pc2, mut member) = joined(&founder, "pc2", start());
    assert_eq!((member.fleet().name.as_str(), &member.fleet().founder), ("home", &node("mainpc")));
    assert_eq!(member.fleet().addresses, [AT]);
    assert_eq!(member.fleet().id, founder.fleet().unwrap().id);
    assert_eq!(member.certificate_ends().unwrap(), start() + 7 * DAY);
    assert!(!pc2.file("joining.json").exists(), "the key is in its place");

    // The founder moves.
    let moved = ["192.168.1.5:8190".to_owned()];
    assert!(member.set_addresses(&moved).unwrap() && !member.set_addresses(&moved).unwrap());
    assert_eq!(Member::open(&pc2.folder).unwrap().fleet().addresses, moved);

    // The first day nothing is due; then each day.
    assert_eq!(member.renewal(start() + DAY - HOUR).unwrap(), None);
    let (first, later) = (certificate(&pc2), start() + DAY);
    let renewed = renew(&founder, &member, later).unwrap();
    member.renewed(&renewed.chain, &renewed.crl, later).unwrap();
    assert_ne!(certificate(&pc2), first);
    assert_eq!(member.certificate_ends().unwrap(), later + 7 * DAY);
    assert_eq!(member.renewal(later).unwrap(), None);

    // Away for a month: the certificate has expired, the key still counts.
    let later = later + 30 * DAY;
    let renewed = renew(&founder, &member, later).unwrap();
    member.renewed(&renewed.chain, &renewed.crl, later).unwrap();
    assert_eq!(member.certificate_ends().unwrap(), later + 7 * DAY);

    // The founder renews its own.
    assert!(founder.renew_own(later).unwrap());
    assert!(!founder.renew_own(later).unwrap());
    assert_eq!(Identity::load(&main.folder).unwrap().ends(), later + 7 * DAY);

    // Revoked, it gets nothing any more.
    let crl = founder.revoke(&node("pc2"), later).unwrap();
    assert_eq!(crl.number, 2);
    assert!(member.take_crl(&crl.der).unwrap());
    assert!(!member.take_crl(&crl.der).unwrap(), "it is here already");
    let fault = renew(&founder, &member, later + DAY).unwrap_err();
    assert_eq!(fault.reason, reason::REVOKED, "{fault}");
    assert!(fault.message.contains("needs a new invitation"), "{fault}");

    // It comes back from an empty folder, with a new key.
    std::fs::remove_dir_all(pc2.folder.path()).unwrap();
    let member = join(&pc2, &founder, "pc2", later + 2 * DAY);
    assert_eq!(member.fleet().node, node("pc2"));
    let members = founder.members().unwrap();
    let shown: Vec<(&str, bool, bool)> =
        members.iter().map(|m| (m.node.as_str(), m.founder, m.revoked_at.is_some())).collect();
    assert_eq!(shown, [("mainpc", true, false), ("pc2", false, true), ("pc2", false, false)]);
    assert_eq!(members[2].certificate_ends, Some(later + 9 * DAY));
}

#[test]
fn one_machine_belongs_to_one_fleet() {
    let (main, founder) = founded(start());
    let (pc2, _member) = joined(&founder, "pc2", start());
    let fault = Founder::init(&main.folder, "other", &node("mainpc"), start()).unwrap_err();
    assert_eq!(fault.reason, reason::TRUST_EXISTS);
    assert!(fault.message.contains("founded here") && fault.message.contains("CA's key"), "{fault}");
    let fault = Founder::init(&pc2.folder, "other", &node("pc2"), start()).unwrap_err();
    assert!(
        fault.message.contains("pc2 of the fleet home") && fault.message.contains("`tandem revoke pc2` on mainpc"),
        "{fault}"
    );
    let (_other, stranger) = founded(start());
    let fault = Joining::new(&pc2.folder, invite(&stranger, "pc2", start()), start()).unwrap_err();
    assert_eq!(fault.reason, reason::TRUST_EXISTS);
    let fault = Founder::open(&pc2.folder).unwrap_err();
    assert_eq!(fault.reason, reason::NOT_FOUNDER);
    assert!(fault.message.contains("mainpc founded the fleet home"), "{fault}");
    let fault = Founder::open(&Machine::new().folder).unwrap_err();
    assert_eq!(fault.reason, reason::NO_TRUST);
}

#[test]
fn bad_invitations_are_not_made() {
    let (_main, founder) = founded(start());
    let (_pc2, _member) = joined(&founder, "pc2", start());
    let at = [AT.to_owned()];
    for (name, life, addresses, words) in [
        ("mainpc", INVITATION, &at[..], "is this machine"),
        ("pc2", INVITATION, &at[..], "`tandem revoke pc2` comes first"),
        ("pc3", Duration::ZERO, &at[..], "at most 24 h"),
        ("pc3", Duration::MAX, &at[..], "at most 24 h"),
        ("pc3", 25 * HOUR, &at[..], "at most 24 h"),
        ("pc-", INVITATION, &at[..], "ends in `-`"),
        ("pc3", INVITATION, &["nowhere".to_owned()][..], "is not HOST:PORT"),
        ("pc3", INVITATION, &[][..], "say where it can be reached"),
    ] {
        let fault = founder.invite(&node(name), life, addresses, start()).unwrap_err();
        assert!(fault.message.contains(words), "{name}: {fault}");
    }
    assert!(founder.invitations(start()).unwrap().is_empty());
    assert!(founder.set_addresses(&at).unwrap());
    assert!(!founder.set_addresses(&at).unwrap());
    let invitation = founder.invite(&node("pc3"), INVITATION, &[], start()).unwrap();
    assert_eq!(invitation.addresses, at, "the link has said where it listens");
    let open = founder.invitations(start()).unwrap();
    assert_eq!((open.len(), &open[0].node), (1, &node("pc3")));
    assert!(founder.invitations(start() + HOUR).unwrap().is_empty());
}

/// Two machines that hold the same invitation.
fn rivals(founder: &Founder) -> (Invitation, [(Machine, Joining); 2]) {
    let invitation = invite(founder, "pc2", start());
    let rival = || {
        let machine = Machine::new();
        let joining = Joining::new(&machine.folder, invitation.clone(), start()).unwrap();
        (machine, joining)
    };
    let rivals = [rival(), rival()];
    (invitation, rivals)
}

#[test]
fn an_invitation_lets_one_machine_in_and_answers_it_again() {
    let (_main, founder) = founded(start());
    let (_invitation, [(_first, one), (_second, two)]) = rivals(&founder);
    let answer = founder.admit(&one.request().unwrap(), start()).unwrap();
    // The answer was lost; the key is the same, its signature is not.
    let again = one.request().unwrap();
    assert_ne!(again.csr, one.request().unwrap().csr);
    assert_eq!(founder.admit(&again, start() + Duration::from_secs(60)), Ok(answer));
    let fault = founder.admit(&two.request().unwrap(), start()).unwrap_err();
    assert_eq!(fault.reason, reason::INVITATION_USED);
    assert!(fault.message.contains("`tandem revoke pc2` shuts it out"), "{fault}");
    assert_eq!(founder.members().unwrap().len(), 2);
    let fault = founder.admit(&again, start() + HOUR).unwrap_err();
    assert_eq!(fault.reason, reason::INVITATION_EXPIRED, "the time is over for whoever used it, too");
    founder.revoke(&node("pc2"), start()).unwrap();
    let fault = founder.admit(&again, start()).unwrap_err();
    assert_eq!(fault.reason, reason::REVOKED, "{fault}");
}

#[test]
fn a_join_goes_on_after_a_crash_with_the_same_key() {
    let (_main, founder) = founded(start());
    let (invitation, [(machine, joining), _]) = rivals(&founder);
    let answer = founder.admit(&joining.request().unwrap(), start()).unwrap();
    drop(joining);
    let joining = Joining::new(&machine.folder, invitation, start()).unwrap();
    assert_eq!(founder.admit(&joining.request().unwrap(), start()), Ok(answer.clone()));
    joining.finish(&answer, start()).unwrap();
    // Another invitation is another key.
    let machine = Machine::new();
    let [one, two] = ["pc3", "pc4"].map(|name| {
        let joining = Joining::new(&machine.folder, invite(&founder, name, start()), start()).unwrap();
        founder.admit(&joining.request().unwrap(), start()).unwrap()
    });
    let key = |answer: &Admission| crate::certificate::Certificate::read(&answer.chain[0]).unwrap().key;
    assert_ne!(key(&one), key(&two));
}

#[test]
fn a_join_that_is_refused_changes_nothing() {
    let (main, founder) = founded(start());
    let replaced = invite(&founder, "pc2", start());
    let (invitation, [(_machine, joining), _]) = rivals(&founder);
    let good = joining.request().unwrap();
    let unknown = |secret| JoinRequest { secret, ..good.clone() };
    let mut broken = good.csr.clone();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let ledger = std::fs::read(main.file("members.json")).unwrap();
    for (request, after, expected) in [
        (unknown(Secret::new([7; 32])), Duration::ZERO, reason::INVITATION_UNKNOWN),
        (unknown(replaced.secret), Duration::ZERO, reason::INVITATION_UNKNOWN),
        (JoinRequest { node: node("pc3"), ..good.clone() }, Duration::ZERO, reason::INVITATION_OTHER_NODE),
        (good.clone(), INVITATION, reason::INVITATION_EXPIRED),
        (JoinRequest { csr: broken, ..good.clone() }, Duration::ZERO, reason::BAD_FIELD),
        (JoinRequest { csr: Vec::new(), ..good.clone() }, Duration::ZERO, reason::BAD_FIELD),
        (JoinRequest { csr: vec![0x30; 9_000], ..good.clone() }, Duration::ZERO, reason::BAD_FIELD),
    ] {
        let fault = founder.admit(&request, start() + after).unwrap_err();
        assert_eq!(fault.reason, expected, "{fault}");
        assert_eq!(std::fs::read(main.file("members.json")).unwrap(), ledger, "{fault}");
    }
    // Revoking somebody who has not come yet ends the invitation.
    founder.revoke(&node("pc2"), start()).unwrap();
    let fault = founder.admit(&good, start()).unwrap_err();
    assert_eq!(fault.reason, reason::INVITATION_UNKNOWN);
    assert_eq!(invitation.node, node("pc2"));
}

#[test]
fn names_come_from_the_invitation_and_never_from_the_request() {
    let (_main, founder) = founded(start());
    let invitation = invite(&founder, "pc2", start());
    let key = rcgen::KeyPair::generate().unwrap();
    let fleet = founder.fleet().unwrap();
    let mut asked = rcgen::CertificateParams::new([crate::fleet::dns_name(&node("mainpc"), &fleet.id)]).unwrap();
    asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = asked.serialize_request(&key).unwrap().der().to_vec();
    let request = JoinRequest { secret: invitation.secret, csr, node: node("pc2") };
    let answer = founder.admit(&request, start()).unwrap();
    let read = crate::certificate::Certificate::read(&answer.chain[0]).unwrap();
    assert_eq!(read.who, Some((node("pc2"), fleet.id)));
    let (_, read) = x509_parser::parse_x509_certificate(&answer.chain[0]).unwrap();
    assert!(!read.is_ca());
}

#[test]
fn an_answer_of_somebody_else_is_refused_and_nothing_is_written() {
    let (_main, founder) = founded(start());
    let (_invitation, [(machine, joining), (_other, rival)]) = rivals(&founder);
    let (_foreign, stranger) = founded(start());
    let theirs = |founder: &Founder, name: &str| {
        let machine = Machine::new();
        let joining = Joining::new(&machine.folder, invite(founder, name, start()), start()).unwrap();
        founder.admit(&joining.request().unwrap(), start()).unwrap()
    };
    let (foreign, other_node) = (theirs(&stranger, "pc2"), theirs(&founder, "pc3"));
    let good = founder.admit(&joining.request().unwrap(), start()).unwrap();
    let mixed = |chain: &[Vec<u8>], crl: &[u8]| Admission { chain: chain.to_vec(), crl: crl.to_vec(), ..good.clone() };
    for (answer, joining, after, words) in [
        (&foreign, &joining, Duration::ZERO, "does not come from the CA that the invitation names"),
        (&mixed(&foreign.chain, &good.crl), &joining, Duration::ZERO, "does not come from the CA"),
        (&mixed(&[foreign.chain[0].clone(), good.chain[1].clone()], &good.crl), &joining, Duration::ZERO, "is refused"),
        (&mixed(&good.chain[..1], &good.crl), &joining, Duration::ZERO, "does not hold"),
        (&mixed(&good.chain, &foreign.crl), &joining, Duration::ZERO, "is not signed by this fleet's CA"),
        (&mixed(&good.chain, b"nonsense"), &joining, Duration::ZERO, "is not signed by this fleet's CA"),
        (&other_node, &joining, Duration::ZERO, "pc3 answers where pc2 was to answer"),
        (&good, &rival, Duration::ZERO, "a key that is not this machine's"),
        (&good, &joining, 30 * DAY, "expired 23 d ago"),
    ] {
        let fault = joining.finish(answer, start() + after).unwrap_err();
        assert_eq!(fault.reason, reason::FOREIGN_CA, "{fault}");
        assert!(fault.message.contains(words), "{fault}");
        assert_eq!(machine.folder.fleet(), Ok(None));
    }
    let fault = joining.finish(&good, start() - 4 * HOUR).unwrap_err();
    assert!(fault.message.contains("the clocks differ by at least 4 h"), "{fault}");
    joining.finish(&good, start()).unwrap();
}

#[test]
fn a_renewal_needs_the_key_of_a_member() {
    let (_main, founder) = founded(start());
    let (pc2, member) = joined(&founder, "pc2", start());
    let (_foreign, stranger) = founded(start());
    let (_there, foreigner) = joined(&stranger, "pc2", start());
    let later = start() + 2 * DAY;
    let fault = founder.renew(&foreigner.renewal(later).unwrap().unwrap(), later).unwrap_err();
    assert_eq!(fault.reason, reason::NOT_A_MEMBER);
    let (before, foreign) = (certificate(&pc2), renew(&stranger, &foreigner, later).unwrap());
    assert_eq!(member.renewed(&foreign.chain, &foreign.crl, later).unwrap_err().reason, reason::FOREIGN_CA);
    let good = renew(&founder, &member, later).unwrap();
    let (_pc3, other) = joined(&founder, "pc3", start());
    let other = renew(&founder, &other, later).unwrap();
    assert_eq!(member.renewed(&other.chain, &good.crl, later).unwrap_err().reason, reason::FOREIGN_CA);
    assert_eq!(member.renewed(&good.chain, &foreign.crl, later).unwrap_err().reason, reason::FOREIGN_CA);
    assert_eq!(certificate(&pc2), before);
    member.renewed(&good.chain, &good.crl, later).unwrap();
    assert_ne!(certificate(&pc2), before);
}

#[test]
fn a_member_that_asks_without_end_is_put_off() {
    let (_main, founder) = founded(start());
    let (_pc2, member) = joined(&founder, "pc2", start());
    let later = start() + DAY;
    let asked = (0..100).map_while(|_| renew(&founder, &member, later).ok()).count();
    assert_eq!(asked, 63, "and one from the join");
    let fault = renew(&founder, &member, later).unwrap_err();
    assert_eq!((fault.reason.as_str(), fault.retry_after), (reason::TOO_MANY_ATTEMPTS, Some(DAY)));
    assert!(renew(&founder, &member, later + 7 * DAY).is_ok());
}

#[test]
fn an_older_list_of_revoked_certificates_is_refused() {
    let (main, founder) = founded(start());
    let (pc2, member) = joined(&founder, "pc2", start());
    let (_pc3, _other) = joined(&founder, "pc3", start());
    let old = main.folder.crl().unwrap();
    let new = founder.revoke(&node("pc3"), start()).unwrap();
    assert!(new.number > old.number);
    assert!(member.take_crl(&new.der).unwrap());
    let fault = member.take_crl(&old.der).unwrap_err();
    assert_eq!(fault.reason, reason::OLD_LIST, "{fault}");
    let (foreign, _stranger) = founded(start());
    let fault = member.take_crl(&foreign.folder.crl().unwrap().der).unwrap_err();
    assert_eq!(fault.reason, reason::FOREIGN_CA);
    let mut broken = new.der.clone();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(member.take_crl(&broken).is_err());
    assert_eq!(pc2.folder.crl().unwrap(), new);
}

#[test]
fn who_cannot_be_revoked_is_named() {
    let (_main, founder) = founded(start());
    let fault = founder.revoke(&node("pc9"), start()).unwrap_err();
    assert!(fault.message.contains("no member is called pc9; there are mainpc"), "{fault}");
    let fault = founder.revoke(&node("mainpc"), start()).unwrap_err();
    assert!(fault.message.contains("holds its CA"), "{fault}");
}

#[test]
fn what_ended_long_ago_is_forgotten_and_a_member_never() {
    let (main, founder) = founded(start());
    let (_pc2, member) = joined(&founder, "pc2", start());
    let (_pc3, _gone) = joined(&founder, "pc3", start());
    founder.revoke(&node("pc3"), start()).unwrap();
    let later = start() + 400 * DAY;
    let renewed = renew(&founder, &member, later).unwrap();
    let text = std::fs::read_to_string(main.file("members.json")).unwrap();
    assert!(!text.contains("pc3") && text.contains("pc2"), "{text}");
    member.renewed(&renewed.chain, &renewed.crl, later).unwrap();
}

#[test]
fn the_node_and_a_command_each_see_what_the_other_did() {
    let (main, founder) = founded(start());
    let command = Founder::open(&main.folder).unwrap();
    let invitation = invite(&command, "pc2", start());
    let machine = Machine::new();
    let joining = Joining::new(&machine.folder, invitation, start()).unwrap();
    founder.admit(&joining.request().unwrap(), start()).unwrap();
    assert_eq!(command.members().unwrap().len(), 2);
    // Many at once: the lock lets one after the other write.
    let names: Vec<String> = (10..18).map(|i| format!("pc{i}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let folder = Folder::open(main.folder.path()).unwrap();
            scope.spawn(move || invite(&Founder::open(&folder).unwrap(), name, start()));
        }
    });
    assert_eq!(founder.invitations(start()).unwrap().len(), names.len());
}
