//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tandem_engine::gguf::KvType;
use tandem_engine_llama::LlamaOptions;
use tandem_types::{GroupId, Role};

/// Runs one language model with llama.cpp and serves `tandem.model.v1.Engine`.
///
/// Says READY over $NOTIFY_SOCKET, with its address, once a real answer has proved it capable. Ends with the process
/// that started it; on SIGTERM it finishes running answers first.
#[derive(Debug, Parser)]
#[command(
    name = "tandem-llama",
    version,
    after_help = "Exit codes: 0 asked to end; 2 wrong arguments; 3 model file missing; 4 model file damaged or \
                  unknown; 5 lease too small; 6 address taken; 7 the engine ended by itself; 8 built for another \
                  processor; 1 anything else.\n\
                  Environment: TANDEM_LOG filters the log on stderr, for example TANDEM_LOG=debug or \
                  TANDEM_LOG=llama-cpp-2=info for llama.cpp's own lines."
)]
pub(crate) struct Args {
    /// The GGUF file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// The model's name in the catalogue
    #[arg(long)]
    name: String,
    /// A role it serves; may be repeated
    #[arg(long = "role", value_name = "ROLE", required = true)]
    pub(crate) roles: Vec<Role>,
    /// The group that pays for the memory
    #[arg(long, value_name = "NODE/GROUP", default_value = "local/engines")]
    pub(crate) group: GroupId,
    /// Bytes it may use
    #[arg(long, value_name = "BYTES")]
    pub(crate) lease_bytes: u64,
    /// Tokens of prompt and answer of one conversation
    #[arg(long = "ctx", value_name = "TOKENS", default_value_t = 4096)]
    context: u32,
    /// Conversations side by side
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// Requests that may wait for a slot
    #[arg(long, default_value_t = 16)]
    queue: u32,
    /// Threads that compute; left out, one on each physical core
    #[arg(long)]
    threads: Option<u32>,
    /// Tokens computed in one step at most
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    batch: u32,
    /// How keys and values are kept: f16 or q8_0
    #[arg(long, default_value_t = KvType::F16)]
    kv: KvType,
    /// Folder of adapters, each in a file NAME.gguf; a request names one
    #[arg(long, value_name = "DIR")]
    adapters: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// How long running answers may take to finish on SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    drain_seconds: u64,
}

impl Args {
    pub(crate) fn options(&self) -> LlamaOptions {
        LlamaOptions {
            path: self.model.clone(),
            name: self.name.clone(),
            context: self.context,
            slots: self.slots,
            queue: self.queue,
            threads: self.threads,
            batch: self.batch,
            kv: self.kv,
            adapters: self.adapters.clone(),
        }
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_a_host_s_arguments_are_taken() {
        Args::command().debug_assert();
        let line = "tandem-llama --model /m.gguf --name smollm2-135m --role llm.tiny --role llm.fast \
                    --lease-bytes 900000000 --ctx 2048 --slots 2 --threads 1 --adapters /a";
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let options = args.options();
        assert_eq!((options.context, options.slots, options.threads), (2048, 2, Some(1)));
        assert_eq!((args.roles.len(), options.adapters), (2, Some("/a".into())));
        assert!(Args::try_parse_from(["tandem-llama", "--model", "/m.gguf"]).is_err());
    }
}
