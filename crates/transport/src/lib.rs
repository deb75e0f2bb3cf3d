//! Peers that talk raft over HTTP/1: ordered, bounded, observable delivery of [`raft::eraftpb::Message`]s.
//!
//! Give it a [`PeerHandler`], a [`SnapshotStore`] and a member list; get [`Peers`]. It knows nothing of a log, of a
//! store, or of what the messages mean.
//!
//! # Who dials whom
//!
//! The member that *reads* a stream dials it. Between any two members there are four streams, two each way:
//!
//! ```text
//!   member 1                                             member 2
//!   reader  -- GET /raft/stream/message/1 ------------>  outbox, class message
//!           <- 200, frames 2 -> 1: heartbeats, votes, ... (endless)
//!   reader  -- GET /raft/stream/msgapp/1 ------------->  outbox, class append
//!           <- 200, frames 2 -> 1: appends, proposals      (endless)
//!   outbox  <- GET /raft/stream/message/2 -------------  reader
//!   outbox  <- GET /raft/stream/msgapp/2 --------------  reader
//!
//!   posters  -- POST /raft, what is queued for a peer that has not dialled ------------>  handler
//!   snapshot -- POST /raft/snapshot, as long as it takes, on a connection of its own -->  sink
//!   call     -- POST /raft/call, one request and its answer, on a connection of its own -->  handler
//!   joiner   -- GET /raft/members ----------------------------------------------------->  any member
//! ```
//!
//! A second stream of the same class from the same member replaces the first: the newest wins, because the older is
//! what a restart or a broken network left behind.
//!
//! # Contract
//!
//! - Messages of one class to one peer arrive in the order of [`Peers::send`], with gaps: what does not fit the bounded
//!   queue is dropped and reported ([`PeerHandler::report_unreachable`], once for each burst).
//! - What finds no stream is posted, up to four posts at a time. Appends and the answers to them keep their order on that
//!   way too, and when the way changes; any other message may arrive late. If a post fails, what was queued is dropped
//!   and reported.
//! - Nothing is sent twice.
//! - [`Peers::send`] never blocks, encodes nothing, and takes one short lock for each message.
//! - All that is queued for a peer and class goes out in one write, up to [`Config::write_bytes`]. Entries for several
//!   peers are encoded once.
//! - The fate of every `MsgSnapshot` is reported exactly once. One snapshot at a time is sent to a peer, and one at a
//!   time is received.
//! - A call is sent at most once. It ends with the answer, or with an error that tells "nothing was done" from "unknown",
//!   within the time that the caller set; the peer gives up then, too.
//! - A message is delivered only if it is from the member that its stream belongs to and for this member. What else raft
//!   asks of a message is validated by the handler.
//! - A removed member is answered with 410, and a member that hears it tells its handler once and stops dialling that
//!   peer. Somebody unknown is answered with 404 and may try again.
//! - Every queue, frame, head, connection count and wait has a limit in [`Config`].
//!
//! # Order of calls
//!
//! [`Transport::start`], then [`Transport::serve`]; [`Peers::send`] and [`Peers::update`] at any time;
//! [`Transport::stop`] last. A joiner calls [`fetch_membership`] before any of it.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use kvd_raftpb::node::Membership;
//! use kvd_transport::{Config, PeerHandler, Peers, SnapshotStore, Transport};
//!
//! async fn run(
//!     handler: Arc<dyn PeerHandler>,
//!     snapshots: Arc<dyn SnapshotStore>,
//!     members: Membership,
//!     mut ready: tokio::sync::mpsc::Receiver<Vec<raft::eraftpb::Message>>,
//! ) -> std::io::Result<()> {
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:9021").await?;
//!     let config = Config { member_id: 1, cluster_id: members.cluster_id, ..Default::default() };
//!     let transport = Transport::start(config, handler, snapshots, &members);
//!     transport.serve(listener);
//!     while let Some(messages) = ready.recv().await {
//!         transport.send(messages);
//!     }
//!     transport.stop().await;
//!     Ok(())
//! }
//! ```
//!
//! The frames are drawn in [`codec`], the headers in `identity`, the paths and refusals in `handler`.
//!
//! Left out so far: probing with round-trip times, rate limits, TLS.

mod call;
pub mod codec;
mod config;
mod dial;
mod error;
mod handler;
mod identity;
mod inspect;
mod members;
mod metrics;
mod order;
mod outbox;
mod outgoing;
mod peer;
mod pipeline;
mod post_receiver;
mod reader;
mod server;
mod shared;
mod snapshot_receiver;
mod snapshot_sender;
mod stream;
mod transport;

pub use config::Config;
pub use error::Error;
pub use kvd_raftpb::peer_url::{PeerUrl, PeerUrlError, parse_peer_url};
pub use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler, Peers, SnapshotSink, SnapshotStore};
pub use members::fetch_membership;
pub use metrics::Metrics;
pub use transport::Transport;

/// Locks a mutex. A panic while it was held cannot have left the state half changed: nothing under these locks panics.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
