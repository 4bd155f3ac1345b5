//! The contract between agents: messages, typed RPCs, the one error table, deadlines and transports.
//!
//! `proto/tandem/<capability>/v1` is the source. A caller writes
//! `client.unary(rpc::sessions::GET_WINDOW, request, &call)`, a provider
//! `Service::new().unary(rpc::sessions::GET_WINDOW, handler)`; both see owned messages and [`tandem_types::Fault`],
//! never the wire.

mod call;
mod channel;
mod client;
mod closing;
mod convert;
mod edge;
mod errors;
mod idle;
mod raw;
pub mod rpc;
mod secure;
mod service;
pub mod strict;

pub use call::{AGENT_HEADER, CALLER_HEADER, Call, DRAINING_HEADER, HOP_COST, TRACEPARENT_HEADER, TraceParent};
pub use channel::{Body, Channel, LocalService, full_body, is_unsent, local};
pub use client::{BidiCall, BidiReceiver, BidiSender, Client, FaultStream};
pub use closing::serve_until;
pub use convert::state_of;
pub use edge::{Ended, Observer};
pub use errors::{ErrorRow, TABLE, error_info, fault_from_info, fault_from_wire, row, to_wire};
pub use secure::{Remote, SecureListener, Trust, members_only};
pub use service::{Reply, Service, refuse};

pub use buffa::Message;

/// Largest request that is read.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// The compiled contract as a serialised `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.binpb"));

/// Identifies this build's contract: SHA-256 over the descriptor set, the first 16 hexadecimal digits.
pub fn contract_hash() -> &'static str {
    use sha2::Digest as _;
    static HASH: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        sha2::Sha256::digest(DESCRIPTOR_SET).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    });
    &HASH
}

/// Generated messages, one module per package: `pb::tandem::session::v1::AppendTurnRequest`.
#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, clippy::unwrap_used, clippy::large_futures)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::print_stdout)]
pub mod pb {
    connectrpc::include_generated!("_messages.rs");
}
