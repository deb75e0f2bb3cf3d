//! A network in memory, for tests of whatever stands on [`Peers`]: one thread, no sockets, no clock, no randomness.
//!
//! Time passes when [`Network::advance`] is called, by one tick each time. What was sent is delivered by the next
//! `advance`, or by a later one if the link has a delay; all that is due at one time is delivered in the order in which it
//! was sent. So the same calls give the same run. Each direction between two members is a link of its own, which can be
//! cut, mended and slowed down.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! use kvd_raftpb::memory::{Network, NoSnapshots};
//! use kvd_raftpb::node::{Member, Membership};
//! use kvd_raftpb::peers::{PeerHandler, Peers as _};
//! use raft::eraftpb::Message;
//!
//! #[derive(Default)]
//! struct Inbox(Mutex<Vec<Message>>);
//!
//! impl PeerHandler for Inbox {
//!     fn deliver(&self, _from: u64, message: Message) {
//!         self.0.lock().unwrap().push(message);
//!     }
//!     fn report_unreachable(&self, _id: u64) {}
//!     fn report_snapshot(&self, _id: u64, _received: bool) {}
//!     fn removed(&self) {}
//!     fn membership(&self) -> Option<Membership> {
//!         None
//!     }
//! }
//!
//! let members = [1, 2].map(|id| Member { id, ..Member::default() });
//! let members = Membership { members: members.to_vec(), ..Membership::default() };
//! let network = Network::new(Duration::from_millis(1));
//! let inboxes = [1, 2].map(|_| Arc::new(Inbox::default()));
//! let one = network.join(1, inboxes[0].clone(), Arc::new(NoSnapshots), &members);
//! let _two = network.join(2, inboxes[1].clone(), Arc::new(NoSnapshots), &members);
//!
//! let mut message = Message::default();
//! (message.from, message.to) = (1, 2);
//! one.send(vec![message]);
//! assert!(inboxes[1].0.lock().unwrap().is_empty());
//! network.advance();
//! assert_eq!(inboxes[1].0.lock().unwrap().len(), 1);
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};

use crate::node::Membership;
use crate::peers::{BoxFuture, CallError, PeerHandler, Peers, SnapshotSink, SnapshotStore};

/// Most messages and calls on one link at a time. More are dropped and reported, as a transport does.
pub const LINK_MESSAGES: usize = 4096;

/// A network. Clones are handles to the same one.
#[derive(Clone)]
pub struct Network {
    /// The length of a tick, which only the limits of calls are measured in.
    tick: Duration,
    state: Arc<Mutex<State>>,
}

/// One member's side of a [`Network`].
pub struct MemoryPeers {
    id: u64,
    network: Network,
}

/// A store for members that never send a snapshot: it has none, and takes none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSnapshots;

#[derive(Default)]
struct State {
    now: u64,
    /// Counts what was sent, so that what is due at one time keeps its order.
    sent: u64,
    members: BTreeMap<u64, Member>,
    /// By the tick at which it is due, and the number.
    on_the_way: BTreeMap<(u64, u64), Parcel>,
    links: BTreeMap<(u64, u64), Link>,
    calls: Vec<Arc<Call>>,
}

struct Member {
    handler: Arc<dyn PeerHandler>,
    snapshots: Arc<dyn SnapshotStore>,
    peers: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    told_removed: bool,
}

#[derive(Default)]
struct Link {
    cut: bool,
    delay: u64,
    /// When the last parcel is due: a delay that shrinks lets nothing overtake it.
    last: u64,
    waiting: usize,
}

struct Parcel {
    from: u64,
    to: u64,
    what: What,
}

enum What {
    Message(Message),
    Call(Bytes, Arc<Call>),
}

impl Network {
    /// An empty network, whose ticks are so long: it matters to the limits of calls only.
    #[must_use]
    pub fn new(tick: Duration) -> Network {
        Network { tick: tick.max(Duration::from_nanos(1)), state: Arc::default() }
    }

    /// Adds a member, or puts a new one in the place of one that is there, as a restart does. What was on its way to the
    /// old one reaches the new one.
    pub fn join(
        &self,
        id: u64,
        handler: Arc<dyn PeerHandler>,
        snapshots: Arc<dyn SnapshotStore>,
        membership: &Membership,
    ) -> Arc<MemoryPeers> {
        let (peers, removed, told_removed) = Default::default();
        let member = Member { handler, snapshots, peers, removed, told_removed };
        self.lock().members.insert(id, member);
        let peers = MemoryPeers { id, network: self.clone() };
        peers.update(membership);
        Arc::new(peers)
    }

    /// Takes a member off, as a crash does.
    pub fn leave(&self, id: u64) {
        self.lock().members.remove(&id);
    }

    /// Cuts the link from one member to another, in this direction: what is on its way is lost, and so is what follows.
    pub fn cut(&self, from: u64, to: u64) {
        self.lock().links.entry((from, to)).or_default().cut = true;
    }

    /// Mends the link.
    pub fn mend(&self, from: u64, to: u64) {
        self.lock().links.entry((from, to)).or_default().cut = false;
    }

    /// Lets what is sent on that link from now on take so many more ticks. Its order is kept.
    pub fn delay(&self, from: u64, to: u64, ticks: u64) {
        self.lock().links.entry((from, to)).or_default().delay = ticks;
    }

    /// Lets one tick pass: delivers what is due, and returns how much that was. What the handlers send meanwhile is
    /// delivered by a later call.
    pub fn advance(&self) -> usize {
        let (due, late) = {
            let mut state = self.lock();
            state.now += 1;
            let now = state.now;
            let later = state.on_the_way.split_off(&(now + 1, 0));
            let due = std::mem::replace(&mut state.on_the_way, later);
            for parcel in due.values() {
                state.links.entry((parcel.from, parcel.to)).or_default().waiting -= 1;
            }
            state.calls.retain(|call| !call.is_over());
            let late: Vec<_> = state.calls.iter().filter(|call| call.end < now).cloned().collect();
            (due, late)
        };
        let delivered = due.len();
        for parcel in due.into_values() {
            self.arrive(parcel);
        }
        for call in late {
            call.end_with(Err(CallError::unknown("no answer in time")));
        }
        delivered
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lock().on_the_way.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the handlers are told is told when no lock is held: they may come back.
    fn arrive(&self, parcel: Parcel) {
        let Parcel { from, to, what } = parcel;
        let mut state = self.lock();
        let cut = state.is_cut(from, to);
        let sender =
            state.members.get(&from).map(|member| (member.handler.clone(), member.snapshots.clone()));
        let receiver = state.members.get(&to).filter(|_| !cut);
        let removed = receiver.is_some_and(|receiver| receiver.removed.contains(&from));
        let receiver = receiver
            .filter(|receiver| receiver.peers.contains(&from))
            .map(|receiver| (receiver.handler.clone(), receiver.snapshots.clone()));
        let tell_removed = removed
            && state.members.get_mut(&from).is_some_and(|s| !std::mem::replace(&mut s.told_removed, true));
        drop(state);
        if let Some((handler, _)) = sender.as_ref().filter(|_| tell_removed) {
            handler.removed();
        }
        match (what, receiver) {
            (What::Message(message), Some((handler, sink))) => {
                if message.get_msg_type() != MessageType::MsgSnapshot {
                    return handler.deliver(from, message);
                }
                let Some((reporting, source)) = sender else { return };
                let received = copy(&message, &*source, &*sink).is_ok();
                if received {
                    handler.deliver(from, message);
                }
                reporting.report_snapshot(to, received);
            }
            (What::Message(message), None) => {
                if let Some((handler, _)) = sender {
                    report_lost(&*handler, &message);
                }
            }
            (What::Call(request, call), Some((handler, _))) => {
                let left = u32::try_from(call.end.saturating_sub(self.lock().now)).unwrap_or(u32::MAX);
                call.begin(handler.answer(from, request, self.tick * left));
            }
            (What::Call(_, call), None) => call.end_with(Err(CallError::unknown("the request was lost"))),
        }
    }
}

fn report_lost(handler: &dyn PeerHandler, message: &Message) {
    match message.get_msg_type() {
        MessageType::MsgSnapshot => handler.report_snapshot(message.to, false),
        _ => handler.report_unreachable(message.to),
    }
}

fn copy(message: &Message, source: &dyn SnapshotStore, sink: &dyn SnapshotStore) -> io::Result<()> {
    let metadata = message.get_snapshot().get_metadata();
    let (len, reader) = source.open(metadata.term, metadata.index)?;
    let mut sink = sink.receive(metadata.term, metadata.index)?;
    let copied = io::copy(&mut reader.take(len), &mut sink)?;
    if copied != len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the stored snapshot is shorter than it said",
        ));
    }
    sink.install()
}

impl State {
    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cut)
    }

    /// Sends a parcel on its way, or gives it back if the link is cut or full.
    fn post(&mut self, parcel: Parcel) -> Option<Parcel> {
        let link = self.links.entry((parcel.from, parcel.to)).or_default();
        if link.cut || link.waiting >= LINK_MESSAGES {
            return Some(parcel);
        }
        link.waiting += 1;
        link.last = link.last.max(self.now + 1 + link.delay);
        self.sent += 1;
        self.on_the_way.insert((link.last, self.sent), parcel);
        None
    }

    fn knows(&self, id: u64, peer: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.peers.contains(&peer))
    }
}

impl Peers for MemoryPeers {
    fn send(&self, messages: Vec<Message>) {
        let mut lost = Vec::new();
        let handler = {
            let mut state = self.network.lock();
            let Some(handler) = state.members.get(&self.id).map(|member| member.handler.clone()) else {
                return;
            };
            for message in messages {
                if !state.knows(self.id, message.to) {
                    // Nobody waits for the fate of a message to somebody unknown, but for that of a snapshot.
                    if message.get_msg_type() == MessageType::MsgSnapshot {
                        lost.push(message);
                    }
                    continue;
                }
                let parcel = Parcel { from: self.id, to: message.to, what: What::Message(message) };
                if let Some(Parcel { what: What::Message(message), .. }) = state.post(parcel) {
                    lost.push(message);
                }
            }
            handler
        };
        for message in lost {
            report_lost(&*handler, &message);
        }
    }

    fn update(&self, membership: &Membership) {
        let mut state = self.network.lock();
        let Some(member) = state.members.get_mut(&self.id) else { return };
        member.removed.extend(&membership.removed);
        member.peers =
            membership.members.iter().map(|member| member.id).filter(|id| *id != self.id).collect();
        member.peers.retain(|id| !member.removed.contains(id));
    }

    fn call(&self, to: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        let mut state = self.network.lock();
        let ticks = limit.as_nanos() / self.network.tick.as_nanos();
        let end = state.now.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX));
        let call = Arc::new(Call { end, progress: Mutex::new(Progress::Sent(None)) });
        let parcel = Parcel { from: self.id, to, what: What::Call(request, call.clone()) };
        if !state.knows(self.id, to) || state.calls.len() >= LINK_MESSAGES || state.post(parcel).is_some() {
            let error = CallError::not_done(format!("there is no way to member {to} now"));
            return Box::pin(std::future::ready(Err(error)));
        }
        state.calls.push(call.clone());
        drop(state);
        Box::pin(Answer { network: self.network.clone(), back: (to, self.id), call })
    }
}

/// A call, shared by the network and the future of the caller.
struct Call {
    /// The last tick in which an answer counts.
    end: u64,
    progress: Mutex<Progress>,
}

enum Progress {
    Sent(Option<Waker>),
    /// The callee's future, which the caller's polls.
    Answering(BoxFuture<Result<Bytes, CallError>>, Option<Waker>),
    Over(Result<Bytes, CallError>),
}

impl Call {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        matches!(*self.lock(), Progress::Over(_))
    }

    fn begin(&self, answer: BoxFuture<Result<Bytes, CallError>>) {
        self.change(|waker| Progress::Answering(answer, waker));
    }

    fn end_with(&self, result: Result<Bytes, CallError>) {
        self.change(|_| Progress::Over(result));
    }

    /// Changes a call that is not over, and wakes whoever waits for it.
    fn change(&self, next: impl FnOnce(Option<Waker>) -> Progress) {
        let mut progress = self.lock();
        let waker = match &mut *progress {
            Progress::Sent(waker) | Progress::Answering(_, waker) => waker.take(),
            Progress::Over(_) => return,
        };
        *progress = next(waker.clone());
        drop(progress);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Answer {
    network: Network,
    /// The link that the answer takes.
    back: (u64, u64),
    call: Arc<Call>,
}

impl Future for Answer {
    type Output = Result<Bytes, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut progress = self.call.lock();
        if let Progress::Over(result) = &*progress {
            return Poll::Ready(result.clone());
        }
        let before = std::mem::replace(&mut *progress, Progress::Sent(Some(cx.waker().clone())));
        // The callee may use the network: no lock is held while it is polled.
        drop(progress);
        let Progress::Answering(mut answer, _) = before else { return Poll::Pending };
        let polled = answer.as_mut().poll(cx);
        let lost = self.network.lock().is_cut(self.back.0, self.back.1);
        let mut progress = self.call.lock();
        // Its time may be over by now.
        if let Progress::Over(result) = &*progress {
            return Poll::Ready(result.clone());
        }
        match polled {
            Poll::Pending => {
                *progress = Progress::Answering(answer, Some(cx.waker().clone()));
                Poll::Pending
            }
            Poll::Ready(result) => {
                let result = if lost { Err(CallError::unknown("the answer was lost")) } else { result };
                *progress = Progress::Over(result.clone());
                Poll::Ready(result)
            }
        }
    }
}

impl SnapshotStore for NoSnapshots {
    fn open(&self, term: u64, index: u64) -> io::Result<(u64, Box<dyn Read + Send>)> {
        let reason = format!("there is no snapshot of term {term} and index {index}");
        Err(io::Error::new(io::ErrorKind::NotFound, reason))
    }

    fn receive(&self, _term: u64, _index: u64) -> io::Result<Box<dyn SnapshotSink>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this member takes no snapshots"))
    }
}
