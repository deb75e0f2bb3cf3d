//! The seams between a node and the outside: a transport, a snapshot store.
//!
//! `kvd-node` calls [`Peers`] and implements [`PeerHandler`]; `kvd-transport` does the reverse, and so does any other
//! transport, a simulator's among them. Nobody here blocks: what cannot be taken at once is dropped and reported.

use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::Message;

use crate::node::Membership;

/// A boxed future that may move between threads; it belongs to no runtime.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A call to a peer that brought no answer. What matters to the caller is whether it may try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request was not sent, or was refused before anything was done. Another attempt does no harm.
    #[error("nothing was done: {reason}")]
    NotDone {
        /// Why, in words: who was asked, and what to do.
        reason: String,
    },
    /// The request left, and nobody knows what became of it: it may have been carried out, or may be yet. Only a
    /// request that changes nothing, or is the same done twice, may be tried again.
    #[error("it is unknown whether it was done: {reason}")]
    Unknown {
        /// What happened, in words.
        reason: String,
    },
}

impl CallError {
    /// [`CallError::NotDone`], for that reason.
    pub fn not_done(reason: impl Into<String>) -> CallError {
        CallError::NotDone { reason: reason.into() }
    }

    /// [`CallError::Unknown`], for that reason.
    pub fn unknown(reason: impl Into<String>) -> CallError {
        CallError::Unknown { reason: reason.into() }
    }
}

/// Sends raft's messages to the other members, and asks them things.
pub trait Peers: Send + Sync {
    /// Queues messages, each for its `to`. Order to one peer is kept for messages of the same class (appends,
    /// everything else), but for what may come late without harm: anything except appends and the answers to them. Never
    /// blocks: what does not fit, or has no connection, is dropped and reported through
    /// [`PeerHandler::report_unreachable`]. For a `MsgSnapshot` the fate is always reported, exactly once, through
    /// [`PeerHandler::report_snapshot`]; its body comes from the [`SnapshotStore`] under the message's term and index.
    fn send(&self, messages: Vec<Message>);

    /// Makes the set of peers that of `membership`: new members are added, known ones take the listed URLs,
    /// members that are gone are dropped, and removed ids are answered with "410 Gone" from now on.
    fn update(&self, membership: &Membership);

    /// Asks member `to` something, and resolves to its answer: for what only the leader can do. Requests, answers and
    /// calls under way are bounded by the transport. The request is sent once at most, and never again behind the
    /// caller's back. After `limit`, counted from this call, there is an error if there was no answer; the peer is told
    /// how long it has. Never blocks; dropping the future gives up the answer, not the request.
    ///
    /// # Errors
    /// [`CallError`] tells "nothing was done" from "unknown". A transport without calls does nothing.
    fn call(&self, to: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        let _ = (request, limit);
        Box::pin(std::future::ready(Err(CallError::not_done(format!(
            "this transport carries no calls to member {to}"
        )))))
    }
}

/// Takes what comes from the other members.
pub trait PeerHandler: Send + Sync {
    /// Takes a message that `from` sent. It was decoded, and its sender is the one that the connection belongs to;
    /// the handler validates the rest. A full queue drops the message.
    fn deliver(&self, from: u64, message: Message);

    /// A message to `id` was dropped, or its connection broke.
    fn report_unreachable(&self, id: u64);

    /// The snapshot sent to `id` was received whole (`true`) or not (`false`).
    fn report_snapshot(&self, id: u64, received: bool);

    /// A peer answered that this member was removed from the cluster.
    fn removed(&self);

    /// The member list as of the applied index, for a joiner that asks. `None` while there is none.
    fn membership(&self) -> Option<Membership>;

    /// Answers a call of member `from` (see [`Peers::call`]), who waits for `limit` from now. After that, or when the
    /// connection breaks, the future is dropped: what it has begun by then may still happen. Nothing is checked about
    /// the request but its length and that it is from that member.
    ///
    /// # Errors
    /// They reach the caller with their kind: [`CallError::NotDone`] must be true.
    fn answer(&self, from: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        let _ = (from, request, limit);
        Box::pin(std::future::ready(Err(CallError::not_done("this member answers no calls"))))
    }
}

/// Where the bodies of snapshots lie. Implementations block: call them off the event loop.
pub trait SnapshotStore: Send + Sync {
    /// Opens the stored snapshot of that term and index for sending: its length in bytes, and the bytes as they are
    /// on disk (they carry their own checksums).
    fn open(&self, term: u64, index: u64) -> io::Result<(u64, Box<dyn Read + Send>)>;

    /// Begins to take in a snapshot from a peer.
    fn receive(&self, term: u64, index: u64) -> io::Result<Box<dyn SnapshotSink>>;
}

/// A snapshot that is being received. Dropped before [`SnapshotSink::install`], it leaves no file.
pub trait SnapshotSink: Write + Send {
    /// Checks every checksum, makes the file durable and gives it its final name. After an error nothing is left.
    fn install(self: Box<Self>) -> io::Result<()>;
}
