//! What waits to be sent to one peer in one class, and who takes it: the stream, or without one, posters.
//!
//! The node pushes from wherever it runs; the body of the stream's response takes. One mutex guards both sides and is
//! held for moving messages only: encoding happens outside of it, on the side of the stream. A push wakes the stream
//! once, however many follow before it runs.
//!
//! At most one stream is attached. A newer one replaces it: its generation is higher, the older one's connection is
//! killed, and what is queued goes out on the newer. When the attached stream breaks, what is queued is dropped: raft
//! was told that the peer is unreachable and will probe for what is missing.
//!
//! Without a stream, what is queued is posted (`pipeline`). The outbox counts the posters, and asks for another one when
//! there is something to post and none that is about to take it. A stream that is attached takes the queue over, so a
//! message that waits for a poster is not lost to it. Streams and posts share one row of numbers, in the order in which
//! they take from the queue.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Context, Waker};
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock;
use crate::metrics::DropReason;
use crate::outgoing::Outgoing;

/// What shares a stream. Heartbeats and votes never wait behind bulk, because bulk has a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Appends and forwarded proposals.
    Append,
    /// Everything else, except snapshots, which have a connection each.
    Message,
}

impl Class {
    pub(crate) const ALL: [Class; 2] = [Class::Append, Class::Message];

    /// The stream that a message takes. `MsgSnapshot` takes none.
    pub(crate) fn of(message: &Message) -> Option<Class> {
        match message.get_msg_type() {
            MessageType::MsgSnapshot => None,
            MessageType::MsgAppend | MessageType::MsgPropose => Some(Class::Append),
            _ => Some(Class::Message),
        }
    }

    /// The name of the stream in its path.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::Append => "msgapp",
            Class::Message => "message",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// What a message counts for in its queue, in bytes: its payloads, and a charge for what surrounds them. Cheaper than
/// its encoded length, and not below it by much.
pub(crate) fn weight(message: &Message) -> usize {
    const MESSAGE: usize = 64;
    const ENTRY: usize = 32;
    let entries: usize = message.entries.iter().map(|e| ENTRY + e.data.len() + e.context.len()).sum();
    MESSAGE + message.context.len() + entries
}

/// A message that was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) reason: DropReason,
    /// True for the first drop since a message was last taken: the one that is worth a report.
    pub(crate) report: bool,
}

/// What became of a message that was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is queued.
    Queued,
    /// It is queued, and there is one more poster to be started, which counts already.
    NeedsPoster,
}

/// What [`Outbox::take_post`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Post {
    /// There are messages in the batch; the number of their post.
    Take(u64),
    /// Nothing is queued; [`Outbox::more_to_post`] will tell.
    Wait,
    /// There is nothing to post any more: a stream is attached, or the outbox is closed.
    Over,
}

/// What [`Outbox::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// There are messages in the batch.
    Some,
    /// Nothing is queued; the waker will be called.
    Nothing,
    /// The stream is over: replaced, or the outbox is closed and empty.
    Ended,
}

/// The queue of one peer and class.
#[derive(Debug)]
pub(crate) struct Outbox {
    max_messages: usize,
    max_bytes: usize,
    /// Most posters at a time.
    max_posters: usize,
    /// Wakes a poster that waits.
    pub(crate) more_to_post: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    /// Counts the streams that were ever attached, and the posts.
    generation: u64,
    /// Posters that there are.
    posters: usize,
    /// Those of them that are about to take what is queued.
    coming: usize,
    /// Those of them that wait for more.
    idle: usize,
    /// Nothing is posted before.
    back_off_until: Option<Instant>,
    /// Zero after a post that went well.
    back_off: Duration,
    /// Ends the connection of the attached stream; `None` without a stream.
    stream: Option<CancellationToken>,
    waker: Option<Waker>,
    /// A drop was reported, and no message was taken since.
    reported: bool,
    closed: bool,
}

impl Outbox {
    pub(crate) fn new(max_messages: usize, max_bytes: usize, max_posters: usize) -> Outbox {
        let (more_to_post, state) = (Notify::new(), Mutex::default());
        Outbox { max_messages, max_bytes, max_posters, more_to_post, state }
    }

    /// Queues a message for the attached stream, or without one for posting, if there is somewhere to post to.
    pub(crate) fn push(
        &self,
        outgoing: Outgoing,
        can_post: impl FnOnce() -> bool,
    ) -> Result<Pushed, Dropped> {
        let bytes = weight(&outgoing.message);
        let mut state = lock(&self.state);
        let reason = if state.closed {
            DropReason::Stopped
        } else if state.stream.is_none() && !(state.may_post() && can_post()) {
            DropReason::NoStream
        } else if state.queue.len() >= self.max_messages
            || (state.bytes + bytes > self.max_bytes && !state.queue.is_empty())
        {
            DropReason::QueueFull
        } else {
            state.bytes += bytes;
            state.queue.push_back(outgoing);
            state.reported = false;
            if state.stream.is_none() {
                return Ok(self.wake_poster(&mut state));
            }
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
            return Ok(Pushed::Queued);
        };
        let report = !state.closed && !std::mem::replace(&mut state.reported, true);
        Err(Dropped { reason, report })
    }

    fn wake_poster(&self, state: &mut State) -> Pushed {
        if state.coming > 0 {
            return Pushed::Queued;
        }
        if state.idle > 0 {
            state.idle -= 1;
            state.coming += 1;
            self.more_to_post.notify_one();
            return Pushed::Queued;
        }
        if state.posters < self.max_posters {
            state.posters += 1;
            state.coming += 1;
            return Pushed::NeedsPoster;
        }
        // All are busy. Whoever has its answer first takes what is queued.
        Pushed::Queued
    }

    /// Attaches a stream whose connection ends when `kill` is cancelled. Returns its generation, and whether it
    /// replaced one, whose last messages may be lost. `None`: the outbox is closed.
    pub(crate) fn attach(&self, kill: CancellationToken) -> Option<(u64, bool)> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        state.generation += 1;
        state.waker = None;
        state.reported = false;
        let old = state.stream.replace(kill);
        let generation = state.generation;
        drop(state);
        self.more_to_post.notify_waiters();
        if let Some(old) = &old {
            old.cancel();
        }
        Some((generation, old.is_some()))
    }

    /// Detaches the stream of that generation, unless a newer one has replaced it. What was queued for it is dropped;
    /// returns how much that was, and whether to report it.
    pub(crate) fn detach(&self, generation: u64) -> Option<(usize, bool)> {
        let mut state = lock(&self.state);
        if state.generation != generation || state.stream.take().is_none() {
            return None;
        }
        state.waker = None;
        state.bytes = 0;
        let report = !state.closed && !std::mem::replace(&mut state.reported, true);
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        Some((dropped.len(), report))
    }

    /// Moves queued messages to the empty `batch` until they weigh `max_bytes`; at least one if there is one.
    pub(crate) fn take(
        &self,
        generation: u64,
        batch: &mut VecDeque<Outgoing>,
        max_bytes: usize,
        cx: &Context<'_>,
    ) -> Taken {
        let mut state = lock(&self.state);
        if state.generation != generation {
            return Taken::Ended;
        }
        if state.queue.is_empty() {
            if state.closed {
                return Taken::Ended;
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => state.waker = Some(cx.waker().clone()),
            }
            return Taken::Nothing;
        }
        state.take(batch, max_bytes);
        Taken::Some
    }

    /// The same for a poster. `waited`: it has just begun, or waited, and so was counted as coming or idle. After
    /// [`Post::Over`] it is not counted any more, and must end.
    pub(crate) fn take_post(&self, waited: bool, batch: &mut VecDeque<Outgoing>, max_bytes: usize) -> Post {
        let mut state = lock(&self.state);
        if waited {
            state.one_less_waits();
        }
        if state.stream.is_some() || state.closed {
            state.posters -= 1;
            return Post::Over;
        }
        if state.queue.is_empty() {
            state.idle += 1;
            return Post::Wait;
        }
        state.generation += 1;
        state.take(batch, max_bytes);
        Post::Take(state.generation)
    }

    /// A poster has waited for long enough. True if there is nothing to post: then it is not counted any more.
    pub(crate) fn retire(&self) -> bool {
        let mut state = lock(&self.state);
        let nothing = state.queue.is_empty();
        if nothing {
            state.one_less_waits();
            state.posters -= 1;
        }
        nothing
    }

    /// A post went well.
    pub(crate) fn posted(&self) {
        lock(&self.state).back_off = Duration::ZERO;
    }

    /// A poster broke off, with so many messages in hand; `waited` as in [`Outbox::take_post`]. `back_off` has the
    /// shortest and the longest time in which nothing is posted then. What is queued is dropped, unless it is for a stream.
    /// Returns how many messages were dropped, and whether to report it.
    pub(crate) fn break_off(
        &self,
        waited: bool,
        in_hand: usize,
        back_off: (Duration, Duration),
    ) -> (usize, bool) {
        let mut state = lock(&self.state);
        if waited {
            state.one_less_waits();
        }
        state.posters -= 1;
        let mut dropped = in_hand;
        if state.stream.is_none() {
            state.back_off = (state.back_off * 2).clamp(back_off.0, back_off.1);
            state.back_off_until = Some(Instant::now() + state.back_off);
            dropped += std::mem::take(&mut state.queue).len();
            state.bytes = 0;
        }
        let report = dropped > 0 && !state.closed && !std::mem::replace(&mut state.reported, true);
        (dropped, report)
    }

    /// Takes no more messages. An attached stream writes out what is queued and ends.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        drop(state);
        self.more_to_post.notify_waiters();
    }
}

impl State {
    /// Posters do not know each other: whichever wakes first may be the one that was counted as coming.
    fn one_less_waits(&mut self) {
        match self.coming {
            0 => self.idle -= 1,
            _ => self.coming -= 1,
        }
    }

    fn may_post(&self) -> bool {
        self.back_off_until.is_none_or(|until| until <= Instant::now())
    }

    /// Moves queued messages to `batch` until they weigh `max_bytes`.
    fn take(&mut self, batch: &mut VecDeque<Outgoing>, max_bytes: usize) {
        if self.bytes <= max_bytes {
            std::mem::swap(&mut self.queue, batch);
            self.bytes = 0;
            return;
        }
        let mut moved = 0;
        while moved < max_bytes
            && let Some(outgoing) = self.queue.pop_front()
        {
            moved += weight(&outgoing.message);
            batch.push_back(outgoing);
        }
        self.bytes -= moved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u64, payload: usize) -> Outgoing {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.index = index;
        message.context = vec![0; payload].into();
        Outgoing::new(message, None)
    }

    /// Pushes without a place to post to.
    fn push(outbox: &Outbox, outgoing: Outgoing) -> Result<(), Dropped> {
        outbox.push(outgoing, || false).map(|pushed| assert_eq!(pushed, Pushed::Queued))
    }

    fn attached(max_messages: usize, max_bytes: usize) -> (Outbox, u64) {
        let outbox = Outbox::new(max_messages, max_bytes, 2);
        let (generation, _) = outbox.attach(CancellationToken::new()).unwrap();
        (outbox, generation)
    }

    fn take(outbox: &Outbox, generation: u64, max: usize) -> (Taken, Vec<u64>) {
        let mut batch = VecDeque::new();
        let taken = outbox.take(generation, &mut batch, max, &Context::from_waker(Waker::noop()));
        (taken, batch.iter().map(|m| m.message.index).collect())
    }

    fn refused(reason: DropReason, report: bool) -> Result<(), Dropped> {
        Err(Dropped { reason, report })
    }

    #[test]
    fn every_type_of_message_has_its_class() {
        use MessageType::*;
        for kind in [MsgAppend, MsgPropose] {
            assert_eq!(class_of(kind), Some(Class::Append), "{kind:?}");
        }
        for kind in [
            MsgAppendResponse,
            MsgRequestVote,
            MsgRequestVoteResponse,
            MsgRequestPreVote,
            MsgRequestPreVoteResponse,
            MsgHeartbeat,
            MsgHeartbeatResponse,
            MsgTransferLeader,
            MsgTimeoutNow,
            MsgReadIndex,
            MsgReadIndexResp,
        ] {
            assert_eq!(class_of(kind), Some(Class::Message), "{kind:?}");
        }
        assert_eq!(class_of(MsgSnapshot), None);
        for class in Class::ALL {
            assert_eq!(Class::parse(class.name()), Some(class));
        }
        assert_eq!(Class::parse("snapshot"), None);
    }

    fn class_of(kind: MessageType) -> Option<Class> {
        let mut message = Message::default();
        message.set_msg_type(kind);
        Class::of(&message)
    }

    #[test]
    fn the_queue_is_bounded_in_messages() {
        let (outbox, generation) = attached(3, usize::MAX);
        assert_eq!(push(&outbox, message(1, 0)), Ok(()));
        assert_eq!(push(&outbox, message(2, 0)), Ok(()));
        assert_eq!(push(&outbox, message(3, 0)), Ok(()));
        assert_eq!(push(&outbox, message(4, 0)), refused(DropReason::QueueFull, true));
        assert_eq!(push(&outbox, message(5, 0)), refused(DropReason::QueueFull, false));
        assert_eq!(take(&outbox, generation, usize::MAX), (Taken::Some, vec![1, 2, 3]));
        assert_eq!(push(&outbox, message(6, 0)), Ok(()));
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let one = weight(&message(0, 100).message);
        for (limit, fits) in [(2 * one - 1, false), (2 * one, true), (2 * one + 1, true)] {
            let (outbox, generation) = attached(10, limit);
            assert_eq!(push(&outbox, message(1, 100)), Ok(()));
            assert_eq!(push(&outbox, message(2, 100)).is_ok(), fits);
            take(&outbox, generation, usize::MAX);
            assert_eq!(push(&outbox, message(3, 100)), Ok(()), "taking makes room");
        }
    }

    #[test]
    fn an_empty_queue_takes_a_message_of_any_size() {
        let (outbox, _) = attached(10, 1);
        assert_eq!(push(&outbox, message(1, 100)), Ok(()));
        assert_eq!(push(&outbox, message(2, 0)), refused(DropReason::QueueFull, true));
    }

    #[test]
    fn one_take_is_bounded_and_keeps_the_order() {
        let one = weight(&message(0, 10).message);
        for (max, first) in [(2 * one - 1, 2), (2 * one, 2), (2 * one + 1, 3), (1, 1), (5 * one, 5)] {
            let (outbox, generation) = attached(10, usize::MAX);
            for index in 0..5 {
                assert_eq!(push(&outbox, message(index, 10)), Ok(()));
            }
            assert_eq!(take(&outbox, generation, max).1, (0..first).collect::<Vec<_>>(), "{max}");
            assert_eq!(take(&outbox, generation, usize::MAX).1, (first..5).collect::<Vec<_>>());
            assert_eq!(take(&outbox, generation, max).0, Taken::Nothing);
        }
    }

    #[test]
    fn without_a_stream_messages_are_dropped_and_reported_once() {
        let outbox = Outbox::new(10, 1000, 2);
        assert_eq!(push(&outbox, message(1, 0)), refused(DropReason::NoStream, true));
        assert_eq!(push(&outbox, message(2, 0)), refused(DropReason::NoStream, false));
        let (generation, replaced) = outbox.attach(CancellationToken::new()).unwrap();
        assert!(!replaced);
        assert_eq!(push(&outbox, message(3, 0)), Ok(()));
        assert_eq!(outbox.detach(generation), Some((1, true)));
        assert_eq!(outbox.detach(generation), None);
        assert_eq!(push(&outbox, message(4, 0)), refused(DropReason::NoStream, false));
        let (generation, _) = outbox.attach(CancellationToken::new()).unwrap();
        assert_eq!(take(&outbox, generation, 1000), (Taken::Nothing, vec![]), "nothing old is left");
    }

    #[test]
    fn the_newest_stream_inherits_the_queue() {
        let (outbox, old) = attached(10, 1000);
        let kill = CancellationToken::new();
        let (newer, replaced) = outbox.attach(kill.clone()).unwrap();
        assert!(replaced);
        assert_eq!(push(&outbox, message(1, 0)), Ok(()));
        assert_eq!(take(&outbox, old, 1000), (Taken::Ended, vec![]));
        assert_eq!(outbox.detach(old), None);
        assert!(!kill.is_cancelled());
        let (newest, _) = outbox.attach(CancellationToken::new()).unwrap();
        assert!(kill.is_cancelled());
        assert_eq!(take(&outbox, newer, 1000), (Taken::Ended, vec![]));
        assert_eq!(take(&outbox, newest, 1000), (Taken::Some, vec![1]));
    }

    #[test]
    fn a_closed_outbox_is_written_out_and_ends() {
        let (outbox, generation) = attached(10, 1000);
        assert_eq!(push(&outbox, message(1, 0)), Ok(()));
        outbox.close();
        assert_eq!(push(&outbox, message(2, 0)), refused(DropReason::Stopped, false));
        assert_eq!(take(&outbox, generation, 1000), (Taken::Some, vec![1]));
        assert_eq!(take(&outbox, generation, 1000).0, Taken::Ended);
        assert!(outbox.attach(CancellationToken::new()).is_none());
    }

    const BACK_OFF: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(7200));

    fn post(outbox: &Outbox, waited: bool, max: usize) -> (Post, Vec<u64>) {
        let mut batch = VecDeque::new();
        let post = outbox.take_post(waited, &mut batch, max);
        (post, batch.iter().map(|m| m.message.index).collect())
    }

    fn push_to_post(outbox: &Outbox, index: u64) -> Result<Pushed, Dropped> {
        outbox.push(message(index, 0), || true)
    }

    #[test]
    fn posters_are_asked_for_when_nobody_is_about_to_come() {
        let outbox = Outbox::new(100, usize::MAX, 2);
        assert_eq!(push_to_post(&outbox, 1), Ok(Pushed::NeedsPoster));
        assert_eq!(push_to_post(&outbox, 2), Ok(Pushed::Queued), "the first will take it");
        assert_eq!(post(&outbox, true, usize::MAX), (Post::Take(1), vec![1, 2]));
        assert_eq!(push_to_post(&outbox, 3), Ok(Pushed::NeedsPoster), "the first is busy");
        assert_eq!(push_to_post(&outbox, 4), Ok(Pushed::Queued));
        assert_eq!(post(&outbox, true, usize::MAX), (Post::Take(2), vec![3, 4]));
        assert_eq!(push_to_post(&outbox, 5), Ok(Pushed::Queued), "two are the most");
        assert_eq!(post(&outbox, false, usize::MAX), (Post::Take(3), vec![5]));
        // Both are done. Each waits, and one of them is woken.
        assert_eq!(post(&outbox, false, 1).0, Post::Wait);
        assert_eq!(post(&outbox, false, 1).0, Post::Wait);
        assert_eq!(push_to_post(&outbox, 6), Ok(Pushed::Queued));
        assert!(!outbox.retire(), "there is something to post");
        assert_eq!(post(&outbox, true, 1), (Post::Take(4), vec![6]));
        assert!(outbox.retire());
        assert_eq!(post(&outbox, false, 1).0, Post::Wait);
        assert!(outbox.retire());
        assert_eq!(push_to_post(&outbox, 7), Ok(Pushed::NeedsPoster), "none was left");
    }

    #[test]
    fn a_stream_takes_over_what_waits_to_be_posted_and_comes_after_what_was() {
        let outbox = Outbox::new(100, usize::MAX, 2);
        assert_eq!(push_to_post(&outbox, 1), Ok(Pushed::NeedsPoster));
        assert_eq!(post(&outbox, true, usize::MAX), (Post::Take(1), vec![1]));
        assert_eq!(push_to_post(&outbox, 2), Ok(Pushed::NeedsPoster));
        let (generation, replaced) = outbox.attach(CancellationToken::new()).unwrap();
        assert_eq!((generation, replaced), (2, false));
        assert_eq!(push_to_post(&outbox, 3), Ok(Pushed::Queued));
        assert_eq!(post(&outbox, true, usize::MAX), (Post::Over, vec![]));
        assert_eq!(take(&outbox, generation, usize::MAX), (Taken::Some, vec![2, 3]));
        // The one with the post still under way fails: that post is lost, and nothing else.
        assert_eq!(push_to_post(&outbox, 4), Ok(Pushed::Queued));
        assert_eq!(outbox.break_off(false, 1, BACK_OFF), (1, true));
        assert_eq!(take(&outbox, generation, usize::MAX), (Taken::Some, vec![4]));
        assert_eq!(outbox.detach(generation), Some((0, false)), "reported already");
        assert_eq!(push_to_post(&outbox, 5), Ok(Pushed::NeedsPoster), "no poster is left, and none failed");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_post_nothing_is_posted_for_a_while() {
        let outbox = Outbox::new(100, usize::MAX, 2);
        for (round, wait) in [1, 2, 2].into_iter().enumerate() {
            assert_eq!(push_to_post(&outbox, 1), Ok(Pushed::NeedsPoster), "{round}");
            assert_eq!(post(&outbox, true, usize::MAX), (Post::Take(1 + round as u64), vec![1]));
            assert_eq!(push_to_post(&outbox, 2), Ok(Pushed::NeedsPoster));
            assert_eq!(outbox.break_off(false, 1, BACK_OFF), (2, true), "in hand, and queued");
            assert_eq!(
                push_to_post(&outbox, 3),
                refused(DropReason::NoStream, false).map(|()| Pushed::Queued)
            );
            assert_eq!(outbox.break_off(true, 0, BACK_OFF).0, 0, "the other one");
            // The second failure of one round doubles the wait as the first of the next one does.
            lock(&outbox.state).back_off = BACK_OFF.0 * u32::try_from(round + 1).unwrap();
            tokio::time::advance(2 * wait * BACK_OFF.0).await;
        }
        outbox.posted();
        assert_eq!(lock(&outbox.state).back_off, Duration::ZERO);
    }

    #[test]
    fn a_closed_outbox_is_not_posted() {
        let outbox = Outbox::new(100, usize::MAX, 2);
        assert_eq!(push_to_post(&outbox, 1), Ok(Pushed::NeedsPoster));
        outbox.close();
        assert_eq!(post(&outbox, true, usize::MAX), (Post::Over, vec![]));
    }
}
