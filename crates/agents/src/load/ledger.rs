//! Who was promised what, and how much of it is in use.
//!
//! What a group's processes take is measured; growth is charged to what its agents were promised, the oldest promise
//! first. Growth beyond all of it is use above the promise. It is in what was measured anyway, so it costs nobody room
//! twice; it is shown beside the promise.

use std::collections::{BTreeMap, BTreeSet};

use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_store::reservations::{Reservation, Resource};
use tandem_types::{AgentId, GroupId, NodeName, Timestamp};

use super::asked::kind;

/// A promise and what its holder makes of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise {
    pub(crate) given: Reservation,
    holder: Option<GroupId>,
    /// In use of it, bytes.
    used: u64,
    /// In use beyond it, bytes.
    over: u64,
}

impl Promise {
    pub(crate) fn new(given: Reservation) -> Self {
        let holder = given.of.holder.parse::<AgentId>().ok().map(|agent| agent.group_id());
        Self { given, holder, used: 0, over: 0 }
    }

    /// What of it is not in use yet.
    fn outstanding(&self) -> f64 {
        (self.given.of.amount - self.used as f64).max(0.0)
    }

    /// Bytes that can still be charged to it.
    fn room(&self) -> u64 {
        self.outstanding() as u64
    }

    /// As it is told.
    pub(crate) fn told(&self) -> pb::Reservation {
        let Reservation { id, of, expires } = &self.given;
        // Bytes are whole and exact in a float up to 2^53.
        let (bytes, ratio) = match of.resource {
            Resource::Cpu => (0, of.amount),
            Resource::Vram | Resource::Ram | Resource::Disk => (of.amount as u64, 0.0),
        };
        pb::Reservation {
            reservation_id: id.clone(),
            node: of.node.to_string(),
            card: of.card,
            kind: kind(of.resource).into(),
            bytes,
            ratio,
            holder: of.holder.clone(),
            expires_us: expires.micros(),
            used_bytes: self.used,
            over_bytes: self.over,
            ..Default::default()
        }
    }
}

/// Bytes that groups use: of memory, or of the memory of a card.
pub(crate) type Uses = BTreeMap<(Option<u32>, GroupId), u64>;

/// The promises that are kept, in the order in which they were given.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    promises: Vec<Promise>,
    /// What each group used when it was measured last; none before the first time, when nobody knows what is growth.
    uses: Option<Uses>,
}

impl Ledger {
    /// Takes the promises that hold now; what is charged to those that are known stays so.
    pub(crate) fn set(&mut self, mut holding: Vec<Reservation>) {
        self.promises.retain_mut(|promise| {
            let Some(at) = holding.iter().position(|one| one.id == promise.given.id) else { return false };
            promise.given = holding.swap_remove(at);
            true
        });
        holding.sort_by_key(|one| one.expires);
        self.promises.extend(holding.into_iter().map(Promise::new));
    }

    /// Takes what each group uses now; a group that is left out uses nothing any more.
    pub(crate) fn uses(&mut self, now: Uses) {
        let Some(before) = self.uses.replace(now.clone()) else { return };
        let all: BTreeSet<&(Option<u32>, GroupId)> = before.keys().chain(now.keys()).collect();
        for of @ (card, group) in all {
            let resource = if card.is_some() { Resource::Vram } else { Resource::Ram };
            let [was, is] = [&before, &now].map(|uses| uses.get(of).copied().unwrap_or(0));
            let mut of_group: Vec<&mut Promise> = self
                .promises
                .iter_mut()
                .filter(|p| {
                    p.given.of.resource == resource && p.given.of.card == *card && p.holder.as_ref() == Some(group)
                })
                .collect();
            charge(&mut of_group, is.saturating_sub(was));
            give_back(&mut of_group, was.saturating_sub(is));
        }
    }

    /// Promised on a machine, or on one of its cards, and not in use yet.
    pub(crate) fn outstanding(&self, node: &NodeName, resource: Resource, card: Option<u32>, now: Timestamp) -> f64 {
        let of = |p: &&Promise| p.given.of.resource == resource && p.given.of.card == card;
        self.holding(Some(node), now).into_iter().filter(of).map(Promise::outstanding).sum()
    }

    /// The promises that hold at `now`, soonest to end first.
    pub(crate) fn holding(&self, node: Option<&NodeName>, now: Timestamp) -> Vec<&Promise> {
        let holds = |p: &&Promise| p.given.expires > now && node.is_none_or(|node| p.given.of.node == *node);
        let mut holding: Vec<&Promise> = self.promises.iter().filter(holds).collect();
        holding.sort_by_key(|p| p.given.expires);
        holding
    }

    /// How much is promised in all, in use or not.
    pub(crate) fn promised(&self, resource: Resource, now: Timestamp) -> f64 {
        let amounts = self.holding(None, now).into_iter().filter(|p| p.given.of.resource == resource);
        // The sum of nothing is -0 for floats.
        amounts.map(|p| p.given.of.amount).sum::<f64>() + 0.0
    }
}

fn charge(promises: &mut [&mut Promise], mut growth: u64) {
    for promise in promises.iter_mut() {
        let taken = growth.min(promise.room());
        promise.used += taken;
        growth -= taken;
    }
    if let Some(last) = promises.last_mut() {
        last.over += growth;
    }
}

fn give_back(promises: &mut [&mut Promise], mut freed: u64) {
    let mut less = |from: &mut u64| {
        let given = freed.min(*from);
        *from -= given;
        freed -= given;
    };
    promises.iter_mut().rev().for_each(|promise| less(&mut promise.over));
    promises.iter_mut().rev().for_each(|promise| less(&mut promise.used));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tandem_store::reservations::NewReservation;

    const HOLDER: &str = "pc2/async_pipeline/AsyncProcessor";

    fn node() -> NodeName {
        "pc2".parse().unwrap()
    }

    fn promise(id: &str, amount: u64, expires: i64, holder: &str) -> Reservation {
        let resource = Resource::Ram;
        let of = NewReservation { node: node(), card: None, resource, amount: amount as f64, holder: holder.into() };
        Reservation { id: id.into(), of, expires: Timestamp(expires) }
    }

    fn use_of(bytes: u64) -> Uses {
        [((None, "pc2/async_pipeline".parse().unwrap()), bytes)].into()
    }

    fn outstanding(ledger: &Ledger) -> f64 {
        ledger.outstanding(&node(), Resource::Ram, None, Timestamp(0))
    }

    #[test]
    fn what_is_taken_of_a_card_is_charged_to_what_was_promised_of_it() {
        let of_card = |id: &str, card| {
            let given = promise(id, 100, 60, HOLDER);
            Reservation { of: NewReservation { card: Some(card), resource: Resource::Vram, ..given.of }, ..given }
        };
        let mut ledger = Ledger::default();
        ledger.uses(use_of(0));
        ledger.set(vec![of_card("first", 0), of_card("second", 1), promise("memory", 100, 60, HOLDER)]);
        let holder = || HOLDER.parse::<AgentId>().unwrap().group_id();
        ledger.uses([((None, holder()), 10), ((Some(1), holder()), 40)].into());
        let left = |card| ledger.outstanding(&node(), Resource::Vram, card, Timestamp(0));
        assert_eq!((left(Some(0)), left(Some(1)), outstanding(&ledger)), (100.0, 60.0, 90.0));
    }

    #[test]
    fn growth_is_charged_once_and_what_is_beyond_is_shown() {
        let mut ledger = Ledger::default();
        ledger.uses(use_of(1_000));
        ledger.set(vec![promise("a", 100, 60, HOLDER)]);
        ledger.uses(use_of(1_050));
        // The second promise cannot live off what the first one took.
        ledger.set(vec![promise("a", 100, 60, HOLDER), promise("b", 100, 50, HOLDER)]);
        assert_eq!(outstanding(&ledger), 150.0);
        ledger.uses(use_of(1_150));
        assert_eq!(outstanding(&ledger), 50.0);
        ledger.uses(use_of(1_330));
        let told = |ledger: &Ledger| {
            ledger.promises.iter().map(|p| (p.told().used_bytes, p.told().over_bytes)).collect::<Vec<_>>()
        };
        assert_eq!((outstanding(&ledger), told(&ledger)), (0.0, vec![(100, 0), (100, 130)]));
        ledger.uses(use_of(1_180));
        assert_eq!((outstanding(&ledger), told(&ledger)), (20.0, vec![(100, 0), (80, 0)]));
        // Its process is gone, and with it all use.
        ledger.uses(BTreeMap::new());
        assert_eq!(outstanding(&ledger), 200.0);
    }

    #[test]
    fn only_the_holder_s_group_and_the_node_count() {
        let mut ledger = Ledger::default();
        ledger.uses(use_of(0));
        ledger.set(vec![promise("a", 100, 60, "pc2/other/Other"), promise("b", 30, 10, HOLDER)]);
        ledger.uses(use_of(500));
        assert_eq!(outstanding(&ledger), 100.0);
        assert_eq!(ledger.outstanding(&node(), Resource::Ram, None, Timestamp(60)), 0.0, "over");
        assert_eq!(ledger.outstanding(&"mainpc".parse().unwrap(), Resource::Ram, None, Timestamp(0)), 0.0);
        assert_eq!(ledger.outstanding(&node(), Resource::Disk, None, Timestamp(0)), 0.0);
        assert_eq!(ledger.promised(Resource::Ram, Timestamp(0)), 130.0);
        let ids: Vec<&str> = ledger.holding(None, Timestamp(0)).into_iter().map(|p| p.given.id.as_str()).collect();
        assert_eq!(ids, ["b", "a"], "soonest to end first");
    }

    proptest! {
        /// However use goes up and down, no byte is charged twice and none is charged that was not taken.
        #[test]
        fn charges_follow_the_use(
            amounts in proptest::collection::vec(1u64..1_000, 1..5),
            uses in proptest::collection::vec(0u64..4_000, 1..30),
        ) {
            let mut ledger = Ledger::default();
            ledger.uses(use_of(0));
            ledger.set(amounts.iter().enumerate().map(|(n, a)| promise(&n.to_string(), *a, 9, HOLDER)).collect());
            for bytes in uses {
                ledger.uses(use_of(bytes));
                let (used, over) = ledger.promises.iter().fold((0, 0), |(u, o), p| (u + p.used, o + p.over));
                let all: u64 = amounts.iter().sum();
                prop_assert_eq!((used, over), (bytes.min(all), bytes.saturating_sub(all)));
                prop_assert_eq!(outstanding(&ledger), (all - used) as f64);
            }
        }
    }
}
