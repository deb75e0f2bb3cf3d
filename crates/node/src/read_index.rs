//! Linearizable reads: one ReadIndex round in flight, everybody who arrives meanwhile shares the next.
//!
//! A round asks the leader for an index that is at least as high as anything committed when the round began (Raft
//! thesis, section 6.4). raft drops such a request without a word when there is no leader, when the leader changes or
//! when it has committed nothing in its term, so a round that has no answer is begun again under a fresh context. A
//! context is never used twice: raft 0.7 would join the request to an older pending one, at the older index.
//!
//! A round also proves how fresh the local state is: once its index is applied, so is everything that was committed
//! before it began. That bounds the age of a stale read.

use std::collections::VecDeque;
use std::time::Duration;

use futures_channel::oneshot;
use kvd_mutation::{Bug, planted};

use crate::error::Error;

/// How long a round waits for its answer before it is begun again.
pub(crate) const RESEND: Duration = Duration::from_millis(500);

pub(crate) type Reply = oneshot::Sender<Result<u64, Error>>;

/// A read as it comes from a caller.
pub(crate) struct Read {
    pub(crate) timeout: Duration,
    pub(crate) reply: Reply,
}

struct Waiter {
    deadline: Duration,
    reply: Reply,
}

struct Round {
    context: Vec<u8>,
    sent: Duration,
}

pub(crate) struct Reads {
    member: u64,
    boot: u64,
    rounds: u64,
    round: Option<Round>,
    /// Shares the round in flight.
    sharing: Vec<Waiter>,
    /// Arrived after the round began.
    arrived: Vec<Waiter>,
    /// Has its index, and waits for it to be applied. Indices ascend.
    confirmed: VecDeque<Confirmed>,
    /// When the newest round began whose index has been applied.
    fresh: Option<Duration>,
}

struct Confirmed {
    index: u64,
    begun: Duration,
    waiters: Vec<Waiter>,
}

impl Reads {
    pub(crate) fn new(member: u64, boot: u64) -> Self {
        Self {
            member,
            boot,
            rounds: 0,
            round: None,
            sharing: Vec::new(),
            arrived: Vec::new(),
            confirmed: VecDeque::new(),
            fresh: None,
        }
    }

    pub(crate) fn push(&mut self, read: Read, now: Duration) {
        self.arrived.push(Waiter { deadline: now + read.timeout, reply: read.reply });
    }

    /// Begins a round if one is wanted and none is in flight: the context for `RawNode::read_index`.
    /// `askable` tells whether raft would pass the request on instead of dropping it.
    pub(crate) fn next_round(&mut self, askable: bool, now: Duration) -> Option<Vec<u8>> {
        if self.round.as_ref().is_some_and(|round| now >= round.sent + RESEND) {
            self.abandon_round();
        }
        if !askable || self.round.is_some() || (self.arrived.is_empty() && self.sharing.is_empty()) {
            return None;
        }
        self.sharing.append(&mut self.arrived);
        self.rounds += u64::from(!planted(Bug::ReadContextReused));
        let context: Vec<u8> =
            [self.member, self.boot, self.rounds].iter().flat_map(|n| n.to_le_bytes()).collect();
        self.round = Some(Round { context: context.clone(), sent: now });
        Some(context)
    }

    /// The round in flight will not be answered: its leader is gone. The next one serves its waiters.
    pub(crate) fn abandon_round(&mut self) {
        self.round = None;
    }

    /// raft answered the round with that context. Says whether it is the one in flight.
    pub(crate) fn confirm(&mut self, context: &[u8], index: u64) -> bool {
        let Some(round) = self.round.take_if(|round| round.context == context) else { return false };
        let waiters = std::mem::take(&mut self.sharing);
        self.push_confirmed(index, round.sent, waiters);
        true
    }

    /// Nothing that was committed by now is beyond that index: it is the answer to everybody who waits for one.
    pub(crate) fn confirm_all(&mut self, index: u64, now: Duration) {
        let mut waiters = std::mem::take(&mut self.sharing);
        waiters.append(&mut self.arrived);
        if !waiters.is_empty() {
            self.push_confirmed(index, now, waiters);
        }
    }

    fn push_confirmed(&mut self, index: u64, begun: Duration, waiters: Vec<Waiter>) {
        // Rounds are answered in their order, so an index counts as no lower than the one before it.
        let index = index.max(self.confirmed.back().map_or(0, |last| last.index));
        self.confirmed.push_back(Confirmed { index, begun, waiters });
    }

    /// The number of reads that wait for an answer.
    pub(crate) fn waiting(&self) -> usize {
        let confirmed: usize = self.confirmed.iter().map(|confirmed| confirmed.waiters.len()).sum();
        self.arrived.len() + self.sharing.len() + confirmed
    }

    /// Answers the reads whose index has been applied.
    pub(crate) fn applied(&mut self, applied: u64) {
        let ready = |confirmed: &mut Confirmed| confirmed.index <= applied || planted(Bug::ReadBeforeApplied);
        while let Some(confirmed) = self.confirmed.pop_front_if(ready) {
            self.fresh = Some(confirmed.begun);
            for waiter in confirmed.waiters {
                let _ = waiter.reply.send(Ok(applied));
            }
        }
    }

    /// Everything that was committed before this time has been applied. `None` before the first round has proved it.
    pub(crate) fn fresh(&self) -> Option<Duration> {
        self.fresh
    }

    /// Answers what is overdue.
    pub(crate) fn expire(&mut self, now: Duration) {
        self.fail_where(|waiter| now >= waiter.deadline, &Error::NoLeader);
    }

    /// Answers everybody.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        self.fail_where(|_| true, error);
    }

    fn fail_where(&mut self, which: impl Fn(&Waiter) -> bool, error: &Error) {
        let confirmed = self.confirmed.iter_mut().map(|confirmed| &mut confirmed.waiters);
        for waiters in [&mut self.sharing, &mut self.arrived].into_iter().chain(confirmed) {
            for waiter in waiters.extract_if(.., |waiter| which(waiter)) {
                let _ = waiter.reply.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Result<u64, Error>>;

    const ZERO: Duration = Duration::ZERO;

    fn push(reads: &mut Reads) -> Answer {
        let (reply, answer) = oneshot::channel();
        reads.push(Read { timeout: Duration::from_secs(5), reply }, ZERO);
        answer
    }

    #[test]
    fn whoever_arrives_during_a_round_shares_the_next() {
        let mut reads = Reads::new(1, 1);
        let (mut a, mut b) = (push(&mut reads), push(&mut reads));
        let first = reads.next_round(true, ZERO).unwrap();
        let mut late = push(&mut reads);
        assert_eq!(reads.next_round(true, ZERO), None);
        reads.confirm(&first, 5);
        reads.applied(4);
        assert_eq!(a.try_recv().unwrap(), None);
        reads.applied(5);
        assert_eq!(a.try_recv().unwrap(), Some(Ok(5)));
        assert_eq!(b.try_recv().unwrap(), Some(Ok(5)));
        assert_eq!(late.try_recv().unwrap(), None);
        let second = reads.next_round(true, ZERO).unwrap();
        assert_ne!(first, second);
        reads.confirm(&second, 6);
        reads.applied(6);
        assert_eq!(late.try_recv().unwrap(), Some(Ok(6)));
    }

    #[test]
    fn a_lost_round_is_begun_again_under_a_fresh_context_and_its_late_answer_is_ignored() {
        let mut reads = Reads::new(1, 1);
        let mut a = push(&mut reads);
        let first = reads.next_round(true, ZERO).unwrap();
        assert_eq!(reads.next_round(true, RESEND - Duration::from_millis(1)), None);
        let second = reads.next_round(true, RESEND).unwrap();
        assert_ne!(first, second);
        reads.confirm(&first, 1);
        reads.applied(9);
        assert_eq!(a.try_recv().unwrap(), None);
        reads.confirm(&second, 2);
        reads.applied(9);
        assert_eq!(a.try_recv().unwrap(), Some(Ok(9)));
    }

    #[test]
    fn nothing_is_asked_without_a_leader_and_the_deadline_answers() {
        let mut reads = Reads::new(1, 1);
        let mut a = push(&mut reads);
        assert_eq!(reads.next_round(false, ZERO), None);
        reads.expire(Duration::from_millis(4999));
        assert_eq!(a.try_recv().unwrap(), None);
        reads.expire(Duration::from_secs(5));
        assert_eq!(a.try_recv().unwrap(), Some(Err(Error::NoLeader)));
        assert_eq!(reads.next_round(true, ZERO), None);
    }

    #[test]
    fn a_round_proves_freshness_as_of_its_beginning_once_its_index_is_applied() {
        let mut reads = Reads::new(1, 1);
        let _answer = push(&mut reads);
        let begun = Duration::from_secs(3);
        let context = reads.next_round(true, begun).unwrap();
        reads.confirm(&context, 7);
        reads.applied(6);
        assert_eq!(reads.fresh(), None);
        reads.applied(7);
        assert_eq!(reads.fresh(), Some(begun));
    }

    #[test]
    fn contexts_of_two_boots_and_two_members_differ() {
        let context = |member, boot| {
            let mut reads = Reads::new(member, boot);
            let _answer = push(&mut reads);
            reads.next_round(true, ZERO)
        };
        assert_ne!(context(1, 1), context(1, 2));
        assert_ne!(context(1, 1), context(2, 1));
    }
}
