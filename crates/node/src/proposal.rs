//! Commands on their way: what waits to be proposed, what waits for its result, and when to propose again.
//!
//! ```text
//!   floor            next_to_propose        next_counter
//!     |  proposed, no result yet  |  not yet proposed  |
//!     v                           v                    v
//!   [ c | - | c | c | - | c | c | c | c | c | c | c | c ]     c: waits for its answer   -: answered
//! ```
//!
//! The first batch of a start goes out even if nobody has asked for anything: it makes the start known to the cluster,
//! which can then tell a member that comes back with an empty disk from one that never ran.
//!
//! Counters ascend without a gap. Proposing again is moving `next_to_propose` back to `floor`: the state machine's
//! sessions drop what was applied already. A command is answered once: by its result, by its deadline, or by the end
//! of the member; and the answer says whether it was ever proposed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use kvd_mutation::{Bug, planted};
use kvd_raftpb::node::{Batch, Command};
use prost::Message as _;

use crate::error::Error;
use crate::session::{Applied, WINDOW};

/// Commands that arrive together share an entry up to this many bytes of payload; one command may be longer.
pub(crate) const MAX_BATCH_BYTES: usize = 1 << 20;

/// The first wait before a forwarded proposal without a result is sent again; doubled up to [`MAX_RETRY`].
pub(crate) const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(4);

pub(crate) type Reply = oneshot::Sender<Result<Applied, Error>>;

/// A command as it comes from a caller.
pub(crate) struct Proposal {
    pub(crate) payload: Bytes,
    pub(crate) timeout: Duration,
    pub(crate) reply: Reply,
}

struct Slot {
    payload: Bytes,
    deadline: Duration,
    proposed: bool,
    reply: Reply,
}

/// What is in flight.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Commands that wait for an answer.
    pub count: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
}

pub(crate) struct Tracker {
    member: u64,
    boot: u64,
    /// Counter of `slots[0]`.
    floor: u64,
    slots: VecDeque<Option<Slot>>,
    /// How many of `slots` were handed to raft since the last [`Self::propose_again`].
    handed_out: usize,
    load: Load,
    /// Commands answered with an error since [`Self::take_failed`].
    failed: u64,
    retry_at: Duration,
    retry_after: Duration,
    announcement: Announcement,
    announced: Option<kvd_raftpb::node::Announcement>,
}

/// Whether the cluster has heard of this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announcement {
    Due,
    Sent,
    Heard,
}

impl Tracker {
    /// `announced` goes into the log with the first batch.
    pub(crate) fn new(member: u64, boot: u64, announced: Option<kvd_raftpb::node::Announcement>) -> Self {
        Self {
            member,
            boot,
            floor: 0,
            slots: VecDeque::new(),
            handed_out: 0,
            load: Load::default(),
            failed: 0,
            retry_at: Duration::ZERO,
            retry_after: FIRST_RETRY,
            announcement: Announcement::Due,
            announced,
        }
    }

    /// Takes a command in, to be proposed by the next [`Self::next_batch`].
    pub(crate) fn push(&mut self, proposal: Proposal, now: Duration) {
        if self.slots.len() as u64 >= WINDOW {
            // The caller may be gone; then nobody wants the answer.
            let _ = proposal.reply.send(Err(Error::Overloaded));
            return;
        }
        self.load.count += 1;
        self.load.bytes += proposal.payload.len();
        self.slots.push_back(Some(Slot {
            payload: proposal.payload,
            deadline: now + proposal.timeout,
            proposed: false,
            reply: proposal.reply,
        }));
    }

    /// Whether something waits to be proposed.
    pub(crate) fn has_unproposed(&self) -> bool {
        self.handed_out < self.slots.len() || self.announcement == Announcement::Due
    }

    /// A batch of this start was applied.
    pub(crate) fn heard(&mut self) {
        self.announcement = Announcement::Heard;
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The next entry's data, and a mark for [`Self::proposed`]. `None` when nothing waits.
    pub(crate) fn next_batch(&self) -> Option<(Vec<u8>, usize)> {
        let mut commands = Vec::new();
        let mut bytes = 0;
        let mut end = self.handed_out;
        for slot in self.slots.range(self.handed_out..) {
            if let Some(slot) = slot {
                if !commands.is_empty() && bytes + slot.payload.len() > MAX_BATCH_BYTES {
                    break;
                }
                bytes += slot.payload.len();
                commands.push(Command { counter: self.floor + end as u64, payload: slot.payload.clone() });
            }
            end += 1;
        }
        if commands.is_empty() && self.announcement != Announcement::Due {
            return None;
        }
        let announcement = match self.announcement {
            Announcement::Heard => None,
            Announcement::Due | Announcement::Sent => self.announced.clone(),
        };
        let batch = Batch { member: self.member, boot: self.boot, floor: self.floor, commands, announcement };
        Some((batch.encode_to_vec(), end))
    }

    /// raft took the batch that [`Self::next_batch`] returned with this mark.
    pub(crate) fn proposed(&mut self, mark: usize, now: Duration) {
        for slot in self.slots.range_mut(self.handed_out..mark).flatten() {
            slot.proposed = true;
        }
        if self.handed_out == 0 {
            self.retry_at = now + self.retry_after;
        }
        self.handed_out = mark;
        if self.announcement == Announcement::Due {
            self.announcement = Announcement::Sent;
        }
    }

    /// Everything without a result is to be proposed again: a new leader may not have it.
    pub(crate) fn propose_again(&mut self) {
        if planted(Bug::ProposalLost) {
            return;
        }
        self.handed_out = 0;
        if self.announcement == Announcement::Sent {
            self.announcement = Announcement::Due;
        }
    }

    /// Proposes again what was forwarded long ago. Not for a leader, which has its proposals in its own log.
    pub(crate) fn retry_if_due(&mut self, now: Duration) {
        let waiting = self.handed_out > 0 || self.announcement == Announcement::Sent;
        if waiting && now >= self.retry_at {
            self.retry_after = (self.retry_after * 2).min(MAX_RETRY);
            self.propose_again();
        }
    }

    /// The command with this counter was applied. Counters that nobody waits for are ignored.
    pub(crate) fn resolve(&mut self, counter: u64, applied: &Applied, now: Duration) {
        let Some(at) = counter.checked_sub(self.floor) else { return };
        if let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::take) {
            self.release(slot.payload.len());
            let _ = slot.reply.send(Ok(applied.clone()));
            self.retry_after = FIRST_RETRY;
            self.retry_at = now + self.retry_after;
            self.pop_answered();
        }
    }

    /// The counters that wait for an answer.
    pub(crate) fn open_counters(&self) -> Vec<u64> {
        (self.floor..).zip(&self.slots).filter_map(|(counter, slot)| slot.as_ref().map(|_| counter)).collect()
    }

    /// Answers what is overdue.
    pub(crate) fn expire(&mut self, now: Duration) {
        let overdue = |slot: &Slot| now >= slot.deadline;
        self.answer_where(
            overdue,
            Error::NoLeader,
            Error::Unknown { reason: "no result within the deadline" },
        );
    }

    /// Answers everybody: `never` to those whose command was never proposed, `maybe` to the rest.
    pub(crate) fn fail_all(&mut self, never: Error, maybe: Error) {
        self.answer_where(|_| true, never, maybe);
    }

    fn answer_where(&mut self, which: impl Fn(&Slot) -> bool, never: Error, maybe: Error) {
        for at in 0..self.slots.len() {
            if self.slots[at].as_ref().is_some_and(&which)
                && let Some(slot) = self.slots[at].take()
            {
                self.release(slot.payload.len());
                self.failed += 1;
                let _ = slot.reply.send(Err(if slot.proposed { maybe.clone() } else { never.clone() }));
            }
        }
        self.pop_answered();
    }

    /// How many commands were answered with an error since the last call.
    pub(crate) fn take_failed(&mut self) -> u64 {
        std::mem::take(&mut self.failed)
    }

    /// The commands that wait for an answer, and their payload bytes.
    pub(crate) fn load(&self) -> Load {
        self.load
    }

    fn release(&mut self, bytes: usize) {
        self.load.count -= 1;
        self.load.bytes -= bytes;
    }

    fn pop_answered(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.floor += 1;
            self.handed_out = self.handed_out.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[path = "proposal_property.rs"]
mod property;

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Result<Applied, Error>>;

    const MS: Duration = Duration::from_millis(1);

    /// A tracker whose start is known.
    fn tracker() -> Tracker {
        let mut tracker = Tracker::new(1, 1, None);
        tracker.heard();
        tracker
    }

    #[test]
    fn a_start_is_announced_until_it_is_heard_of() {
        let mut tracker = Tracker::new(1, 1, None);
        assert_eq!(propose(&mut tracker), Some((0, vec![])));
        assert_eq!(propose(&mut tracker), None);
        tracker.retry_if_due(FIRST_RETRY - MS);
        assert!(!tracker.has_unproposed());
        tracker.retry_if_due(FIRST_RETRY);
        assert_eq!(propose(&mut tracker), Some((0, vec![])));
        tracker.propose_again();
        let _a = push(&mut tracker, b"a", MS);
        // A command announces it as well.
        assert_eq!(propose(&mut tracker), Some((0, vec![0])));
        tracker.heard();
        tracker.propose_again();
        assert_eq!(propose(&mut tracker), Some((0, vec![0])));
        assert_eq!(propose(&mut tracker), None);
    }

    fn push(tracker: &mut Tracker, payload: &'static [u8], timeout: Duration) -> Answer {
        let (reply, answer) = oneshot::channel();
        tracker.push(Proposal { payload: Bytes::from_static(payload), timeout, reply }, Duration::ZERO);
        answer
    }

    fn propose(tracker: &mut Tracker) -> Option<(u64, Vec<u64>)> {
        let (data, mark) = tracker.next_batch()?;
        tracker.proposed(mark, Duration::ZERO);
        let batch = Batch::decode(data.as_slice()).unwrap();
        Some((batch.floor, batch.commands.iter().map(|command| command.counter).collect()))
    }

    fn applied(index: u64) -> Applied {
        Applied { index, response: Bytes::new() }
    }

    fn answer(receiver: &mut Answer) -> Option<Result<Applied, Error>> {
        receiver.try_recv().unwrap()
    }

    #[test]
    fn what_arrives_together_shares_an_entry() {
        let mut tracker = tracker();
        let _a = push(&mut tracker, b"a", MS);
        let _b = push(&mut tracker, b"b", MS);
        assert_eq!(propose(&mut tracker), Some((0, vec![0, 1])));
        assert_eq!(propose(&mut tracker), None);
        let _c = push(&mut tracker, b"c", MS);
        assert_eq!(propose(&mut tracker), Some((0, vec![2])));
    }

    #[test]
    fn a_batch_ends_at_its_bound() {
        static HALF: [u8; MAX_BATCH_BYTES / 2] = [0; MAX_BATCH_BYTES / 2];
        static OVER: [u8; MAX_BATCH_BYTES + 1] = [0; MAX_BATCH_BYTES + 1];
        let mut tracker = tracker();
        let _all: Vec<_> = [&HALF[..], &HALF, b"x", &OVER, b"y"].map(|p| push(&mut tracker, p, MS)).into();
        assert_eq!(propose(&mut tracker), Some((0, vec![0, 1])));
        assert_eq!(propose(&mut tracker), Some((0, vec![2])));
        assert_eq!(propose(&mut tracker), Some((0, vec![3])));
        assert_eq!(propose(&mut tracker), Some((0, vec![4])));
    }

    #[test]
    fn results_raise_the_floor_and_are_given_once() {
        let mut tracker = tracker();
        let mut a = push(&mut tracker, b"a", MS);
        let mut b = push(&mut tracker, b"b", MS);
        propose(&mut tracker);
        tracker.resolve(1, &applied(7), Duration::ZERO);
        assert_eq!((answer(&mut a), answer(&mut b)), (None, Some(Ok(applied(7)))));
        let _c = push(&mut tracker, b"c", MS);
        assert_eq!(propose(&mut tracker), Some((0, vec![2])));
        tracker.resolve(0, &applied(8), Duration::ZERO);
        tracker.resolve(0, &applied(9), Duration::ZERO);
        assert_eq!(answer(&mut a), Some(Ok(applied(8))));
        let _d = push(&mut tracker, b"d", MS);
        assert_eq!(propose(&mut tracker), Some((2, vec![3])));
        assert_eq!(tracker.load(), Load { count: 2, bytes: 2 });
    }

    #[test]
    fn a_new_leader_is_sent_only_what_has_no_answer() {
        let mut tracker = tracker();
        let _all: Vec<_> = [b"a", b"b", b"c"].map(|p| push(&mut tracker, p, MS)).into();
        propose(&mut tracker);
        tracker.resolve(1, &applied(1), Duration::ZERO);
        tracker.propose_again();
        assert_eq!(propose(&mut tracker), Some((0, vec![0, 2])));
    }

    #[test]
    fn a_forwarded_proposal_is_sent_again_with_growing_pauses() {
        let mut tracker = tracker();
        let _a = push(&mut tracker, b"a", MS);
        propose(&mut tracker);
        tracker.retry_if_due(FIRST_RETRY - MS);
        assert!(!tracker.has_unproposed());
        tracker.retry_if_due(FIRST_RETRY);
        assert!(tracker.has_unproposed());
        let (_, mark) = tracker.next_batch().unwrap();
        tracker.proposed(mark, FIRST_RETRY);
        tracker.retry_if_due(FIRST_RETRY * 3 - MS);
        assert!(!tracker.has_unproposed());
        tracker.retry_if_due(FIRST_RETRY * 3);
        assert!(tracker.has_unproposed());
    }

    #[test]
    fn an_overdue_answer_says_whether_the_command_was_proposed() {
        let mut tracker = tracker();
        let mut a = push(&mut tracker, b"a", MS);
        let mut late = push(&mut tracker, b"l", MS * 9);
        propose(&mut tracker);
        let mut b = push(&mut tracker, b"b", MS);
        tracker.expire(MS / 2);
        assert_eq!((answer(&mut a), answer(&mut b)), (None, None));
        tracker.expire(MS);
        assert!(matches!(answer(&mut a), Some(Err(Error::Unknown { .. }))));
        assert_eq!(answer(&mut b), Some(Err(Error::NoLeader)));
        assert_eq!(answer(&mut late), None);
        // What was answered as never proposed is not proposed after all.
        assert_eq!(propose(&mut tracker), None);
    }

    #[test]
    fn the_window_is_a_bound() {
        let mut tracker = tracker();
        let mut all: Vec<_> = (0..WINDOW).map(|_| push(&mut tracker, b"x", MS)).collect();
        let mut over = push(&mut tracker, b"x", MS);
        assert_eq!(answer(&mut over), Some(Err(Error::Overloaded)));
        propose(&mut tracker);
        // A result in the middle does not help: the oldest one holds the window.
        tracker.resolve(1, &applied(1), Duration::ZERO);
        assert_eq!(answer(&mut push(&mut tracker, b"x", MS)), Some(Err(Error::Overloaded)));
        tracker.resolve(0, &applied(1), Duration::ZERO);
        assert_eq!(answer(&mut push(&mut tracker, b"x", MS)), None);
        assert_eq!(answer(&mut all[0]), Some(Ok(applied(1))));
    }
}
