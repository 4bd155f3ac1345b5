//! The link's words and their wire forms.

use tandem_contract::pb::tandem::link::v1 as pb;
use tandem_link::{Delta, Item, Version};
use tandem_types::{Fault, Timestamp};

use super::desk::{Hello, Telling};

pub(super) fn hello_to_wire(hello: &Hello) -> pb::Hello {
    pb::Hello {
        node: hello.node.to_string(),
        link_version: hello.link_version,
        program_version: hello.program_version.clone(),
        plan_hash: hello.plan_hash.clone(),
        sent_us: hello.sent.micros(),
        ..Default::default()
    }
}

pub(super) fn hello_of_wire(hello: &pb::Hello) -> Result<Hello, Fault> {
    Ok(Hello {
        node: hello.node.parse().map_err(|e| Fault::invalid_field("hello.node", format!("{e}")))?,
        link_version: hello.link_version,
        program_version: hello.program_version.clone(),
        plan_hash: hello.plan_hash.clone(),
        sent: Timestamp(hello.sent_us),
    })
}

pub(super) fn to_wire(telling: Telling) -> pb::Telling {
    pb::Telling {
        hello: hello_to_wire(&telling.hello).into(),
        changes: telling.changes.map(changes_to_wire).into(),
        have_epoch: telling.have.epoch,
        have_counter: telling.have.counter,
        crl_number: telling.crl_number,
        crl: telling.crl.unwrap_or_default(),
        fleet_file: telling.fleet_file.unwrap_or_default(),
        ..Default::default()
    }
}

pub(super) fn of_wire(telling: &pb::Telling) -> Result<Telling, Fault> {
    Ok(Telling {
        hello: hello_of_wire(&telling.hello)?,
        changes: telling.changes.as_option().map(changes_of_wire).transpose()?,
        have: Version { epoch: telling.have_epoch, counter: telling.have_counter },
        crl_number: telling.crl_number,
        crl: Some(telling.crl.clone()).filter(|crl| !crl.is_empty()),
        fleet_file: Some(telling.fleet_file.clone()).filter(|text| !text.is_empty()),
    })
}

fn changes_to_wire(delta: Delta) -> pb::Changes {
    let item = |item: Item| pb::Item { key: item.key, counter: item.counter, value: item.value, ..Default::default() };
    pb::Changes {
        epoch: delta.epoch,
        after: delta.after,
        upto: delta.upto,
        of: delta.of,
        items: delta.items.into_iter().map(item).collect(),
        digest: delta.digest.map(Vec::from).unwrap_or_default(),
        ..Default::default()
    }
}

fn changes_of_wire(changes: &pb::Changes) -> Result<Delta, Fault> {
    let bad = |what: &str| Err(Fault::invalid_field("changes", what));
    let digest = match changes.digest.len() {
        0 => None,
        _ => match changes.digest[..].try_into() {
            Ok(digest) => Some(digest),
            Err(_) => return bad("the digest is not 32 bytes"),
        },
    };
    if changes.after > changes.upto || changes.upto > changes.of || changes.epoch == 0 {
        return bad("the numbers of the changes are not in order");
    }
    let item = |item: &pb::Item| Item { key: item.key.clone(), counter: item.counter, value: item.value.clone() };
    Ok(Delta {
        epoch: changes.epoch,
        after: changes.after,
        upto: changes.upto,
        of: changes.of,
        items: changes.items.iter().map(item).collect(),
        digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_survives_the_wire() {
        let hello = Hello {
            node: "pc2".parse().unwrap(),
            link_version: 1,
            program_version: "0.1.0".into(),
            plan_hash: "abc".into(),
            sent: Timestamp(7),
        };
        let items = vec![
            Item { key: "node".into(), counter: 3, value: Some(vec![1]) },
            Item { key: "group/x".into(), counter: 4, value: None },
        ];
        for (digest, crl) in [(Some([7; 32]), None), (None, Some(vec![1, 2]))] {
            let changes = Some(Delta { epoch: 2, after: 1, upto: 4, of: 9, items: items.clone(), digest });
            let have = Version { epoch: 5, counter: 6 };
            let telling = Telling { hello: hello.clone(), changes, have, crl_number: 8, crl, fleet_file: None };
            assert_eq!(of_wire(&to_wire(telling.clone())), Ok(telling));
        }
        let bare = Telling {
            hello: hello.clone(),
            changes: None,
            have: Version::default(),
            crl_number: 0,
            crl: None,
            fleet_file: Some("x".into()),
        };
        assert_eq!(of_wire(&to_wire(bare.clone())), Ok(bare));
    }

    #[test]
    fn numbers_out_of_order_are_refused() {
        for (epoch, after, upto, of, digest) in [(0, 0, 1, 1, 32), (1, 2, 1, 3, 0), (1, 0, 3, 2, 0), (1, 0, 1, 1, 31)] {
            let changes = pb::Changes { epoch, after, upto, of, digest: vec![0; digest], ..Default::default() };
            assert!(changes_of_wire(&changes).is_err(), "{changes:?}");
        }
    }
}
