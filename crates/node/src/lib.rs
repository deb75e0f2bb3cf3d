//! The Ready loop around the [`raft`] crate: it persists, sends, applies, snapshots and compacts in the one order that is
//! safe, and gives every waiter exactly one answer.
//!
//! Bring a [`StateMachine`], a disk ([`kvd_vfs::Disk`]), a transport ([`kvd_raftpb::peers::Peers`]) and a clock (a
//! stream of ticks). There is no runtime in here: [`Node::run`] is a future, and whatever polls it runs the member.
//!
//! ```text
//!  propose / read_index / change_membership          peers' messages
//!            |                                             |
//!            v                                             v
//!      +-----------+      turn      +------+    ready    +---------+   send    +-------+
//!      |   Inbox   | -------------> | Core | ----------> | Outside | --------> | Peers |
//!      +-----------+                +------+             +---------+           +-------+
//!            ^                        | apply                 | write
//!            |                        v                       v
//!            |                  StateMachine           the log's thread,
//!            +---------------------------------------- snapshot threads
//!                     written / saved / loaded
//! ```
//!
//! # The order of calls
//! 1. [`Home::open`] locks the member's directory; [`Home::known`] says whose it is.
//! 2. [`Home::start`] opens the log and the newest snapshot, or creates them, and gives a [`Node`].
//! 3. [`Node::handle`] goes to the transport (it is a [`kvd_raftpb::peers::PeerHandler`]) and to the callers.
//! 4. [`Node::run`] until it ends: by [`Handle::shutdown`], by removal from the cluster, or by a [`Fatal`] error.

mod backlog;
mod bootstrap;
mod changes;
mod compaction;
mod config;
mod core;
pub mod driver;
mod error;
mod event;
mod handle;
mod inbox;
mod leader_call;
mod lease;
mod log_threads;
mod logger;
mod membership;
mod metrics;
mod oversight;
mod proposal;
mod read_index;
mod ready;
mod reconfigure;
mod recover;
mod replicated;
mod run;
pub mod session;
mod shutdown;
mod snapshot_requests;
mod state_machine;
mod threads;
mod throttle;

pub use bootstrap::{Home, Known, Start, cluster_id, initial_members};
pub use config::{Config, Limits};
pub use core::Exit;
pub use error::{Error, Fatal};
pub use event::{Event, Events, UNREAD_EVENTS};
pub use handle::{Handle, Role, Status};
pub use kvd_raftpb::node::{Announcement, Member, Membership};
pub use membership::{
    ChangeOutcome, MAX_CHANGES, MAX_PEER_URLS, MAX_REASON_BYTES, MAX_URL_BYTES, MembershipChange,
    MembershipRequest, Refusal,
};
pub use metrics::Metrics;
pub use oversight::{CatchUp, MAX_ROUNDS, Progress};
pub use recover::{PlannedRecovery, Recovery};
pub use run::Node;
pub use session::Applied;
pub use state_machine::{StateMachine, View};
