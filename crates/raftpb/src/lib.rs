//! The wire and disk schema of kvd.
//!
//! The public API of every kvd crate speaks [`raft::eraftpb`] types. What is written to a disk or a socket is
//! encoded here with `prost`, and bytes that come from outside are decoded here and nowhere else: the parser of
//! the `protobuf` crate that raft brings along recurses without a bound (RUSTSEC-2024-0437), prost's does not.
//!
//! | module | holds |
//! |---|---|
//! | [`codec`] | entries, hard states, conf states and messages to bytes and back |
//! | [`validate`] | what a message from outside must satisfy before raft may see it |
//! | [`node`] | membership, batches and sessions: what `kvd-node` replicates |
//! | [`peers`] | the traits between a transport, a snapshot store and the node |
//! | [`memory`] | a network in memory between members, for tests |
//! | [`peer_url`] | the one form that a peer's URL has |

pub mod codec;
pub mod memory;
pub mod peer_url;
pub mod peers;
pub mod validate;

pub use codec::DecodeError;

/// raft's messages as prost types, wire-compatible with raft-proto's. Generated from `proto/raft.proto`. Entries and
/// messages do not pass through these: [`codec`] is tested against them.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod pb {
    include!("generated/kvd.raft.rs");
}

/// What `kvd-node` replicates and keeps beside the commands: members, batches, sessions. Generated from
/// `proto/node.proto`; the field comments there are the documentation.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod node {
    include!("generated/kvd.node.rs");
}
