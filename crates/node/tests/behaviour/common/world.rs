//! A cluster driven by hand, on one thread and without a clock. The same calls give the same run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvd_node::StateMachine as _;
use kvd_node::driver::Done;
use kvd_node::{Applied, cluster_id, initial_members};
use kvd_node::{
    CatchUp, ChangeOutcome, Config, Error, Handle, Membership, MembershipChange, MembershipRequest, Role,
    Start, Status,
};
use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler, SnapshotStore};
use kvd_wal::Wal;
use raft::eraftpb::{Message, MessageType};

use super::asked::{Asked, LONG};
use super::journal::{Commands, Journal};
use super::member::{DIR, Held, Member, Running};
use super::wire::{Fate, Wire};

/// The time between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Bound of what one call may set in motion: a cluster that never comes to rest is a bug.
const MAX_STEPS: usize = 100_000;

pub(crate) struct World {
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) wire: Wire,
    pub(crate) now: Duration,
    /// Effects and deliveries in order.
    pub(crate) transcript: Vec<String>,
    configure: fn(&mut Config),
    initial: Vec<String>,
    calls: Vec<Call>,
    /// What a leader has answered does not arrive.
    pub(crate) answers_get_lost: bool,
    /// The transport answers a removed member with "410 Gone".
    pub(crate) refuse_the_removed: bool,
    /// The number of ticks, and whether the transcript has the last one.
    ticks: (usize, bool),
}

/// A question that is on its way, or is being answered.
struct Call {
    from: u64,
    to: u64,
    number: u64,
    answer: BoxFuture<Result<Bytes, CallError>>,
}

/// Where a member's peer listener would be.
pub(crate) fn url(id: u64) -> String {
    format!("http://member-{id}:9021")
}

impl World {
    /// A cluster of members 1 to n.
    pub(crate) fn new(n: u64) -> Self {
        Self::with(n, |_| ())
    }

    /// A cluster whose members have a configuration of their own.
    pub(crate) fn with(n: u64, configure: fn(&mut Config)) -> Self {
        let initial: Vec<String> = (1..=n).map(url).collect();
        let mut world = Self {
            members: BTreeMap::new(),
            wire: Wire::default(),
            now: Duration::ZERO,
            transcript: Vec::new(),
            configure,
            initial,
            calls: Vec::new(),
            answers_get_lost: false,
            refuse_the_removed: true,
            ticks: (0, true),
        };
        for id in 1..=n {
            let (cluster_id, members) = (world.cluster_id(), initial_members(&world.initial));
            world.add(id, Start::Initial { cluster_id, members });
        }
        world.settle();
        world
    }

    /// A cluster of n in which member 1 leads.
    pub(crate) fn led(n: u64) -> Self {
        Self::led_with(n, |_| ())
    }

    /// The same, with a configuration of its own.
    pub(crate) fn led_with(n: u64, configure: fn(&mut Config)) -> Self {
        let mut world = Self::with(n, configure);
        world.elect(1);
        // So that all clocks show the same.
        world.tick();
        world
    }

    pub(crate) fn cluster_id(&self) -> u64 {
        cluster_id(&self.initial)
    }

    fn add(&mut self, id: u64, start: Start) {
        let mut config = Config::new(id);
        config.segment_bytes = 64 << 10;
        config.prepare_segments_ahead = false;
        config.election_seed = Some(7);
        (self.configure)(&mut config);
        self.members.insert(id, Member::new(config, start));
    }

    /// Starts a member that is to join; somebody has to add it.
    pub(crate) fn start_joiner(&mut self, id: u64) {
        let cluster_id = self.cluster_id();
        self.add(id, Start::Join { cluster_id });
        self.settle();
    }

    #[track_caller]
    pub(crate) fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("a member of that id")
    }

    #[track_caller]
    pub(crate) fn run(&self, id: u64) -> &Running {
        self.members[&id].run()
    }

    #[track_caller]
    pub(crate) fn handle(&self, id: u64) -> &Handle {
        &self.members[&id].handle
    }

    pub(crate) fn journal(&self, id: u64) -> &Journal {
        &self.members[&id].journal
    }

    #[track_caller]
    pub(crate) fn status(&self, id: u64) -> Status {
        self.run(id).core.status()
    }

    pub(crate) fn is_leader(&self, id: u64) -> bool {
        self.members[&id].running.as_ref().is_some_and(|r| r.core.status().role == Role::Leader)
    }

    /// Whether a member knows itself as a voter.
    pub(crate) fn is_voter(&self, id: u64) -> bool {
        let status = self.status(id);
        status.is_member && status.role != Role::Learner
    }

    /// The leader of the highest term among those that run.
    pub(crate) fn leader(&self) -> Option<u64> {
        let running = self.members.values().filter_map(|m| m.running.as_ref()).map(|r| r.core.status());
        running.filter(|s| s.role == Role::Leader).max_by_key(|s| s.term).map(|s| s.id)
    }

    /// Stops a member as a power failure does.
    pub(crate) fn crash(&mut self, id: u64) {
        self.member(id).crash();
    }

    pub(crate) fn restart(&mut self, id: u64) {
        self.member(id).restart().expect("the member starts again");
        self.settle();
    }

    pub(crate) fn hold(&mut self, id: u64, held: Held) {
        self.member(id).held = held;
    }

    // --- requests

    pub(crate) fn propose(&mut self, at: u64, command: &str) -> Asked<Applied> {
        self.propose_within(at, command, LONG)
    }

    pub(crate) fn propose_within(&mut self, at: u64, command: &str, timeout: Duration) -> Asked<Applied> {
        let asked = Asked::new(self.handle(at).propose(Bytes::copy_from_slice(command.as_bytes()), timeout));
        self.settle();
        asked
    }

    pub(crate) fn read(&mut self, at: u64) -> Asked<u64> {
        self.read_within(at, LONG)
    }

    pub(crate) fn read_within(&mut self, at: u64, timeout: Duration) -> Asked<u64> {
        let asked = Asked::new(self.handle(at).read_index(timeout));
        self.settle();
        asked
    }

    pub(crate) fn change(&mut self, at: u64, change: MembershipChange) -> Asked<ChangeOutcome> {
        self.change_within(at, change, LONG)
    }

    pub(crate) fn change_within(
        &mut self,
        at: u64,
        change: MembershipChange,
        timeout: Duration,
    ) -> Asked<ChangeOutcome> {
        let asked = Asked::new(self.handle(at).change_membership(change, timeout));
        self.settle();
        asked
    }

    /// The member list as a member's transport was last told, or as it began.
    pub(crate) fn list(&self, id: u64) -> Arc<Membership> {
        let member = &self.members[&id];
        member.told.clone().unwrap_or_else(|| member.handle.membership())
    }

    /// How a learner catches up, as its leader sees it.
    pub(crate) fn catch_up(&self, leader: u64, learner: u64) -> Option<CatchUp> {
        let progress = self.run(leader).core.progress();
        progress.iter().find(|progress| progress.id == learner).and_then(|progress| progress.learner)
    }

    pub(crate) fn change_all(
        &mut self,
        at: u64,
        changes: Vec<MembershipChange>,
        force: Option<&str>,
    ) -> Asked<ChangeOutcome> {
        let request = MembershipRequest { changes, force: force.map(str::to_owned) };
        let asked = Asked::new(self.handle(at).change_members(request, LONG));
        self.settle();
        asked
    }

    pub(crate) fn transfer(&mut self, at: u64, to: Option<u64>) -> Asked<u64> {
        let asked = Asked::new(self.handle(at).transfer_leadership(to, LONG));
        self.settle();
        asked
    }

    pub(crate) fn add_member(&mut self, at: u64, id: u64) -> Asked<ChangeOutcome> {
        self.change(at, MembershipChange::Add { id, peer_urls: vec![url(id)] })
    }

    pub(crate) fn snapshot_within(&mut self, at: u64, timeout: Duration) -> Asked<u64> {
        let asked = Asked::new(self.handle(at).snapshot(timeout));
        self.settle();
        asked
    }

    pub(crate) fn remove_member(&mut self, at: u64, id: u64) -> Asked<ChangeOutcome> {
        self.change(at, MembershipChange::Remove { id })
    }

    /// Adds a member that was started as a joiner, and waits until it is a voter.
    #[track_caller]
    pub(crate) fn join(&mut self, at: u64, id: u64) {
        self.start_joiner(id);
        let mut added = self.add_member(at, id);
        self.answer(&mut added).expect("it is added");
        self.tick_until("a voter", |world| world.is_voter(id));
    }

    /// Proposes and gets a good answer without a tick.
    #[track_caller]
    pub(crate) fn put(&mut self, at: u64, command: &str) -> Applied {
        self.propose(at, command).granted()
    }

    /// Ticks until the answer is there.
    #[track_caller]
    pub(crate) fn answer<T: Clone + Debug>(&mut self, asked: &mut Asked<T>) -> Result<T, Error> {
        self.tick_until("the answer", |_| asked.answer().is_some());
        asked.answer().expect("it is there")
    }

    // --- time

    fn pass(&mut self) {
        self.now += TICK;
        self.ticks = (self.ticks.0 + 1, false);
    }

    /// A tick for one member only.
    pub(crate) fn tick_one(&mut self, id: u64) {
        self.pass();
        self.turn(id, Some(self.now));
        self.settle();
    }

    /// A tick for everybody.
    pub(crate) fn tick(&mut self) {
        self.pass();
        for id in self.ids() {
            self.turn(id, Some(self.now));
        }
        self.settle();
    }

    pub(crate) fn ticks(&mut self, n: usize) {
        (0..n).for_each(|_| self.tick());
    }

    /// Ticks until it is so; 200 ticks are enough for anything.
    #[track_caller]
    pub(crate) fn tick_until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..200 {
            if so(self) {
                return;
            }
            self.tick();
        }
        panic!("not within 200 ticks: {what}\n{}", self.transcript_end());
    }

    /// Makes a member leader by letting time pass for it alone.
    #[track_caller]
    pub(crate) fn elect(&mut self, id: u64) {
        for _ in 0..40 {
            if self.is_leader(id) {
                return;
            }
            self.tick_one(id);
        }
        panic!("member {id} does not become leader\n{}", self.transcript_end());
    }

    /// Makes a member leader whose last leader is gone: the others must have missed it, too.
    #[track_caller]
    pub(crate) fn elect_after_silence(&mut self, id: u64) {
        let others: Vec<u64> = self.ids().into_iter().filter(|other| *other != id).collect();
        for _ in 0..10 {
            others.iter().for_each(|other| self.tick_one(*other));
        }
        self.elect(id);
    }

    fn ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    fn turn(&mut self, id: u64, tick: Option<Duration>) {
        let member = self.members.get_mut(&id).expect("it was there");
        let sent = member.turn(tick);
        for message in sent {
            self.wire.send(id, &message);
        }
        self.note(id);
    }

    /// Takes over what a member did, and checks what holds at all times.
    fn note(&mut self, id: u64) {
        let Some(running) = self.members.get_mut(&id).and_then(|member| member.running.as_mut()) else {
            return;
        };
        let lines = std::mem::take(&mut running.effects.lines);
        let (status, log) = (running.core.status(), running.core.raft().store());
        assert!(status.snapshot <= status.applied && status.applied <= status.commit, "{status:?}");
        assert!(log.first_index() <= status.snapshot + 1, "member {id}: compacted beyond its snapshot");
        assert!(
            log.snapshot_metadata().index <= status.applied,
            "member {id}: offers what it has not applied"
        );
        for line in lines {
            self.write_down(format!("{id}: {line}"));
        }
    }

    /// What the wire holds arrives.
    pub(crate) fn release(&mut self) {
        self.transcript.push("-- what was held arrives".into());
        self.wire.release();
        self.settle();
    }

    fn write_down(&mut self, line: String) {
        let (tick, written) = self.ticks;
        if !written {
            self.ticks.1 = true;
            self.transcript.push(format!("-- tick {tick}"));
        }
        self.transcript.push(line);
    }

    /// Lets everything happen that can without a tick.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        for _ in 0..MAX_STEPS {
            if !self.step() {
                return;
            }
        }
        panic!("the cluster does not come to rest\n{}", self.transcript_end());
    }

    fn step(&mut self) -> bool {
        let mut moved = false;
        for id in self.ids() {
            if self.members[&id].has_arrivals() {
                self.turn(id, None);
                moved = true;
            }
            moved |= self.member(id).disk_step();
            self.note(id);
        }
        moved |= self.carry_calls();
        while let Some((from, message, fate)) = self.wire.next() {
            self.arrive(from, message, fate);
            moved = true;
        }
        moved
    }

    /// Carries what members ask the leader, and its answers. `false` if there was nothing to carry.
    fn carry_calls(&mut self) -> bool {
        let mut moved = false;
        for from in self.ids() {
            let asks = self.members.get_mut(&from).and_then(|member| member.running.as_mut());
            for ask in asks.map(|running| std::mem::take(&mut running.effects.asks)).unwrap_or_default() {
                let reaches = self.members.get(&ask.to).is_some_and(|member| member.running.is_some())
                    && !self.wire.is_cut(from, ask.to);
                let answer = match reaches {
                    true => self.handle(ask.to).answer(from, ask.request, ask.limit),
                    false => Box::pin(std::future::ready(Err(CallError::not_done("it is not there")))),
                };
                self.calls.push(Call { from, to: ask.to, number: ask.number, answer });
                moved = true;
            }
        }
        let mut cx = Context::from_waker(Waker::noop());
        for mut call in std::mem::take(&mut self.calls) {
            let broken = self.wire.is_cut(call.from, call.to);
            let answer = match call.answer.as_mut().poll(&mut cx) {
                _ if broken => Err(CallError::unknown("the connection broke")),
                Poll::Ready(Ok(_)) if self.answers_get_lost => Err(CallError::unknown("the answer got lost")),
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    self.calls.push(call);
                    continue;
                }
            };
            moved = true;
            if let Some(running) = &self.members[&call.from].running {
                running.inbox.done(Done::Answered { number: call.number, answer });
            }
        }
        moved
    }

    /// What the transport does with a message at its end.
    fn arrive(&mut self, from: u64, message: Message, fate: Fate) {
        let to = message.to;
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        let is_up = self.members.get(&to).is_some_and(|member| member.running.is_some());
        let reaches = is_up && !self.wire.is_cut(from, to);
        if self.refuse_the_removed
            && reaches
            && self.members[&to].told.as_ref().is_some_and(|list| list.removed.contains(&from))
        {
            // "410 Gone".
            self.handle(from).removed();
            return;
        }
        if fate == Fate::Drop || !reaches {
            self.write_down(format!("{from}: lost to {to}: {}", super::describe::message(&message)));
            if is_snapshot {
                self.handle(from).report_snapshot(to, false);
            } else if fate != Fate::Drop {
                self.handle(from).report_unreachable(to);
            }
            return;
        }
        if is_snapshot {
            let received = self.copy_snapshot(from, to, &message).is_ok();
            self.handle(from).report_snapshot(to, received);
            if !received {
                return;
            }
        }
        if fate == Fate::Twice {
            self.handle(to).deliver(from, message.clone());
        }
        self.handle(to).deliver(from, message);
    }

    fn copy_snapshot(&self, from: u64, to: u64, message: &Message) -> std::io::Result<()> {
        let metadata = message.get_snapshot().get_metadata();
        let (term, index) = (metadata.term, metadata.index);
        let (_, mut body) = self.run(from).snapshotter.open(term, index)?;
        let mut sink = self.run(to).snapshotter.receive(term, index)?;
        std::io::copy(&mut body, &mut sink)?;
        sink.install()
    }

    // --- what is on the disks

    /// The commands in a member's snapshot file of that index.
    #[track_caller]
    pub(crate) fn in_snapshot(&self, id: u64, index: u64) -> Commands {
        let snapshotter = &self.run(id).snapshotter;
        let mut reader = (1..=self.status(id).term)
            .find_map(|term| snapshotter.read(term, index).ok())
            .expect("a snapshot of that index");
        // Before the state machine's own bytes: the node's, with their length.
        let mut len = [0; 4];
        reader.read_exact(&mut len).expect("a length");
        std::io::copy(
            &mut Read::by_ref(&mut reader).take(u32::from_le_bytes(len).into()),
            &mut std::io::sink(),
        )
        .expect("a head");
        Journal::restore(&mut reader).expect("a state")
    }

    /// (term, index) of the snapshots that a member's log recorded, oldest first.
    pub(crate) fn recorded(&self, id: u64) -> Vec<(u64, u64)> {
        let (disk, dir) = (self.members[&id].disk.disk(), Path::new(DIR).join("wal"));
        let recorded = Wal::recorded_snapshots(&disk, &dir).expect("a log");
        recorded.iter().map(|record| (record.term, record.index)).collect()
    }

    // --- what was seen

    pub(crate) fn transcript_end(&self) -> String {
        self.transcript[self.transcript.len().saturating_sub(60)..].join("\n")
    }

    /// Forgets the transcript so far, and counts ticks anew.
    pub(crate) fn begin_transcript(&mut self) {
        self.transcript.clear();
        self.ticks = (0, true);
    }

    /// How many lines of the transcript have both texts in them.
    pub(crate) fn seen(&self, who: &str, what: &str) -> usize {
        self.transcript.iter().filter(|line| line.starts_with(who) && line.contains(what)).count()
    }

    /// Whether a member has told a leader that its log is durable up to that index, since the transcript began.
    pub(crate) fn has_acknowledged(&self, id: u64, index: u64) -> bool {
        let sends = format!("{id}: send to");
        let told = self.transcript.iter().filter(|line| line.starts_with(&sends));
        let told = told.filter_map(|line| line.split_once("MsgAppendResponse")?.1.split_once(" up to "));
        told.filter_map(|(_, up_to)| up_to.split(' ').next()?.parse().ok()).any(|up_to: u64| up_to >= index)
    }

    /// Every member that runs has applied the same commands.
    #[track_caller]
    pub(crate) fn assert_agreement(&self) {
        let mut running = self.members.values().filter(|member| member.running.is_some());
        let Some(first) = running.next() else { return };
        for other in running {
            assert_eq!(
                first.journal.commands(),
                other.journal.commands(),
                "members {} {}",
                first.id,
                other.id
            );
        }
    }
}
