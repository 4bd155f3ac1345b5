//! What the host says about its engines: who serves, who died, what they take.

use std::time::Duration;

use tandem_types::{Fault, Timestamp, reason};

use super::engine::{Engine, SETTLED_ANYWAY, Seen, Up};
use super::loading::PAUSE;
use super::{Calibration, Desk, Model, Profile, TINY};

/// Two measurements this far apart that agree mean that memory is steady.
const STEADY: Duration = Duration::from_secs(1);

impl Desk {
    /// The age of what the desk knows; hand it to [`Desk::observe`] with a list that was asked for afterwards.
    pub(in super::super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes the host's list of its engines, asked for at `epoch`. Returns engines that must end: nobody knows their
    /// model, another one runs it already, or their bytes have no room in the share.
    pub(in super::super) fn observe(&mut self, seen: &[Seen], epoch: u64, now: Timestamp) -> Vec<String> {
        self.host_seen = true;
        self.gone.retain(|_, gone| *gone > epoch);
        let names: Vec<String> = self.models.keys().cloned().collect();
        for name in names {
            let Some(Engine::Up(up) | Engine::Leaving { up, .. }) = self.models.get(&name).map(|model| &model.engine)
            else {
                continue;
            };
            let (id, newer) = (up.id.clone(), up.epoch > epoch);
            match seen.iter().find(|seen| seen.id == id) {
                Some(seen) if seen.failed => {
                    let cause = seen.down.clone().unwrap_or_default();
                    self.lost(&name, &cause, now);
                }
                Some(seen) => self.note(&name, seen, epoch, now),
                None if newer => {}
                None => self.lost(&name, "its host no longer has it", now),
            }
        }
        let strays: Vec<&Seen> = seen.iter().filter(|seen| self.is_stray(seen)).collect();
        let refused = strays.into_iter().filter(|seen| !self.adopt(seen, now)).map(|seen| seen.id.clone());
        refused.collect()
    }

    fn is_stray(&self, seen: &Seen) -> bool {
        if self.gone.contains_key(&seen.id) {
            return false;
        }
        match self.models.get(&seen.model).map(|model| &model.engine) {
            // A list may show the engine that is being started.
            Some(Engine::Loading(_)) => false,
            Some(Engine::Up(up) | Engine::Leaving { up, .. }) => up.id != seen.id,
            Some(Engine::None) | None => true,
        }
    }

    /// Takes over an engine that was started by an earlier life of this agent.
    fn adopt(&mut self, seen: &Seen, now: Timestamp) -> bool {
        let free = self.models.get(&seen.model).is_some_and(|model| matches!(model.engine, Engine::None));
        let roles = self.roles_of(&seen.model);
        let Some(payer) = roles.first().cloned().or_else(|| TINY.parse().ok()) else { return false };
        if !free || seen.failed {
            return false;
        }
        let group = self.group.clone();
        let Ok(lease) = self.ledger.grant(&group, &payer, seen.lease_bytes) else { return false };
        self.epoch += 1;
        let (profile, epoch) = (self.profile(&seen.model), self.epoch);
        let Some(model) = self.models.get_mut(&seen.model) else { return false };
        let profile = seen.info.map_or(profile, |info| info.profile);
        let mut up = Up::new(seen, lease, profile, now, epoch);
        if seen.info.is_none() {
            // Its context is not known before it was asked.
            up.down.get_or_insert_with(|| format!("the engine of {} was found running and not asked yet", seen.model));
        }
        model.want = None;
        model.engine = Engine::Up(up);
        self.measure(&seen.model, now);
        true
    }

    fn lost(&mut self, name: &str, cause: &str, now: Timestamp) {
        let leaving = self.models.get(name).is_some_and(|model| matches!(model.engine, Engine::Leaving { .. }));
        self.stopped(name);
        if !leaving {
            let message = format!("the engine of {name} ended: {cause}");
            self.set_back(name, Fault::unavailable(reason::ENGINE_LOST, message), PAUSE, now);
            self.wish(name, 1, now, now);
        }
    }

    fn note(&mut self, name: &str, seen: &Seen, epoch: u64, now: Timestamp) {
        let Some(Engine::Up(up) | Engine::Leaving { up, .. }) = self.models.get_mut(name).map(|m| &mut m.engine) else {
            return;
        };
        if up.restarts != seen.restarts {
            // The old process took its conversations with it.
            up.restarts = seen.restarts;
            up.busy = 0;
            self.tickets.end(name);
        }
        up.endpoint.clone_from(&seen.endpoint);
        if let Some(info) = seen.info {
            up.profile = info.profile;
            up.busy = info.busy;
            up.answered = up.answered.max(info.answered);
        }
        // That it serves is believed only when it was asked itself, and after the last doubt.
        if seen.down.is_some() || (seen.info.is_some() && epoch >= up.doubted) {
            up.down.clone_from(&seen.down);
        }
        up.resident = seen.info.map(|info| info.resident).filter(|bytes| *bytes > 0).or(seen.measured).or(up.resident);
        self.measure(name, now);
    }

    /// Follows the memory of an engine: the peak, whether it is steady, and what its lease should be.
    pub(super) fn measure(&mut self, name: &str, now: Timestamp) {
        let Some(model) = self.models.get_mut(name) else { return };
        let profile_charge = |model: &Model, profile| model.charge(profile, self.limits.batch);
        let adapters = model.adapter_bytes();
        let (Engine::Up(up) | Engine::Leaving { up, .. }) = &mut model.engine else { return };
        let Some(resident) = up.resident else {
            up.unsettled.take_if(|(since, _)| now.since(*since) >= STEADY);
            return;
        };
        self.ledger.measure(up.lease, resident);
        up.peak = up.peak.max(resident.saturating_sub(adapters));
        let steady = match up.unsettled {
            None => true,
            Some((since, Some(before))) if now.since(since) >= STEADY => {
                let same = resident.abs_diff(before) <= before / 100;
                up.unsettled = Some((now, Some(resident)));
                same || now.since(up.since) >= SETTLED_ANYWAY
            }
            Some((since, before)) => {
                up.unsettled = Some(before.map_or((now, Some(resident)), |before| (since, Some(before))));
                false
            }
        };
        if !steady {
            return;
        }
        up.unsettled = None;
        let (profile, lease, peak, load) = (up.ordered, up.lease, up.peak, up.load);
        let known = model.calibration(profile);
        if known.is_none_or(|known| peak > known.peak_bytes) {
            model.calibrations.retain(|(other, _)| *other != profile);
            model.calibrations.push((profile, Calibration { peak_bytes: peak, load: Some(load) }));
        }
        if let Some(bytes) = profile_charge(model, profile) {
            // A peak above the share stays visible as measured bytes above leased ones.
            let _ = self.ledger.resize(lease, bytes);
        }
    }

    /// What was measured, for each engine whose memory is steady: model, profile, figures.
    pub(in super::super) fn calibrations(&self) -> Vec<(String, Profile, Calibration)> {
        let measured = |(name, model): (&String, &Model)| match &model.engine {
            Engine::Up(up) if up.unsettled.is_none() => {
                model.calibration(up.ordered).map(|calibration| (name.clone(), up.ordered, calibration))
            }
            _ => None,
        };
        self.models.iter().filter_map(measured).collect()
    }

    /// Somebody says that the engine behind a ticket does not answer; it gets no tickets until its host has spoken.
    pub(super) fn suspect(&mut self, name: &str) {
        self.epoch += 1;
        let epoch = self.epoch;
        if let Some(Engine::Up(up)) = self.models.get_mut(name).map(|model| &mut model.engine) {
            up.down.get_or_insert_with(|| format!("the engine of {name} did not answer"));
            up.doubted = epoch;
        }
    }

    /// Notes that the engine of a model answered a real request.
    pub(in super::super) fn answered(&mut self, name: &str, now: Timestamp) {
        if let Some(Engine::Up(up)) = self.models.get_mut(name).map(|model| &mut model.engine) {
            up.answered = up.answered.max(now);
        }
    }

    /// Engines that serve and gave no answer since `before`: model and address.
    pub(in super::super) fn unproven(&self, before: Timestamp) -> Vec<(String, String)> {
        let unproven = |(name, model): (&String, &Model)| match &model.engine {
            Engine::Up(up) if up.down.is_none() && up.answered < before => Some((name.clone(), up.endpoint.clone())),
            _ => None,
        };
        self.models.iter().filter_map(unproven).collect()
    }
}
