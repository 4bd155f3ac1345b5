//! Memory on loan: no model is loaded without a lease, and the leases of a group never exceed its budget.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tandem_types::{Code, Fault, GroupId, Role};

/// A group's share is smaller than the model needs, whatever else is unloaded.
const SHARE_TOO_SMALL: &str = "share_too_small";
/// A group's share is taken by other leases.
const SHARE_FULL: &str = "share_full";

/// Names a lease within its ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Who pays.
    pub group: GroupId,
    /// What the model is for.
    pub role: Role,
    /// Bytes granted.
    pub bytes: u64,
    /// Most bytes the model was seen to use; none before it was measured.
    pub measured: Option<u64>,
}

/// Who has how much of which group's memory. All arithmetic is in bytes.
#[derive(Debug, Default)]
pub struct Ledger {
    budgets: BTreeMap<GroupId, u64>,
    leases: BTreeMap<LeaseId, LeaseInfo>,
    next: u64,
}

impl Ledger {
    /// Sets what a group may lease. A budget below what is leased already stays visible as [`free`](Self::free) zero
    /// and refuses new leases until enough came back.
    pub fn set_budget(&mut self, group: GroupId, bytes: u64) {
        self.budgets.insert(group, bytes);
    }

    /// What a group may lease in all; zero for an unknown group.
    pub fn budget(&self, group: &GroupId) -> u64 {
        self.budgets.get(group).copied().unwrap_or(0)
    }

    /// What a group has leased.
    pub fn leased(&self, group: &GroupId) -> u64 {
        self.leases.values().filter(|lease| lease.group == *group).map(|lease| lease.bytes).sum()
    }

    /// What a group may still lease.
    pub fn free(&self, group: &GroupId) -> u64 {
        self.budget(group).saturating_sub(self.leased(group))
    }

    /// Grants a lease.
    ///
    /// # Errors
    /// `failed_precondition`, `share_too_small`, when the whole budget would not do; `resource_exhausted`,
    /// `share_full`, when it would once others gave back. Both messages carry the arithmetic.
    pub fn grant(&mut self, group: &GroupId, role: &Role, bytes: u64) -> Result<LeaseId, Fault> {
        self.room(group, role, bytes, self.free(group))?;
        let id = LeaseId(self.next);
        self.next += 1;
        self.leases.insert(id, LeaseInfo { group: group.clone(), role: role.clone(), bytes, measured: None });
        Ok(id)
    }

    /// Changes the size of a lease, for example to what was measured.
    ///
    /// # Errors
    /// As for [`grant`](Self::grant), and `not_found`; the lease then stays as it was.
    pub fn resize(&mut self, id: LeaseId, bytes: u64) -> Result<(), Fault> {
        let lease = self.leases.get(&id).ok_or_else(|| Fault::not_found(format!("no lease {id}")))?.clone();
        if bytes > lease.bytes {
            self.room(&lease.group, &lease.role, bytes, self.free(&lease.group) + lease.bytes)?;
        }
        self.leases.insert(id, LeaseInfo { bytes, ..lease });
        Ok(())
    }

    /// Notes what the model was seen to use; the peak stays. False when there is no such lease.
    pub fn measure(&mut self, id: LeaseId, bytes: u64) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        lease.measured = Some(lease.measured.unwrap_or(0).max(bytes));
        true
    }

    /// Takes a lease back; what it was. None when it was given back before.
    pub fn release(&mut self, id: LeaseId) -> Option<LeaseInfo> {
        self.leases.remove(&id)
    }

    /// All leases in order of grant.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, &LeaseInfo)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    fn room(&self, group: &GroupId, role: &Role, bytes: u64, free: u64) -> Result<(), Fault> {
        let budget = self.budget(group);
        if bytes > budget {
            let message = format!("{role} needs {bytes} bytes, the share of {group} is {budget} bytes");
            return Err(Fault::new(Code::FailedPrecondition, SHARE_TOO_SMALL, message));
        }
        if bytes > free {
            let message = format!("{role} needs {bytes} bytes, {free} of {budget} bytes of {group} are free");
            return Err(Fault::new(Code::ResourceExhausted, SHARE_FULL, message));
        }
        Ok(())
    }
}

/// A [`Ledger`] that several owners reach; its leases give themselves back.
#[derive(Debug, Clone, Default)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// The ledger, for as long as the guard lives. Hold it for arithmetic only, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants a lease that is given back when it is dropped.
    ///
    /// # Errors
    /// As for [`Ledger::grant`].
    pub fn lease(&self, group: &GroupId, role: &Role, bytes: u64) -> Result<Lease, Fault> {
        let id = self.lock().grant(group, role, bytes)?;
        let mut lease = Lease::from_grant(group.clone(), role.clone(), bytes);
        lease.source = Some((self.clone(), id));
        Ok(lease)
    }
}

/// The right of one engine to so many bytes, held by the thread that owns the model.
#[derive(Debug)]
pub struct Lease {
    group: GroupId,
    role: Role,
    bytes: u64,
    measured: AtomicU64,
    source: Option<(SharedLedger, LeaseId)>,
}

impl Lease {
    /// A lease whose ledger lives in another process, which granted it before it started this one.
    pub fn from_grant(group: GroupId, role: Role, bytes: u64) -> Self {
        Self { group, role, bytes, measured: AtomicU64::new(0), source: None }
    }

    /// Who pays.
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// What the model is for.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Bytes granted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reports what the model was measured to use; the peak is kept.
    pub fn report(&self, bytes: u64) {
        self.measured.fetch_max(bytes, Ordering::Relaxed);
        if let Some((ledger, id)) = &self.source {
            ledger.lock().measure(*id, bytes);
        }
    }

    /// The most that was reported; zero before the first report.
    pub fn measured(&self) -> u64 {
        self.measured.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((ledger, id)) = &self.source {
            ledger.lock().release(*id);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn group() -> GroupId {
        "mainpc/coordination".parse().unwrap()
    }

    pub(crate) fn role() -> Role {
        "llm.fast".parse().unwrap()
    }

    pub(crate) fn lease(bytes: u64) -> Lease {
        Lease::from_grant(group(), role(), bytes)
    }

    pub(crate) fn ledger(budget: u64) -> SharedLedger {
        let ledger = SharedLedger::default();
        ledger.lock().set_budget(group(), budget);
        ledger
    }

    #[test]
    fn refusals_carry_the_arithmetic() {
        let ledger = ledger(100);
        let fault = ledger.lease(&group(), &role(), 101).unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, SHARE_TOO_SMALL));
        assert_eq!(fault.message, "llm.fast needs 101 bytes, the share of mainpc/coordination is 100 bytes");
        let held = ledger.lease(&group(), &role(), 60).unwrap();
        let fault = ledger.lease(&group(), &role(), 41).unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, SHARE_FULL));
        assert_eq!(fault.message, "llm.fast needs 41 bytes, 40 of 100 bytes of mainpc/coordination are free");
        drop(held);
        assert!(ledger.lease(&group(), &role(), 100).is_ok());
    }

    #[test]
    fn the_measured_peak_is_kept() {
        let ledger = ledger(100);
        let held = ledger.lease(&group(), &role(), 60).unwrap();
        held.report(50);
        held.report(40);
        assert_eq!(held.measured(), 50);
        assert_eq!(ledger.lock().leases().next().unwrap().1.measured, Some(50));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Grant(u8, u64),
        Resize(u64, u64),
        Release(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3u8, 0..200u64).prop_map(|(group, bytes)| Step::Grant(group, bytes)),
            (0..40u64, 0..200u64).prop_map(|(id, bytes)| Step::Resize(id, bytes)),
            (0..40u64).prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn leases_never_exceed_the_budget(budgets in prop::array::uniform3(0..300u64),
                                          steps in prop::collection::vec(step(), 0..80)) {
            let groups = ["a/one", "a/two", "b/one"].map(|g| g.parse::<GroupId>().unwrap());
            let mut ledger = Ledger::default();
            for (group, budget) in groups.iter().zip(budgets) {
                ledger.set_budget(group.clone(), budget);
            }
            for step in steps {
                let before: u64 = ledger.leases().map(|(_, l)| l.bytes).sum();
                let refused = match step {
                    Step::Grant(g, bytes) => {
                        let group = &groups[usize::from(g)];
                        let fits = bytes <= ledger.free(group);
                        let granted = ledger.grant(group, &role(), bytes);
                        prop_assert_eq!(granted.is_ok(), fits);
                        granted.is_err()
                    }
                    Step::Resize(id, bytes) => ledger.resize(LeaseId(id), bytes).is_err(),
                    Step::Release(id) => ledger.release(LeaseId(id)).is_none(),
                };
                for (group, budget) in groups.iter().zip(budgets) {
                    prop_assert!(ledger.leased(group) <= budget);
                    prop_assert_eq!(ledger.leased(group) + ledger.free(group), budget);
                }
                if refused {
                    prop_assert_eq!(before, ledger.leases().map(|(_, l)| l.bytes).sum::<u64>());
                }
            }
        }
    }
}
