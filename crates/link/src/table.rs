//! A table that one node owns and others copy.
//!
//! Anti-entropy after Demers et al., "Epidemic Algorithms for Replicated Database Maintenance" (1987), section 1.3, made simple by having
//! one owner for each table: its changes are in one order, so that a copy is described by one number.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// SHA-256 over a whole table.
pub type Digest = [u8; 32];

/// How far a table is. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Version {
    /// Which life of the owner: it rises with each of its starts. 0 is before any.
    pub epoch: u64,
    /// The last change in it. 0 is before any.
    pub counter: u64,
}

/// A change: what is at a key now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The number of the change.
    pub counter: u64,
    /// The value; none when the key is gone.
    pub value: Option<Vec<u8>>,
}

/// Changes of a table, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The owner's life.
    pub epoch: u64,
    /// The last change before these; 0: from nothing.
    pub after: u64,
    /// The last of these.
    pub upto: u64,
    /// The owner's last change when these were put together; later than `upto` while more is to follow.
    pub of: u64,
    /// What is at each key that changed; several changes of one key are one item.
    pub items: Vec<Item>,
    /// Of the owner's whole table; none while more is to follow.
    pub digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    counter: u64,
    value: Option<Vec<u8>>,
}

fn digest<'a>(entries: impl Iterator<Item = (&'a String, &'a Entry)>) -> Digest {
    let mut hash = Sha256::new();
    for (key, entry) in entries {
        // What is gone is not part of the table, however long its owner remembers that it went.
        let Some(value) = &entry.value else { continue };
        for part in [key.as_bytes(), &entry.counter.to_be_bytes(), value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}

/// The owner's side of a table.
#[derive(Debug, Clone)]
pub struct Own {
    version: Version,
    entries: BTreeMap<String, Entry>,
    /// Keys by the number of their last change.
    order: BTreeMap<u64, String>,
    gone: usize,
    /// Up to here changes that took a key away may be forgotten.
    forgotten: u64,
}

impl Own {
    /// Keys that went and are still remembered as gone; a copy that is further behind starts anew.
    const GONE_MOST: usize = 256;

    /// An empty table of a life that no peer has seen: each start of its owner needs a higher one.
    pub fn new(epoch: u64) -> Self {
        let version = Version { epoch, counter: 0 };
        Self { version, entries: BTreeMap::new(), order: BTreeMap::new(), gone: 0, forgotten: 0 }
    }

    /// How far it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What it holds.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        present(&self.entries)
    }

    /// Puts a value at a key; whether that changed anything.
    pub fn set(&mut self, key: &str, value: Vec<u8>) -> bool {
        self.put(key, Some(value))
    }

    /// Takes a key away; whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.value.is_some()) && self.put(key, None)
    }

    fn put(&mut self, key: &str, value: Option<Vec<u8>>) -> bool {
        let old = self.entries.get(key);
        if old.is_some_and(|entry| entry.value == value) {
            return false;
        }
        if let Some(entry) = old {
            self.order.remove(&entry.counter);
            self.gone -= usize::from(entry.value.is_none());
        }
        self.gone += usize::from(value.is_none());
        self.version.counter += 1;
        let counter = self.version.counter;
        self.order.insert(counter, key.to_owned());
        self.entries.insert(key.to_owned(), Entry { counter, value });
        self.forget();
        true
    }

    fn forget(&mut self) {
        while self.gone > Self::GONE_MOST {
            let oldest = self.order.iter().find(|(_, key)| self.entries.get(*key).is_some_and(|e| e.value.is_none()));
            let Some((counter, key)) = oldest.map(|(counter, key)| (*counter, key.clone())) else { return };
            self.order.remove(&counter);
            self.entries.remove(&key);
            self.gone -= 1;
            self.forgotten = counter;
        }
    }

    /// What a copy that is at `have` lacks, at most `most` items of it.
    pub fn since(&self, have: Version, most: usize) -> Delta {
        let known = have.epoch == self.version.epoch && have.counter >= self.forgotten;
        let after = if known { have.counter.min(self.version.counter) } else { 0 };
        let later = self.order.range(after + 1..).take(most);
        let items: Vec<Item> = later
            .filter_map(|(counter, key)| {
                let value = self.entries.get(key)?.value.clone();
                Some(Item { key: key.clone(), counter: *counter, value })
            })
            .collect();
        let upto = match items.last() {
            Some(last) if items.len() == most => last.counter,
            _ => self.version.counter,
        };
        let of = self.version.counter;
        Delta { epoch: self.version.epoch, after, upto, of, items, digest: (upto == of).then(|| self.digest()) }
    }

    /// Over the whole table.
    pub fn digest(&self) -> Digest {
        digest(self.entries.iter())
    }
}

/// What taking a delta did to a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// These keys changed; none when all of it was known.
    Changed(Vec<String>),
    /// It does not follow on what the copy has, or the copy was found to be wrong: the owner has to send what comes after
    /// [`Copy::have`].
    Gap,
    /// It is of an earlier life of the owner, or behind what the copy has.
    Old,
}

/// Another node's side of a table: it follows its owner and is never ahead of it.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    version: Version,
    /// The owner's last change that it knows of. Between the pieces of a large delta it is ahead of `version`: then a key
    /// that changed again later is not there yet, and only what was put together as late or later brings it.
    of: u64,
    entries: BTreeMap<String, Entry>,
}

impl Copy {
    /// How far it is; what its owner has to know to send the rest.
    pub fn have(&self) -> Version {
        self.version
    }

    /// What it holds.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        present(&self.entries)
    }

    /// The value at a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.entries.get(key)?.value.as_deref()
    }

    /// Over the whole copy.
    pub fn digest(&self) -> Digest {
        digest(self.entries.iter())
    }

    /// Takes what its owner sent. Deltas may come twice, late or out of order.
    pub fn take(&mut self, delta: Delta) -> Taken {
        if delta.epoch < self.version.epoch {
            return Taken::Old;
        }
        let anew = delta.epoch > self.version.epoch;
        if anew && delta.after != 0 {
            return Taken::Gap;
        }
        let have = if anew { 0 } else { self.version.counter };
        if !anew && (delta.of < self.of || delta.upto < have) {
            return Taken::Old;
        }
        if delta.after > have {
            return Taken::Gap;
        }
        let mut changed: Vec<String> = Vec::new();
        // From nothing: what the owner does not name is no longer there.
        if anew || (delta.after == 0 && delta.upto > have) {
            let named = |key: &String| delta.items.iter().any(|item| item.key == *key);
            changed.extend(std::mem::take(&mut self.entries).into_keys().filter(|key| !named(key)));
        }
        (self.version, self.of) = (Version { epoch: delta.epoch, counter: delta.upto }, delta.of);
        for Item { key, counter, value } in delta.items {
            if counter > have || !self.entries.contains_key(&key) && value.is_some() {
                changed.push(key.clone());
                match value {
                    Some(_) => drop(self.entries.insert(key, Entry { counter, value })),
                    None => drop(self.entries.remove(&key)),
                }
            }
        }
        if delta.digest.is_some_and(|digest| digest != self.digest()) {
            // The table stays as it is for readers until all of it has come again.
            (self.version.counter, self.of) = (0, 0);
            return Taken::Gap;
        }
        Taken::Changed(changed)
    }
}

fn present(entries: &BTreeMap<String, Entry>) -> impl Iterator<Item = (&str, &[u8])> {
    entries.iter().filter_map(|(key, entry)| Some((key.as_str(), entry.value.as_deref()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(epoch: u64, keys: &[&str]) -> Own {
        let mut own = Own::new(epoch);
        for key in keys {
            own.set(key, format!("{key}{epoch}").into_bytes());
        }
        own
    }

    fn keys(copy: &Copy) -> Vec<&str> {
        copy.iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn only_what_changed_travels() {
        let mut own = own(1, &["a", "b", "c"]);
        let mut copy = Copy::default();
        assert_eq!(copy.take(own.since(copy.have(), 100)), Taken::Changed(vec!["a".into(), "b".into(), "c".into()]));
        assert!(!own.set("a", b"a1".to_vec()), "the same value is no change");
        assert!(own.set("b", b"new".to_vec()) && own.remove("c") && !own.remove("c"));
        let delta = own.since(copy.have(), 100);
        assert_eq!(delta.items.iter().map(|i| i.key.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(copy.take(delta.clone()), Taken::Changed(vec!["b".into(), "c".into()]));
        assert_eq!((keys(&copy), copy.digest()), (vec!["a", "b"], own.digest()));
        assert_eq!(copy.take(delta), Taken::Changed(vec![]), "the same again changes nothing");
    }

    #[test]
    fn what_comes_out_of_order_is_old_or_a_gap() {
        let mut own = own(1, &["a"]);
        let mut copy = Copy::default();
        let first = own.since(Version::default(), 100);
        own.set("a", b"2".to_vec());
        let second = own.since(Version { epoch: 1, counter: 1 }, 100);
        assert_eq!(copy.take(second.clone()), Taken::Gap);
        assert_eq!(copy.have(), Version::default());
        assert_eq!(copy.take(first.clone()), Taken::Changed(vec!["a".into()]));
        assert_eq!(copy.take(second), Taken::Changed(vec!["a".into()]));
        assert_eq!(copy.take(first), Taken::Old);
        assert_eq!(copy.get("a"), Some(&b"2"[..]));
    }

    #[test]
    fn a_new_life_of_the_owner_replaces_the_table_and_an_old_one_never_does() {
        let old = own(1, &["a", "b"]);
        let new = own(2, &["b"]);
        let mut copy = Copy::default();
        copy.take(old.since(copy.have(), 100));
        assert_eq!(copy.take(new.since(copy.have(), 100)), Taken::Changed(vec!["a".into(), "b".into()]));
        assert_eq!(copy.get("b"), Some(&b"b2"[..]));
        assert_eq!(copy.take(old.since(Version::default(), 100)), Taken::Old);
        assert_eq!(keys(&copy), ["b"]);
    }

    #[test]
    fn a_large_table_comes_in_pieces() {
        let own = own(1, &["a", "b", "c", "d", "e"]);
        let mut copy = Copy::default();
        let mut pieces = 0;
        while copy.have() != own.version() {
            let delta = own.since(copy.have(), 2);
            assert_eq!(delta.digest.is_some(), delta.upto == 5);
            assert!(matches!(copy.take(delta), Taken::Changed(_)));
            pieces += 1;
        }
        assert_eq!((pieces, copy.digest()), (3, own.digest()));
    }

    #[test]
    fn a_copy_that_is_not_what_its_owner_has_is_found_out_and_starts_anew() {
        let mut own = own(1, &["a", "b"]);
        let mut copy = Copy::default();
        copy.take(own.since(copy.have(), 100));
        copy.entries.get_mut("a").unwrap().value = Some(b"wrong".to_vec());
        own.set("b", b"2".to_vec());
        assert_eq!(copy.take(own.since(copy.have(), 100)), Taken::Gap);
        assert_eq!(keys(&copy), ["a", "b"], "readers keep what there was");
        assert!(matches!(copy.take(own.since(copy.have(), 100)), Taken::Changed(_)));
        assert_eq!(copy.digest(), own.digest());
    }

    #[test]
    fn what_went_long_ago_is_forgotten_and_a_copy_from_before_starts_anew() {
        let mut own = own(1, &["stays"]);
        for i in 0..1000 {
            own.set(&format!("k{i}"), vec![1]);
        }
        let mut copy = Copy::default();
        copy.take(own.since(copy.have(), 5000));
        for i in 0..1000 {
            own.remove(&format!("k{i}"));
        }
        assert!(own.entries.len() <= Own::GONE_MOST + 1);
        let delta = own.since(copy.have(), 5000);
        assert_eq!(delta.after, 0);
        assert!(matches!(copy.take(delta), Taken::Changed(_)));
        assert_eq!((keys(&copy), copy.digest()), (vec!["stays"], own.digest()));
    }
}
