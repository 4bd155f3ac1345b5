//! What this program and this machine bring to a plan.

use tandem_agents::{machine, program};
use tandem_fleet::Facts;
use tandem_types::{Fault, NodeName};

/// All that is known before a fleet file is read. `here` is the node that this machine is, where that is known.
pub(crate) fn gather(here: Option<&NodeName>) -> Result<Facts, Fault> {
    program::facts(here.map(|node| (node.clone(), machine::here())).into_iter().collect())
}

/// The name this machine goes by on its network.
pub(crate) fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}
