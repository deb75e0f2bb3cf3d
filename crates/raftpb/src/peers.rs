//! The seams between a node and the outside: a transport, a snapshot store.
//!
//! `kvd-node` calls [`Peers`] and implements [`PeerHandler`]; `kvd-transport` does the reverse, and so does any other
//! transport, a simulator's among them. Nobody here blocks: what cannot be taken at once is dropped and reported.

use std::io::{self, Read, Write};

use raft::eraftpb::Message;

use crate::node::Membership;

/// Sends raft's messages to the other members.
pub trait Peers: Send + Sync {
    /// Queues messages, each for its `to`. Order to one peer is kept for messages of the same class (appends,
    /// everything else). Never blocks: what does not fit, or has no connection, is dropped and reported through
    /// [`PeerHandler::report_unreachable`]. For a `MsgSnapshot` the fate is always reported, exactly once, through
    /// [`PeerHandler::report_snapshot`]; its body comes from the [`SnapshotStore`] under the message's term and index.
    fn send(&self, messages: Vec<Message>);

    /// Makes the set of peers that of `membership`: new members are added, known ones take the listed URLs,
    /// members that are gone are dropped, and removed ids are answered with "410 Gone" from now on.
    fn update(&self, membership: &Membership);
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
