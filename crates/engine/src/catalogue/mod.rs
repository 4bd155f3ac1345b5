//! The model catalogue: which models there are for a role, which one fits a machine, and how its file gets here.
//!
//! Three files of facts and rules, and a store:
//! - `models.toml` ([`Catalogue`]) says what each model is, what it needs and the hash that proves its file;
//! - `models-mirror.toml` ([`Mirror`]) names packages that hold byte-exact copies;
//! - [`choose`] takes the best model for a role that fits a machine, and shows its sum;
//! - [`Store`] keeps the files and [fetches](Store::pull) them.
//!
//! All of it blocks: call it from the command line or from a thread that may wait.

mod choose;
mod fields;
mod hub;
mod mirror;
mod model;
mod options;
mod package;
mod partial;
mod progress;
mod pull;
mod store;
#[cfg(test)]
mod tests;

pub use choose::{Choice, Refused, choose};
pub use mirror::{Mirror, PackageKind, Part};
pub use model::{Catalogue, Format, Model, Official, RoleNeed};
pub use options::{PullOptions, Source};
pub use partial::sha256_of;
pub use progress::Progress;
pub use pull::Pulled;
pub use store::{Entry, State, Store};

use tandem_types::Fault;

const MODELS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models.toml"));
const MIRROR: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models-mirror.toml"));

/// The catalogue and the mirror that this program was built with.
pub fn built_in() -> Result<(Catalogue, Mirror), Fault> {
    let catalogue = Catalogue::parse(MODELS)?;
    let mirror = Mirror::parse(MIRROR, &catalogue)?;
    Ok((catalogue, mirror))
}
