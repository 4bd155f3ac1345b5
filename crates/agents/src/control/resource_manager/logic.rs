//! What may still be taken.

use tandem_store::reservations::Resource;

use crate::load::weighing::{Basis, Limits, Outcome, Verdict, weigh};

/// What processor, memory and disk may be filled to. A GPU share is taken whole.
pub(super) const LIMITS: Limits = Limits { ram: 0.80, vram: 1.0, cpu: 0.80, disk: 0.80 };

/// Whether `asked` fits beside what is measured and what is promised and not in use.
pub(super) fn admit(resource: Resource, basis: &Basis, asked: f64, limits: &Limits) -> Outcome {
    weigh(resource, basis, asked, None, limits, Verdict::Deny)
}

/// Why nothing is given while tasks wait for memory; none while they do not, or the kernel does not say.
pub(super) fn pressed(pressure: Option<f64>, most: f64) -> Option<String> {
    let pressure = pressure.filter(|pressure| *pressure > most)?;
    let (is, most) = (pressure * 100.0, most * 100.0);
    Some(format!("memory pressure: tasks waited for memory in {is:.1} % of the last 10 s, the limit is {most:.0} %"))
}
