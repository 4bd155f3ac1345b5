//! Adapters in llama.cpp's memory. The safe wrapper loads one only while nothing else uses the model, and frees none
//! before the model; both are needed while conversations are under way.

use std::fmt;
use std::mem::ManuallyDrop;
use std::path::Path;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use tandem_types::Fault;

/// An adapter of a model, freed when dropped. Stays on the thread that computes with the model.
pub(crate) struct Native<'m> {
    handle: LlamaLoraAdapter,
    model: &'m LlamaModel,
}

impl<'m> Native<'m> {
    /// Loads the file of an adapter that was read by [`tandem_engine::gguf::AdapterInfo`] for this model. Must be called
    /// on the thread that computes with the model.
    pub(crate) fn load(model: &'m LlamaModel, path: &Path) -> Result<Self, String> {
        // SAFETY: the copy is a second pointer to the same native model and is never dropped, so the model is freed once.
        // What llama.cpp changes through it is its list of adapters, which only the computing thread reads; the others
        // read its vocabulary.
        #[allow(unsafe_code, reason = "the wrapper asks for a model that nothing else borrows")]
        let mut same = ManuallyDrop::new(unsafe { std::ptr::read(model) });
        let handle = same.lora_adapter_init(path).map_err(|error| error.to_string())?;
        Ok(Self { handle, model })
    }

    /// Lays it over all that the context computes from now on.
    pub(crate) fn lay(&mut self, context: &mut LlamaContext<'m>) -> Result<(), Fault> {
        context.lora_adapter_set(&mut self.handle, 1.0).map_err(|e| Fault::internal(format!("lay an adapter: {e}")))
    }

    /// Takes whatever adapter there is off the context.
    pub(crate) fn lift(&mut self, context: &mut LlamaContext<'m>) -> Result<(), Fault> {
        context.lora_adapter_remove(&mut self.handle).map_err(|e| Fault::internal(format!("lift an adapter: {e}")))
    }
}

impl fmt::Debug for Native<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Native").field("model", self.model).finish_non_exhaustive()
    }
}

impl Drop for Native<'_> {
    fn drop(&mut self) {
        let handle = std::ptr::from_ref(&self.handle).cast::<*mut llama_cpp_sys_2::llama_adapter_lora>();
        // SAFETY: the handle is `repr(transparent)` over the pointer that llama.cpp gave, has no destructor of its own and is
        // not used again. The model it belongs to lives as long as `self.model`. A context still has the adapter laid over
        // it only when the context is not computed with again: `Held` lifts it first.
        #[allow(unsafe_code, reason = "the wrapper has no way to free an adapter")]
        unsafe {
            llama_cpp_sys_2::llama_adapter_lora_free(handle.read());
        }
    }
}
