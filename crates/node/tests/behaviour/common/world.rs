//! A cluster driven by hand, on one thread and without a clock. The same calls give the same run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use kvd_node::{ChangeOutcome, Config, Error, Handle, MembershipChange, Role, Start, Status};
use kvd_node::{Applied, cluster_id, initial_members};
use kvd_raftpb::peers::{PeerHandler, SnapshotStore};
use raft::eraftpb::{Message, MessageType};

use super::asked::{Asked, LONG};
use super::journal::Journal;
use super::member::{Held, Member, Running};
use super::wire::{Fate, Wire};

/// The time between two ticks.
pub const TICK: Duration = Duration::from_millis(100);

/// Bound of what one call may set in motion: a cluster that never comes to rest is a bug.
const MAX_STEPS: usize = 100_000;

pub struct World {
    pub members: BTreeMap<u64, Member>,
    pub wire: Wire,
    pub now: Duration,
    /// Effects and deliveries in order.
    pub transcript: Vec<String>,
    configure: fn(&mut Config),
    initial: Vec<String>,
}

/// Where a member's peer listener would be.
pub fn url(id: u64) -> String {
    format!("http://member-{id}:9021")
}

impl World {
    /// A cluster of members 1 to n.
    pub fn new(n: u64) -> Self {
        Self::with(n, |_| ())
    }

    /// A cluster whose members have a configuration of their own.
    pub fn with(n: u64, configure: fn(&mut Config)) -> Self {
        let initial: Vec<String> = (1..=n).map(url).collect();
        let mut world = Self {
            members: BTreeMap::new(),
            wire: Wire::default(),
            now: Duration::ZERO,
            transcript: Vec::new(),
            configure,
            initial,
        };
        for id in 1..=n {
            let (cluster_id, members) = (world.cluster_id(), initial_members(&world.initial));
            world.add(id, Start::Initial { cluster_id, members });
        }
        world.settle();
        world
    }

    /// A cluster of n in which member 1 leads.
    pub fn led(n: u64) -> Self {
        Self::led_with(n, |_| ())
    }

    /// The same, with a configuration of its own.
    pub fn led_with(n: u64, configure: fn(&mut Config)) -> Self {
        let mut world = Self::with(n, configure);
        world.elect(1);
        world
    }

    pub fn cluster_id(&self) -> u64 {
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
    pub fn start_joiner(&mut self, id: u64) {
        let cluster_id = self.cluster_id();
        self.add(id, Start::Join { cluster_id });
        self.settle();
    }

    #[track_caller]
    pub fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("a member of that id")
    }

    #[track_caller]
    pub fn run(&self, id: u64) -> &Running {
        self.members[&id].run()
    }

    #[track_caller]
    pub fn handle(&self, id: u64) -> &Handle {
        &self.members[&id].handle
    }

    pub fn journal(&self, id: u64) -> &Journal {
        &self.members[&id].journal
    }

    #[track_caller]
    pub fn status(&self, id: u64) -> Status {
        self.run(id).core.status()
    }

    pub fn is_leader(&self, id: u64) -> bool {
        self.members[&id].running.as_ref().is_some_and(|r| r.core.status().role == Role::Leader)
    }

    /// The leader of the highest term among those that run.
    pub fn leader(&self) -> Option<u64> {
        let running = self.members.values().filter_map(|m| m.running.as_ref()).map(|r| r.core.status());
        running.filter(|s| s.role == Role::Leader).max_by_key(|s| s.term).map(|s| s.id)
    }

    /// Stops a member as a power failure does.
    pub fn crash(&mut self, id: u64) {
        self.member(id).crash();
    }

    pub fn restart(&mut self, id: u64) {
        self.member(id).restart().expect("the member starts again");
        self.settle();
    }

    pub fn hold(&mut self, id: u64, held: Held) {
        self.member(id).held = held;
    }

    // --- requests

    pub fn propose(&mut self, at: u64, command: &str) -> Asked<Applied> {
        self.propose_within(at, command, LONG)
    }

    pub fn propose_within(&mut self, at: u64, command: &str, timeout: Duration) -> Asked<Applied> {
        let asked = Asked::new(self.handle(at).propose(Bytes::copy_from_slice(command.as_bytes()), timeout));
        self.settle();
        asked
    }

    pub fn read(&mut self, at: u64) -> Asked<u64> {
        self.read_within(at, LONG)
    }

    pub fn read_within(&mut self, at: u64, timeout: Duration) -> Asked<u64> {
        let asked = Asked::new(self.handle(at).read_index(timeout));
        self.settle();
        asked
    }

    pub fn change(&mut self, at: u64, change: MembershipChange) -> Asked<ChangeOutcome> {
        let asked = Asked::new(self.handle(at).change_membership(change, LONG));
        self.settle();
        asked
    }

    /// Proposes and gets a good answer without a tick.
    #[track_caller]
    pub fn put(&mut self, at: u64, command: &str) -> Applied {
        self.propose(at, command).granted()
    }

    /// Ticks until the answer is there.
    #[track_caller]
    pub fn answer<T: Clone + Debug>(&mut self, asked: &mut Asked<T>) -> Result<T, Error> {
        self.tick_until("the answer", |_| asked.answer().is_some());
        asked.answer().expect("it is there")
    }

    // --- time

    /// A tick for one member only.
    pub fn tick_one(&mut self, id: u64) {
        self.now += TICK;
        self.turn(id, Some(self.now));
        self.settle();
    }

    /// A tick for everybody.
    pub fn tick(&mut self) {
        self.now += TICK;
        for id in self.ids() {
            self.turn(id, Some(self.now));
        }
        self.settle();
    }

    pub fn ticks(&mut self, n: usize) {
        (0..n).for_each(|_| self.tick());
    }

    /// Ticks until it is so; 200 ticks are enough for anything.
    #[track_caller]
    pub fn tick_until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
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
    pub fn elect(&mut self, id: u64) {
        for _ in 0..40 {
            if self.is_leader(id) {
                return;
            }
            self.tick_one(id);
        }
        panic!("member {id} does not become leader\n{}", self.transcript_end());
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

    fn note(&mut self, id: u64) {
        if let Some(running) = self.members.get_mut(&id).and_then(|member| member.running.as_mut()) {
            let lines = running.effects.lines.drain(..);
            self.transcript.extend(lines.map(|line| format!("{id}: {line}")));
        }
    }

    /// Lets everything happen that can without a tick.
    #[track_caller]
    pub fn settle(&mut self) {
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
        while let Some((from, message, fate)) = self.wire.next() {
            self.arrive(from, message, fate);
            moved = true;
        }
        moved
    }

    /// What the transport does with a message at its end.
    fn arrive(&mut self, from: u64, message: Message, fate: Fate) {
        let to = message.to;
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        let is_up = self.members.get(&to).is_some_and(|member| member.running.is_some());
        let reaches = is_up && !self.wire.is_cut(from, to);
        if reaches && self.members[&to].told.as_ref().is_some_and(|list| list.removed.contains(&from)) {
            // "410 Gone".
            self.handle(from).removed();
            return;
        }
        if fate == Fate::Drop || !reaches {
            self.transcript.push(format!("   lost {from} -> {to}: {}", super::describe::message(&message)));
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

    // --- what was seen

    pub fn transcript_end(&self) -> String {
        self.transcript[self.transcript.len().saturating_sub(60)..].join("\n")
    }

    /// Every member that runs has applied the same commands.
    #[track_caller]
    pub fn assert_agreement(&self) {
        let mut running = self.members.values().filter(|member| member.running.is_some());
        let Some(first) = running.next() else { return };
        for other in running {
            assert_eq!(first.journal.commands(), other.journal.commands(), "members {} {}", first.id, other.id);
        }
    }
}
