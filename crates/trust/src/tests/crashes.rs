//! Writes that end half-way.

use std::fs;

use super::{Machine, founded, invite, joined, node, start};
use crate::{Founder, Identity, Joining, Member};

/// A file cannot take the name of a folder: the write ends there as a full disk or a power cut would end it.
struct Obstacle<'a>(&'a Machine, &'a str);

impl<'a> Obstacle<'a> {
    fn new(machine: &'a Machine, name: &'a str) -> Self {
        fs::create_dir_all(machine.file(name).join("full")).unwrap();
        Self(machine, name)
    }
}

impl Drop for Obstacle<'_> {
    fn drop(&mut self) {
        fs::remove_dir_all(self.0.file(self.1)).unwrap();
    }
}

#[test]
fn a_founding_that_is_cut_short_leaves_nothing_and_can_be_repeated() {
    for name in ["ca.key", "ca.pem", "node.key", "node.pem", "crl.pem", "members.json"] {
        let machine = Machine::new();
        let obstacle = Obstacle::new(&machine, name);
        let fault = Founder::init(&machine.folder, "home", &node("mainpc"), start()).unwrap_err();
        assert!(fault.message.contains(name), "{name}: {fault}");
        drop(obstacle);
        assert_eq!(machine.folder.fleet(), Ok(None), "{name}");
        let founder = Founder::init(&machine.folder, "home", &node("mainpc"), start()).unwrap();
        joined(&founder, "pc2", start());
        Identity::load(&machine.folder).unwrap();
    }
}

#[test]
fn a_join_that_is_cut_short_leaves_nothing_and_can_be_repeated() {
    for name in ["node.key", "ca.pem", "node.pem", "crl.pem"] {
        let (_main, founder) = founded(start());
        let machine = Machine::new();
        let invitation = invite(&founder, "pc2", start());
        let joining = Joining::new(&machine.folder, invitation.clone(), start()).unwrap();
        let answer = founder.admit(&joining.request().unwrap(), start()).unwrap();
        let obstacle = Obstacle::new(&machine, name);
        let fault = joining.finish(&answer, start()).unwrap_err();
        assert!(fault.message.contains(name), "{name}: {fault}");
        drop((obstacle, joining));
        assert_eq!(machine.folder.fleet(), Ok(None), "{name}");
        assert!(Member::open(&machine.folder).is_err() && Identity::load(&machine.folder).is_err(), "{name}");
        let joining = Joining::new(&machine.folder, invitation, start()).unwrap();
        let answer = founder.admit(&joining.request().unwrap(), start()).unwrap();
        joining.finish(&answer, start()).unwrap();
        Identity::load(&machine.folder).unwrap();
    }
}

#[test]
fn an_admission_that_is_not_on_disk_is_not_given() {
    let (main, founder) = founded(start());
    let machine = Machine::new();
    let joining = Joining::new(&machine.folder, invite(&founder, "pc2", start()), start()).unwrap();
    let request = joining.request().unwrap();
    // Nothing can take the place of the file's successor.
    let obstacle = Obstacle::new(&main, ".members.json.new");
    assert!(founder.admit(&request, start()).is_err());
    drop(obstacle);
    assert_eq!(founder.members().unwrap().len(), 1);
    let answer = founder.admit(&request, start()).unwrap();
    joining.finish(&answer, start()).unwrap();
}

#[test]
fn a_list_of_revoked_certificates_that_was_not_written_is_made_up_for() {
    let (main, founder) = founded(start());
    let (_pc2, member) = joined(&founder, "pc2", start());
    let obstacle = Obstacle::new(&main, ".crl.pem.new");
    assert!(founder.revoke(&node("pc2"), start()).is_err());
    drop(obstacle);
    assert_eq!(main.folder.crl().unwrap().number, 1, "the list stayed behind");
    let later = start() + 2 * super::DAY;
    assert!(founder.renew(&member.renewal(later).unwrap().unwrap(), later).is_err(), "it is revoked all the same");
    let list = main.folder.crl().unwrap();
    assert_eq!(list.number, 2);
    assert!(member.take_crl(&list.der).unwrap());
}

#[test]
fn damaged_files_are_named_with_what_to_do() {
    for name in ["ca.pem", "node.pem", "node.key", "crl.pem", "fleet.json"] {
        let (main, _founder) = founded(start());
        fs::write(main.file(name), "-----BEGIN NONSENSE-----").unwrap();
        let fault = Identity::load(&main.folder).unwrap_err();
        assert!(fault.message.contains(&format!("{} is damaged", main.file(name).display())), "{name}: {fault}");
    }
    let (main, founder) = founded(start());
    fs::write(main.file("members.json"), "{").unwrap();
    let fault = founder.members().unwrap_err();
    assert!(fault.message.contains("members.json is damaged"), "{fault}");
}
