//! The world: one clock, one queue of events, one generator. Nothing else decides what happens.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Arguments;

use bytes::Bytes;
use kvd_node::driver::Ask;
use kvd_node::initial_members;
use kvd_raftpb::peers::CallError;
use raft::eraftpb::Message;

use crate::calls::Call;
use crate::clients::Clients;
use crate::fault::Fault;
use crate::invariants::Invariants;
use crate::machine::SharedNotes;
use crate::member::{Member, Stage};
use crate::net::{Active, Net, Packet, Transfer, Trouble};
use crate::operator::Task;
use crate::plan::{MS, Plan, SECOND};
use crate::rng::Rng;
use crate::trace::{Level, Micros, Trace};
use crate::{Outcome, Settings};

/// How long the cluster may take, once everything is healed, to agree and to serve everybody.
const CONVERGENCE: Micros = 60 * SECOND;

/// The most events of a simulation: whatever takes more goes in circles.
const MOST_EVENTS: u64 = 8_000_000;

/// Something that happens at a moment. `life` tells one process of a member from the next: an event of a process that
/// is gone does not happen. What is large is boxed, for the queue moves its events about.
pub(crate) enum Event {
    /// A member's loop takes a turn.
    Turn { member: usize, life: u64 },
    /// A member's clock ticks.
    Tick { member: usize, life: u64 },
    /// A member's log finishes what it is at.
    Log { member: usize, life: u64 },
    /// A file operation of a member is done.
    Helper { member: usize, life: u64, helper: u64 },
    /// The clients of a member look whether they have an answer.
    Poll { member: usize, life: u64 },
    /// A message arrives.
    Arrive(Packet),
    /// A snapshot has been transferred.
    Transfer(Box<Transfer>),
    /// A member's transport reports that a message was lost.
    Unreachable { member: usize, life: u64, to: u64 },
    /// A member's transport reports the fate of a snapshot.
    SnapshotReport { member: usize, life: u64, to: u64, received: bool },
    /// A member hears that it was removed.
    Removed { member: usize, life: u64 },
    /// There is room again on a member's disk.
    Room { member: usize },
    /// Somebody looks after a member that refused to start.
    Repair { member: usize },
    /// A member's call arrives at another.
    Called { from: (usize, u64), ask: Box<Ask> },
    /// A call has ended, for the member that made it.
    CallEnds { from: (usize, u64), number: u64, answer: Box<Result<Bytes, CallError>> },
    /// The operator goes on.
    Operate { task: u64 },
    /// A member starts.
    Start { member: usize, life: u64 },
    /// A client begins its next operation.
    Invoke { client: usize },
    /// A client gives up on an operation.
    GiveUp { op: usize },
    /// An operation must have an answer by now.
    Overdue { op: usize },
    /// Something goes wrong.
    Nemesis,
    /// A trouble of the network ends.
    Mend { trouble: u64 },
    /// Everything is healed.
    Heal,
    /// Is the cluster whole again?
    Check,
}

struct Scheduled {
    at: Micros,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The earliest is the greatest, for the heap; what is due at the same time happens in the order of scheduling.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// A cluster with all that surrounds it.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) now: Micros,
    pub(crate) trace: Trace,
    pub(crate) members: Vec<Member>,
    pub(crate) net: Net,
    pub(crate) clients: Clients,
    pub(crate) invariants: Invariants,
    pub(crate) notes: SharedNotes,
    /// How often what happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// How often each fault was tried, and how often it happened.
    pub(crate) tried: BTreeMap<Fault, u64>,
    pub(crate) faults: BTreeMap<Fault, u64>,
    /// What the operator is at.
    pub(crate) task: Option<Task>,
    pub(crate) tasks: u64,
    /// The calls that are being answered.
    pub(crate) calls: Vec<Call>,
    pub(crate) cluster: (u64, Vec<kvd_node::Member>),
    pub(crate) healed: bool,
    healed_at: Micros,
    queue: BinaryHeap<Scheduled>,
    sequence: u64,
    failure: Option<String>,
    finished: bool,
}

impl World {
    /// The world of a seed, before anything happens.
    pub fn new(seed: u64, settings: &Settings) -> Self {
        let plan = settings.plan.clone().unwrap_or_else(|| Plan::draw(&mut Rng::new(seed)));
        // Apart from the plan's, so that another plan does not change all else.
        let mut rng = Rng::new(!seed);
        let urls: Vec<String> = (1..=plan.members).map(|id| format!("http://member{id}:1")).collect();
        let cluster = (kvd_node::cluster_id(&urls), initial_members(&urls));
        let mut trace = Trace::new(settings.print);
        trace.add(Level::Story, 0, 0, format_args!("seed {seed}: {plan}"));
        let members = (1..=plan.members).map(|id| Member::new(id, true, rng.number())).collect();
        let mut world = Self {
            clients: Clients::new(plan.clients as usize),
            plan,
            rng,
            now: 0,
            trace,
            members,
            net: Net::default(),
            invariants: Invariants::default(),
            notes: SharedNotes::default(),
            counts: BTreeMap::new(),
            tried: BTreeMap::new(),
            faults: BTreeMap::new(),
            task: None,
            tasks: 0,
            calls: Vec::new(),
            cluster,
            healed: false,
            healed_at: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            failure: None,
            finished: false,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for member in 0..self.members.len() {
            let at = self.rng.within(0..SECOND);
            if self.plan.faults.contains(&Fault::PowerLossAtStart) && self.rng.permille(500) {
                // In the middle of the very first initialisation.
                self.members[member].power_off_at_start = Some(self.rng.within(1..80));
            }
            self.at(at, Event::Start { member, life: 0 });
        }
        for client in 0..self.plan.clients {
            let at = self.rng.within(0..2 * SECOND);
            self.at(at, Event::Invoke { client: client as usize });
        }
        let first = 2 * SECOND + self.rng.within(0..self.plan.calm);
        self.at(first, Event::Nemesis);
        self.at(self.plan.duration, Event::Heal);
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Outcome {
        let mut events = 0;
        while !self.finished && self.failure.is_none() {
            events += 1;
            if events > MOST_EVENTS {
                self.fail(format!("liveness: {MOST_EVENTS} events, and no end"));
            }
            let Some(Scheduled { at, event, .. }) = self.queue.pop() else {
                self.fail("nothing happens any more".into());
                break;
            };
            self.now = at;
            self.happen(event);
        }
        if self.failure.is_none()
            && let Err(violation) = self.judge()
        {
            self.fail(violation);
        }
        self.counts.insert("entries committed", self.invariants.committed.len() as u64);
        self.counts.insert("terms with a leader", self.invariants.election_safety.leaders() as u64);
        self.counts.insert("virtual seconds", self.now / SECOND);
        self.counts.insert("commands that came again", self.invariants.exactly_once.repeats);
        let missed = self.missed();
        Outcome {
            hash: self.trace.hash(),
            lines: self.trace.lines(),
            failure: self.failure,
            counts: self.counts,
            faults: self.faults,
            missed,
            ended_at: self.now,
            plan: self.plan,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { member, life } => self.of_process(member, life, event, |w| w.turn(member)),
            Event::Tick { member, life } => self.of_process(member, life, event, |w| w.tick(member)),
            Event::Log { member, life } => self.of_process(member, life, event, |w| w.log_done(member)),
            Event::Helper { member, life, helper } => {
                self.of_process(member, life, event, |w| w.helper_done(member, helper));
            }
            Event::Poll { member, life } => {
                self.of_process(member, life, event, |w| {
                    w.poll_clients(member);
                    w.poll_operator(member);
                    w.poll_calls(member);
                });
            }
            Event::Unreachable { member, life, to } => {
                self.of_process(member, life, event, |w| w.report_unreachable(member, to));
            }
            Event::SnapshotReport { member, life, to, received } => {
                self.of_process(member, life, event, |w| w.report_snapshot(member, to, received));
            }
            Event::Removed { member, life } => {
                self.of_process(member, life, event, |w| w.report_removed(member));
            }
            Event::Room { member } => self.make_room(member),
            Event::Repair { member } => self.repair(member),
            Event::Called { from, ask } => self.called(from, *ask),
            Event::CallEnds { from, number, answer } => self.call_ends(from, number, *answer),
            Event::Operate { task } => self.operate(task),
            Event::Arrive(packet) => self.arrive(packet),
            Event::Transfer(transfer) => self.transfer(*transfer),
            Event::Start { member, life } => {
                let state = &self.members[member];
                if state.life == life && state.running.is_none() && !state.refused {
                    self.start(member);
                }
            }
            Event::Invoke { client } => self.invoke(client),
            Event::GiveUp { op } => self.give_up(op),
            Event::Overdue { op } => self.overdue(op),
            Event::Nemesis => self.nemesis(),
            Event::Mend { trouble } => self.mend(trouble),
            Event::Heal => self.heal(),
            Event::Check => self.check(),
        }
    }

    /// An event of a member's process: not after the process, and while it stands still only afterwards.
    fn of_process(&mut self, member: usize, life: u64, event: Event, what: impl FnOnce(&mut Self)) {
        let state = &self.members[member];
        if state.life != life || state.running.is_none() {
            return;
        }
        if state.paused_until > self.now {
            let at = state.paused_until;
            if !std::mem::replace(&mut self.members[member].pause_felt, true) {
                self.happened(Fault::Pause);
            }
            self.at(at, event);
        } else {
            what(self);
        }
    }

    /// Schedules an event.
    pub(crate) fn at(&mut self, at: Micros, event: Event) {
        self.sequence += 1;
        self.queue.push(Scheduled { at, sequence: self.sequence, event });
    }

    /// A property is broken. The first one counts.
    pub(crate) fn fail(&mut self, violation: String) {
        if self.failure.is_none() {
            self.trace.add(Level::Story, self.now, 0, format_args!("VIOLATION: {violation}"));
            self.failure = Some(violation);
        }
    }

    pub(crate) fn expect(&mut self, verdict: Result<(), String>) {
        if let Err(violation) = verdict {
            self.fail(violation);
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A fault has had an effect.
    pub(crate) fn happened(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn tell(&mut self, who: u64, what: Arguments<'_>) {
        self.trace.add(Level::Story, self.now, who, what);
    }

    fn mend(&mut self, trouble: u64) {
        if let Some(Active { trouble, .. }) = self.net.troubles.remove(&trouble) {
            self.tell(0, format_args!("over: {trouble:?}"));
        }
    }

    /// A trouble of the network, for a while.
    pub(crate) fn trouble(&mut self, fault: Fault, trouble: Trouble, lasts: Micros) {
        self.sequence += 1;
        let number = self.sequence;
        self.net.troubles.insert(number, Active { trouble, fault, felt: false });
        self.at(self.now + lasts, Event::Mend { trouble: number });
    }

    fn heal(&mut self) {
        // A fault takes somebody to happen to. Wait for those that found nobody, but not for long.
        if !self.missed().is_empty() && self.now < self.plan.duration + 10 * SECOND {
            self.at(self.now + SECOND, Event::Heal);
            return;
        }
        self.healed_at = self.now;
        self.tell(0, format_args!("everything is healed"));
        self.healed = true;
        self.net.troubles.clear();
        for m in 0..self.members.len() {
            let member = &mut self.members[m];
            member.slow_until = 0;
            member.power_off_at_start = None;
            member.interrupt_snapshot = None;
            member.end_armed = None;
            member.disk.clear_faults();
            if member.full {
                self.make_room(m);
            }
            self.bring_back(m);
            let member = &mut self.members[m];
            if member.stage == Stage::In && member.running.is_none() {
                let life = member.life;
                self.at(self.now + MS, Event::Start { member: m, life });
            }
        }
        self.at(self.now + SECOND, Event::Check);
    }

    fn check(&mut self) {
        if self.now > self.healed_at + CONVERGENCE {
            let state: Vec<String> = self.members.iter().map(Member::describe).collect();
            self.fail(format!(
                "liveness: no agreement {CONVERGENCE} us after everything was healed: {state:?}"
            ));
            return;
        }
        for m in 0..self.members.len() {
            if self.members[m].stage == Stage::Out {
                // What it still has to say does not matter, nor who waits there.
                self.end_process(m);
            }
        }
        if self.agreed() && self.clients.farewell_done() {
            self.tell(0, format_args!("the cluster agrees"));
            self.finished = true;
            return;
        }
        if self.agreed() {
            self.farewell();
        }
        self.at(self.now + 200 * MS, Event::Check);
    }

    /// Whether all members have the same log, applied to its end, and know the same leader; and the operator has what
    /// was asked for, and all learners were promoted.
    fn agreed(&self) -> bool {
        if self.task.is_some() || !self.invariants.configuration.newest().1.is_empty() {
            return false;
        }
        let states: Option<Vec<_>> =
            self.members.iter().filter(|member| member.counts()).map(Member::position).collect();
        states.is_some_and(|states| {
            states.iter().all(|state| *state == states[0] && state.leader != 0 && state.is_settled())
        })
    }
}

/// The number of messages is large, their content is not: what a message says in a trace.
pub(crate) fn brief(message: &Message) -> String {
    format!("{:?} from {} term {}", message.get_msg_type(), message.from, message.term)
}
