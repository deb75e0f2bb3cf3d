//! A member driven by hand: for a simulator, or for threads and queues of one's own.
//!
//! [`Node::into_parts`] takes a member apart. Whoever drives it does what [`Node::run`] does:
//!
//! 1. take what has arrived ([`Inbox::take`], with what [`Core::load`] says) and give the core a turn ([`Core::turn`]);
//! 2. carry out, in order, what the core asked its [`Outside`] for during the turn: later, but each within the rules
//!    that the trait states; and say so with [`Inbox::done`];
//! 3. show the member to its handles ([`Board::show`]), as of the end of the turn;
//! 4. again, when something arrives ([`Inbox::poll_arrival`]) or a tick is due;
//! 5. at the end [`Core::fail_all`], save [`Core::take_unsaved`] and close the log. Dropping everything is a crash.

use kvd_snap::Snapshotter;
use kvd_vfs::Lock;
use kvd_wal::Wal;

use crate::run::Node;
use crate::state_machine::StateMachine;

pub use crate::changes::Ask;
pub use crate::core::{Core, Outside};
pub use crate::inbox::{Arrivals, Done, Inbox};
pub use crate::log_threads::read_back;
pub use crate::proposal::Load;
pub use crate::ready::Write;
pub use crate::replicated::{Frozen, Restored};
pub use crate::run::{Attended, Board};
pub use crate::threads::{discard, load};
pub use kvd_wal::{Fetch, LogReader, ReadBack};

/// What a [`Node`] consists of.
pub struct Parts<S: StateMachine> {
    /// raft, the replicated state, and everybody who waits for it.
    pub core: Core<S>,
    /// What the handle and the transport put in, and the answers of the [`Outside`].
    pub inbox: Attended<Restored<S::Restored>>,
    /// What the handles show.
    pub shown: Board,
    /// The log, open at its end.
    pub wal: Wal,
    /// Where the snapshots lie.
    pub snapshotter: Snapshotter,
    /// Holds the member's directory: to be dropped last.
    pub lock: Box<dyn Lock>,
}

impl<S: StateMachine> Node<S> {
    /// Takes the member apart, to be driven by hand. Take its [`Node::handle`] first.
    pub fn into_parts(self) -> Parts<S> {
        Parts {
            core: self.core,
            inbox: self.inbox,
            shown: Board(self.shown),
            wal: self.wal,
            snapshotter: self.snapshotter,
            lock: self.lock,
        }
    }
}
