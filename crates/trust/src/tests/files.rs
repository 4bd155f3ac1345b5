//! Modes of files, and secrets that stay where they are.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use tandem_types::{Fault, reason};

use super::{Machine, founded, invite, joined, start};
use crate::{Folder, Founder, Identity, Joining, Watched};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(machine: &Machine) -> Vec<String> {
    let entries = fs::read_dir(machine.folder.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_file_is_private() {
    let (main, founder) = founded(start());
    let (pc2, _member) = joined(&founder, "pc2", start());
    founder.revoke(&super::node("pc2"), start()).unwrap();
    let under_way = Machine::new();
    let _joining = Joining::new(&under_way.folder, invite(&founder, "pc3", start()), start()).unwrap();
    let all = ["ca.key", "ca.pem", "crl.pem", "fleet.json", "lock", "members.json", "node.key", "node.pem"];
    assert_eq!(names(&main), all);
    assert_eq!(names(&pc2), ["ca.pem", "crl.pem", "fleet.json", "lock", "node.key", "node.pem"]);
    assert_eq!(names(&under_way), ["joining.json", "lock"]);
    for machine in [&main, &pc2, &under_way] {
        assert_eq!(mode(machine.folder.path()), 0o700);
        for name in names(machine) {
            assert_eq!(mode(&machine.file(&name)), 0o600, "{name}");
        }
    }
}

#[test]
fn a_key_that_others_can_read_is_refused_with_what_to_do() {
    let (main, founder) = founded(start());
    let expose = |name: &str| fs::set_permissions(main.file(name), Permissions::from_mode(0o644)).unwrap();
    let refused = |fault: Fault, name: &str| {
        assert_eq!(fault.reason, reason::EXPOSED, "{fault}");
        let path = main.file(name);
        assert!(fault.message.contains(&format!("(mode 644): `chmod 600 {}`", path.display())), "{fault}");
    };
    expose("ca.key");
    refused(Founder::open(&main.folder).unwrap_err(), "ca.key");
    expose("node.key");
    refused(Identity::load(&main.folder).unwrap_err(), "node.key");
    let under_way = Machine::new();
    let invitation = invite(&founder, "pc3", start());
    Joining::new(&under_way.folder, invitation.clone(), start()).unwrap();
    fs::set_permissions(under_way.file("joining.json"), Permissions::from_mode(0o640)).unwrap();
    assert_eq!(Joining::new(&under_way.folder, invitation, start()).unwrap_err().reason, reason::EXPOSED);
    fs::set_permissions(main.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let fault = Folder::open(main.folder.path()).unwrap_err();
    assert!(fault.message.contains("`chmod 700 "), "{fault}");
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let (main, founder) = founded(start());
    let machine = Machine::new();
    let invitation = invite(&founder, "pc2", start());
    let joining = Joining::new(&machine.folder, invitation.clone(), start()).unwrap();
    let request = joining.request().unwrap();
    let watched = Watched::new(main.folder.clone()).unwrap();
    let printed = format!("{founder:?} {joining:?} {invitation:?} {request:?} {watched:?} {:?}", watched.identity());
    let secret = invitation.secret.expose();
    let keys = [main.file("ca.key"), main.file("node.key"), machine.file("joining.json")];
    // The middle of a key's text, and the bytes in it as Debug shows them.
    let mut hidden = vec![crate::fleet::hex(secret), format!("{:?}", secret).trim_matches(['[', ']']).to_owned()];
    for path in keys {
        let text = fs::read_to_string(path).unwrap();
        let pem = text.replace("\\n", "\n");
        let start = pem.find("-----BEGIN").unwrap();
        let end = pem.find("-----END PRIVATE KEY-----").unwrap() + "-----END PRIVATE KEY-----".len();
        let bytes = pem::parse(&pem[start..end]).unwrap().into_contents();
        hidden.push(format!("{:?}", &bytes[40..60]).trim_matches(['[', ']']).to_owned());
        hidden.push(pem[start..].lines().nth(1).unwrap()[8..40].to_owned());
    }
    for part in hidden {
        assert!(part.len() > 20 && !printed.contains(&part), "{part} is printed");
    }
    // What the founder keeps of an invitation does not open it.
    let kept = fs::read_to_string(main.file("members.json")).unwrap();
    assert!(!kept.contains(&crate::fleet::hex(secret)), "{kept}");
    let wrong =
        founder.admit(&crate::JoinRequest { secret: crate::Secret::new([3; 32]), ..request }, start()).unwrap_err();
    assert!(!wrong.message.contains(&crate::fleet::hex(&[3; 32])), "{wrong}");
}

#[test]
fn a_process_notices_renewals_and_revocations() {
    let (main, founder) = founded(start());
    let (_pc2, _member) = joined(&founder, "pc2", start());
    let mut watched = Watched::new(main.folder.clone()).unwrap();
    assert!(!watched.changed().unwrap());
    let first = watched.identity().clone();
    let later = start() + 2 * super::DAY;
    founder.renew_own(later).unwrap();
    assert!(watched.changed().unwrap());
    assert!(!watched.changed().unwrap());
    assert!(watched.identity().ends() > first.ends());
    founder.revoke(&super::node("pc2"), later).unwrap();
    assert!(watched.changed().unwrap());
    assert_eq!(watched.identity().crl_number(), 2);
    // What cannot be read leaves what there was, and is looked at again.
    let crl = fs::read(main.file("crl.pem")).unwrap();
    fs::write(main.file("crl.pem"), "nonsense").unwrap();
    let fault = watched.changed().unwrap_err();
    assert!(fault.message.contains("crl.pem is damaged"), "{fault}");
    assert_eq!(watched.identity().crl_number(), 2);
    fs::write(main.file("crl.pem"), crl).unwrap();
    assert!(watched.changed().unwrap());
}
