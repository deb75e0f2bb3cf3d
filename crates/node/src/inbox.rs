//! The one way into the loop: bounded queues behind one short lock, and a waker.
//!
//! Callers, the transport and the node's own threads put things in and wake the loop, which takes everything at once:
//! what arrives together is handled together. Nobody waits here. What does not fit is refused (requests) or dropped and
//! counted (messages of peers, which raft sends again).

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use kvd_raftpb::codec;
use kvd_raftpb::peers::CallError;
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::changes::{Reply, Wish};
use crate::config::Limits;
use crate::error::{Error, Fatal};
use crate::proposal::{Load, Proposal};
use crate::read_index::Read;
use crate::snapshot_requests::SnapshotRequest;

/// A request for the leader as it comes from a caller.
pub(crate) struct Request {
    pub(crate) wish: Wish,
    pub(crate) timeout: std::time::Duration,
    /// It comes from another member.
    pub(crate) of_peer: bool,
    /// It was asked for before, and the answer was lost.
    pub(crate) again: bool,
    pub(crate) reply: Reply,
}

/// What the transport says about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Unreachable(u64),
    Snapshot { to: u64, received: bool },
    Removed,
}

/// What a thread of the node has done.
pub enum Done<R> {
    /// Every write up to this one is durable.
    Written(u64),
    /// A local snapshot is on disk.
    SnapshotSaved {
        /// Its metadata.
        metadata: Box<SnapshotMetadata>,
        /// The length of its file.
        bytes: u64,
    },
    /// A snapshot that a peer sent was read back.
    SnapshotLoaded {
        /// The message that named it.
        message: Box<Message>,
        /// What it holds.
        restored: R,
    },
    /// It could not be; the leader will send another.
    SnapshotRejected,
    /// Entries were read back from the log.
    Fetched {
        /// What was asked for.
        fetch: kvd_wal::Fetch,
        /// What the log's reader found.
        answer: kvd_wal::ReadBack,
    },
    /// Entries could not be read back for now.
    NotFetched(kvd_wal::Fetch),
    /// The disk has no room for the next segment of the log, or has it again.
    Room {
        /// Whether it has none.
        full: bool,
    },
    /// The snapshot that was to be taken was not, for want of room. Nothing is left of it.
    SnapshotNotSaved,
    /// What came of a question for the leader ([`crate::driver::Ask`]).
    Answered {
        /// The question's.
        number: u64,
        /// The answer of the leader's [`kvd_raftpb::peers::PeerHandler::answer`].
        answer: Result<Bytes, CallError>,
    },
    /// Something that ends the member.
    Failed(Fatal),
}

/// Everything that has arrived since the last look.
pub struct Arrivals<R> {
    pub(crate) proposals: Vec<Proposal>,
    pub(crate) reads: Vec<Read>,
    pub(crate) changes: Vec<Request>,
    pub(crate) snapshots: Vec<SnapshotRequest>,
    pub(crate) messages: Vec<(u64, Message)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) done: Vec<Done<R>>,
    pub(crate) shutdown: bool,
}

impl<R> Default for Arrivals<R> {
    fn default() -> Self {
        Self {
            proposals: Vec::new(),
            reads: Vec::new(),
            changes: Vec::new(),
            snapshots: Vec::new(),
            messages: Vec::new(),
            reports: Vec::new(),
            done: Vec::new(),
            shutdown: false,
        }
    }
}

struct State<R> {
    arrivals: Arrivals<R>,
    /// Set when the member stops: no more requests. Messages and the threads' words still count.
    stopping: bool,
    /// Set when the loop has ended; the answer to whoever still asks.
    closed: Option<Error>,
    proposal_bytes: usize,
    message_bytes: usize,
    /// What the loop had in flight when it last looked here.
    proposals_in_loop: Load,
    reads_in_loop: usize,
    dropped_messages: u64,
}

/// The queues. `R` is what a restored snapshot holds ([`crate::StateMachine::Restored`]).
pub struct Inbox<R> {
    limits: Limits,
    state: Mutex<State<R>>,
    waker: AtomicWaker,
}

impl<R> Inbox<R> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State {
            arrivals: Arrivals::default(),
            stopping: false,
            closed: None,
            proposal_bytes: 0,
            message_bytes: 0,
            proposals_in_loop: Load::default(),
            reads_in_loop: 0,
            dropped_messages: 0,
        };
        Self { limits, state: Mutex::new(state), waker: AtomicWaker::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        // Nothing below panics while it holds the lock in a state that matters; go on with what is there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, with: impl FnOnce(&mut State<R>) -> Result<(), Error>) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        with(&mut state)?;
        drop(state);
        self.waker.wake();
        Ok(())
    }

    fn request(&self, with: impl FnOnce(&mut State<R>) -> Result<(), Error>) -> Result<(), Error> {
        self.put(|state| if state.stopping { Err(Error::Stopped) } else { with(state) })
    }

    pub(crate) fn propose(&self, proposal: Proposal) -> Result<(), Error> {
        let len = proposal.payload.len();
        if len > self.limits.command_bytes {
            return Err(Error::TooLarge { len, limit: self.limits.command_bytes });
        }
        self.request(|state| {
            let count = state.proposals_in_loop.count + state.arrivals.proposals.len() + 1;
            let bytes = state.proposals_in_loop.bytes + state.proposal_bytes + len;
            if count > self.limits.proposals || bytes > self.limits.proposal_bytes {
                return Err(Error::Overloaded);
            }
            state.proposal_bytes += len;
            state.arrivals.proposals.push(proposal);
            Ok(())
        })
    }

    pub(crate) fn read(&self, read: Read) -> Result<(), Error> {
        self.request(|state| {
            if state.reads_in_loop + state.arrivals.reads.len() >= self.limits.reads {
                return Err(Error::Overloaded);
            }
            state.arrivals.reads.push(read);
            Ok(())
        })
    }

    pub(crate) fn change(&self, change: Request) -> Result<(), Error> {
        self.request(|state| {
            if state.arrivals.changes.len() >= self.limits.changes {
                return Err(Error::Overloaded);
            }
            state.arrivals.changes.push(change);
            Ok(())
        })
    }

    pub(crate) fn snapshot(&self, request: SnapshotRequest) -> Result<(), Error> {
        self.request(|state| {
            if state.arrivals.snapshots.len() >= self.limits.snapshots {
                return Err(Error::Overloaded);
            }
            state.arrivals.snapshots.push(request);
            Ok(())
        })
    }

    /// Takes a message of a peer, or drops it if the queue is full.
    pub(crate) fn deliver(&self, from: u64, message: Message) {
        let len = codec::message_len(&message);
        // The only error is that the loop has ended, and then messages do not matter.
        let _ = self.put(|state| {
            let fits =
                state.arrivals.messages.is_empty() || state.message_bytes + len <= self.limits.message_bytes;
            if fits && state.arrivals.messages.len() < self.limits.messages {
                state.message_bytes += len;
                state.arrivals.messages.push((from, message));
            } else {
                state.dropped_messages += 1;
            }
            Ok(())
        });
    }

    /// Takes a report of the transport. Repeats of the last one are folded, and snapshots have one report each, so
    /// the queue stays as short as the member list.
    pub(crate) fn report(&self, report: Report) {
        let _ = self.put(|state| {
            if !state.arrivals.reports.contains(&report) {
                state.arrivals.reports.push(report);
            }
            Ok(())
        });
    }

    /// Takes word from one of the node's threads, of which there are few, each with one thing to say at a time.
    pub fn done(&self, done: Done<R>) {
        // Taken even when the loop has ended: a failure of the log while it is closed must not be lost.
        self.lock().arrivals.done.push(done);
        self.waker.wake();
    }

    pub(crate) fn shut_down(&self) {
        let _ = self.put(|state| {
            state.arrivals.shutdown = true;
            Ok(())
        });
    }

    /// From now on requests are refused; the loop goes on.
    pub(crate) fn close_to_requests(&self) {
        self.lock().stopping = true;
    }

    /// From now on everybody is refused with `error`. What is queued stays for [`Self::take`].
    pub(crate) fn close(&self, error: Error) {
        self.lock().closed = Some(error);
    }

    /// Takes everything, and says what the loop holds itself. The last number is how many messages were dropped.
    pub fn take(&self, proposals: Load, reads: usize) -> (Arrivals<R>, u64) {
        let mut state = self.lock();
        state.proposal_bytes = 0;
        state.message_bytes = 0;
        let arrivals = mem::take(&mut state.arrivals);
        // What is handed over now is the loop's from here on.
        let bytes: usize = arrivals.proposals.iter().map(|proposal| proposal.payload.len()).sum();
        state.proposals_in_loop =
            Load { count: proposals.count + arrivals.proposals.len(), bytes: proposals.bytes + bytes };
        state.reads_in_loop = reads + arrivals.reads.len();
        (arrivals, mem::take(&mut state.dropped_messages))
    }

    /// Ready once something has arrived; wakes the task otherwise when it does.
    pub fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let state = self.lock();
        let a = &state.arrivals;
        let idle = a.proposals.is_empty()
            && a.reads.is_empty()
            && a.changes.is_empty()
            && a.snapshots.is_empty()
            && a.messages.is_empty()
            && a.reports.is_empty()
            && a.done.is_empty()
            && !a.shutdown;
        if idle { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_channel::oneshot;
    use raft::eraftpb::Entry;
    use std::time::Duration;

    fn inbox(limits: Limits) -> Inbox<()> {
        Inbox::new(limits)
    }

    fn proposal(len: usize) -> Proposal {
        Proposal { payload: Bytes::from(vec![0; len]), timeout: Duration::ZERO, reply: oneshot::channel().0 }
    }

    #[test]
    fn proposals_are_bounded_by_count_with_what_the_loop_holds() {
        let inbox = inbox(Limits { proposals: 3, ..Limits::default() });
        inbox.take(Load { count: 1, bytes: 1 }, 0);
        assert_eq!(inbox.propose(proposal(1)), Ok(()));
        assert_eq!(inbox.propose(proposal(1)), Ok(()));
        assert_eq!(inbox.propose(proposal(1)), Err(Error::Overloaded));
        assert_eq!(inbox.take(Load { count: 1, bytes: 1 }, 0).0.proposals.len(), 2);
        // Handed over, and still in flight.
        assert_eq!(inbox.propose(proposal(1)), Err(Error::Overloaded));
        inbox.take(Load::default(), 0);
        assert_eq!(inbox.propose(proposal(1)), Ok(()));
    }

    #[test]
    fn proposals_are_bounded_by_bytes() {
        let inbox = inbox(Limits { proposal_bytes: 10, ..Limits::default() });
        inbox.take(Load { count: 1, bytes: 4 }, 0);
        assert_eq!(inbox.propose(proposal(5)), Ok(()));
        assert_eq!(inbox.propose(proposal(2)), Err(Error::Overloaded));
        assert_eq!(inbox.propose(proposal(1)), Ok(()));
    }

    #[test]
    fn a_command_is_bounded() {
        let inbox = inbox(Limits { command_bytes: 10, ..Limits::default() });
        assert_eq!(inbox.propose(proposal(9)), Ok(()));
        assert_eq!(inbox.propose(proposal(10)), Ok(()));
        assert_eq!(inbox.propose(proposal(11)), Err(Error::TooLarge { len: 11, limit: 10 }));
    }

    #[test]
    fn reads_changes_and_snapshots_are_bounded() {
        let inbox = inbox(Limits { reads: 2, changes: 1, snapshots: 1, ..Limits::default() });
        let read = || Read { timeout: Duration::ZERO, reply: oneshot::channel().0 };
        inbox.take(Load::default(), 1);
        assert_eq!(inbox.read(read()), Ok(()));
        assert_eq!(inbox.read(read()), Err(Error::Overloaded));
        let change = || Request {
            wish: Wish::Transfer(None),
            timeout: Duration::ZERO,
            of_peer: false,
            again: false,
            reply: oneshot::channel().0,
        };
        assert_eq!(inbox.change(change()), Ok(()));
        assert_eq!(inbox.change(change()), Err(Error::Overloaded));
        let snapshot = || SnapshotRequest { timeout: Duration::ZERO, reply: oneshot::channel().0 };
        assert_eq!(inbox.snapshot(snapshot()), Ok(()));
        assert_eq!(inbox.snapshot(snapshot()), Err(Error::Overloaded));
    }

    #[test]
    fn messages_beyond_the_bounds_are_dropped_and_counted_but_one_always_fits() {
        let message = |len: usize| {
            let mut entry = Entry::default();
            entry.data = vec![0; len].into();
            let mut message = Message::default();
            message.set_entries(vec![entry].into());
            message
        };
        let limit = codec::message_len(&message(100)) * 2;
        let by_bytes = inbox(Limits { message_bytes: limit, ..Limits::default() });
        for _ in 0..3 {
            by_bytes.deliver(2, message(100));
        }
        let (arrivals, dropped) = by_bytes.take(Load::default(), 0);
        assert_eq!((arrivals.messages.len(), dropped), (2, 1));
        by_bytes.deliver(2, message(1000));
        assert_eq!(by_bytes.take(Load::default(), 0).0.messages.len(), 1);

        let by_count = inbox(Limits { messages: 1, ..Limits::default() });
        by_count.deliver(2, message(1));
        by_count.deliver(2, message(1));
        let (arrivals, dropped) = by_count.take(Load::default(), 0);
        assert_eq!((arrivals.messages.len(), dropped), (1, 1));
    }

    #[test]
    fn a_closed_inbox_refuses_with_its_reason() {
        let inbox = inbox(Limits::default());
        inbox.close(Error::Removed);
        assert_eq!(inbox.propose(proposal(1)), Err(Error::Removed));
    }
}
