//! What the two authorities on the load of a machine have in common: SystemDigitalTwin on its own machine, ResourceManager
//! on another. Both measure, promise and count alike; when each says no is its own.

pub(crate) mod asked;
pub(crate) mod desk;
pub(crate) mod figures;
pub(crate) mod ledger;
pub(crate) mod machine;
pub(crate) mod processes;
pub(crate) mod weighing;
