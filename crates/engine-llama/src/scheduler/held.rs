//! Adapters in memory, and the one that is laid over the context.

use std::sync::Arc;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::LlamaModel;
use tandem_types::{Fault, reason};

use crate::adapters::{Adapter, unfit};
use crate::native::Native;

/// Adapters that stay in memory without being used; more only where more slots need them at once.
const KEPT: usize = 4;

/// The adapters that were loaded.
pub(super) struct Held<'m> {
    model: &'m LlamaModel,
    /// The longest unused first.
    loaded: Vec<(Arc<Adapter>, Native<'m>)>,
    most: usize,
    /// The one laid over the context.
    laid: Option<u64>,
}

impl<'m> Held<'m> {
    /// None yet, for a context of so many slots.
    pub(super) fn new(model: &'m LlamaModel, slots: usize) -> Self {
        Self { model, loaded: Vec::new(), most: KEPT.max(slots), laid: None }
    }

    /// Has an adapter in memory. For a new one the longest unused leaves that is not in use.
    pub(super) fn hold(
        &mut self,
        adapter: &Arc<Adapter>,
        in_use: impl Fn(u64) -> bool,
        context: &mut LlamaContext<'m>,
    ) -> Result<(), Fault> {
        if let Some(place) = self.loaded.iter().position(|(known, _)| known.number == adapter.number) {
            let used = self.loaded.remove(place);
            self.loaded.push(used);
            return Ok(());
        }
        while self.loaded.len() >= self.most {
            // As many slots as adapters, and one of them is free: there is always one that nobody uses.
            let Some(place) = self.loaded.iter().position(|(known, _)| !in_use(known.number)) else { break };
            if self.laid == Some(self.loaded[place].0.number) {
                self.lay(None, context)?;
            }
            drop(self.loaded.remove(place));
        }
        if !adapter.is_same() {
            let message = format!("the file of adapter `{}` was changed just now; ask again", adapter.name);
            return Err(Fault::unavailable(reason::DISK, message));
        }
        let native = Native::load(self.model, &adapter.path)
            .map_err(|error| unfit(&adapter.name, &adapter.path, &format!("was refused by llama.cpp: {error}")))?;
        tracing::info!(adapter = adapter.name, held = self.loaded.len() + 1, "an adapter was loaded");
        self.loaded.push((adapter.clone(), native));
        Ok(())
    }

    /// Lays an adapter that is in memory, or none, over all that is computed next. Whether that was a change.
    pub(super) fn lay(&mut self, number: Option<u64>, context: &mut LlamaContext<'m>) -> Result<bool, Fault> {
        if self.laid == number {
            return Ok(false);
        }
        let wanted = number.or(self.laid);
        let found = self.loaded.iter_mut().find(|(known, _)| Some(known.number) == wanted);
        let (_, native) = found.ok_or_else(|| Fault::internal("an adapter in use is not in memory"))?;
        if number.is_some() {
            native.lay(context)?
        } else {
            native.lift(context)?
        }
        self.laid = number;
        Ok(true)
    }
}
