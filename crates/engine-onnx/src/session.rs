//! Opens a model.

use std::path::Path;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::Outlet;
use tandem_types::{Code, Fault};

use crate::{MODEL_CORRUPT, MODEL_MISSING, Runtime};

/// What a model must take and give, by name.
pub(crate) struct Shape {
    pub(crate) inputs: &'static [&'static str],
    pub(crate) outputs: &'static [&'static str],
}

/// Opens the model `name` in the file at `path` for `threads` threads.
///
/// # Errors
/// `not_found`, `model_missing`; `internal`, `model_corrupt`, for what is no model or another one than `shape` says.
pub(crate) fn open(
    runtime: &Runtime,
    name: &str,
    path: &Path,
    threads: usize,
    shape: &Shape,
) -> Result<Session, Fault> {
    if !path.is_file() {
        let message = format!("load {name}: there is no file {}", path.display());
        return Err(Fault::new(Code::NotFound, MODEL_MISSING, message));
    }
    let corrupt =
        |why: String| Fault::new(Code::Internal, MODEL_CORRUPT, format!("load {name} from {}: {why}", path.display()));
    let opened = || -> ort::Result<Session> {
        Session::builder(runtime.environment())?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            // A thread that spins while it waits takes the processor from whoever thinks beside it.
            .with_config_entry("session.intra_op.allow_spinning", "0")?
            .commit_from_file(path)
    };
    let session = opened().map_err(|e| corrupt(e.to_string()))?;
    let has = |of: &[Outlet], names: &[&str]| names.iter().all(|n| of.iter().any(|o| o.name() == *n));
    if has(session.inputs(), shape.inputs) && has(session.outputs(), shape.outputs) {
        return Ok(session);
    }
    let names = |of: &[Outlet]| of.iter().map(|o| o.name().to_owned()).collect::<Vec<_>>().join(", ");
    Err(corrupt(format!(
        "it takes {} and gives {}; {} and {} are wanted",
        names(session.inputs()),
        names(session.outputs()),
        shape.inputs.join(", "),
        shape.outputs.join(", ")
    )))
}
