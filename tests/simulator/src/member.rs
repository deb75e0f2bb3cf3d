//! A member: its disk, and the process that runs on it. The process is the real core; this is its outside.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvd_kvstore::{Service, Shared};
use kvd_node::driver::{
    Ask, Attended, Core, Done, Fetch, Frozen, LogReader, Outside, Parts, Restored, Write,
};
use kvd_node::{Config, Error, Exit, Fatal, Handle, Home, Membership, Start, StateMachine};
use kvd_raftpb::peers::{CallError, PeerHandler as _};
use kvd_snap::Snapshotter;
use kvd_vfs::{Lock, MemDisk};
use kvd_wal::Wal;
use raft::eraftpb::{Message, SnapshotMetadata};
use raft::{GetEntriesContext, StateRole, Storage as _};

use crate::disk::save;
use crate::invariants::Look;
use crate::invariants::durability::Durable;
use crate::machine::{self, Machine};
use crate::mutation::Mutation;
use crate::plan::{MS, SECOND};
use crate::shadow::Shadow;
use crate::trace::Micros;
use crate::world::{Event, World};

/// Time between two ticks.
const TICK: Micros = 100 * MS;

pub(crate) type State = Restored<<Machine as StateMachine>::Restored>;
pub(crate) type View = Frozen<<Machine as StateMachine>::View>;

/// A member, running or not.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) disk: MemDisk,
    /// Ascends with each start and each end of its process.
    pub(crate) life: u64,
    pub(crate) running: Option<Running>,
    pub(crate) paused_until: Micros,
    pub(crate) slow_until: Micros,
    /// At its next start the power fails at this operation of its disk.
    pub(crate) power_off_at_start: Option<u64>,
    /// Its disk was told to fail, so it may stop by itself.
    pub(crate) may_stop: bool,
    pub(crate) durable: Durable,
    /// The first index that an unfinished write of the last process may have overwritten.
    disturbed: Option<u64>,
    election_seed: u64,
}

/// A file operation that is under way.
pub(crate) enum Helper {
    Save(SnapshotMetadata, View),
    Load(Message),
    Discard((u64, u64)),
    Fetch(Fetch),
}

pub(crate) enum Job {
    Write(Write),
    Release(u64),
}

/// A member's process.
pub(crate) struct Running {
    pub(crate) core: Core<Machine>,
    pub(crate) inbox: Attended<State>,
    pub(crate) handle: Handle,
    pub(crate) store: Shared,
    pub(crate) wal: Wal,
    pub(crate) reader: LogReader,
    pub(crate) snapshotter: Snapshotter,
    pub(crate) log: VecDeque<Job>,
    pub(crate) helpers: BTreeMap<u64, Helper>,
    /// The log as it was handed over for writing.
    pub(crate) shadow: Shadow,
    pub(crate) next_helper: u64,
    /// When the last operation of each kind ends: there is one at a time.
    pub(crate) helper_ends: [Micros; 4],
    pub(crate) log_busy: bool,
    turn_due: bool,
    tick_due: bool,
    started: Micros,
    role: StateRole,
    /// Last, so that it is dropped last.
    lock: Box<dyn Lock>,
}

/// What a member has, for comparison.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) leader: u64,
    term: u64,
    last: u64,
    commit: u64,
    applied: u64,
}

impl Position {
    pub(crate) fn is_settled(&self) -> bool {
        self.last == self.commit && self.commit == self.applied
    }
}

/// What the core asks for in a turn, in order.
#[derive(Default)]
struct Effects(Vec<Effect>);

enum Effect {
    Send(Vec<Message>),
    Write(Write),
    Help(Helper),
    Ask(Ask),
}

impl Outside<Machine> for Effects {
    fn send(&mut self, messages: Vec<Message>) {
        self.0.push(Effect::Send(messages));
    }
    fn write(&mut self, write: Write) {
        self.0.push(Effect::Write(write));
    }
    fn save_snapshot(&mut self, metadata: SnapshotMetadata, state: View) {
        self.0.push(Effect::Help(Helper::Save(metadata, state)));
    }
    fn load_snapshot(&mut self, message: Message) {
        self.0.push(Effect::Help(Helper::Load(message)));
    }
    fn fetch_entries(&mut self, fetch: Fetch) {
        self.0.push(Effect::Help(Helper::Fetch(fetch)));
    }
    fn discard_older(&mut self, newest: (u64, u64)) {
        self.0.push(Effect::Help(Helper::Discard(newest)));
    }
    fn ask(&mut self, ask: Ask) {
        self.0.push(Effect::Ask(ask));
    }
    fn members_changed(&mut self, _: &Arc<Membership>) {}
}

impl Member {
    pub(crate) fn new(id: u64, election_seed: u64) -> Self {
        Self {
            id,
            disk: MemDisk::new(),
            life: 0,
            running: None,
            paused_until: 0,
            slow_until: 0,
            power_off_at_start: None,
            may_stop: false,
            durable: Durable::default(),
            disturbed: None,
            election_seed,
        }
    }

    pub(crate) fn position(&self) -> Option<Position> {
        let run = self.running.as_ref()?;
        let raft = &run.core.raft().raft;
        Some(Position {
            leader: raft.leader_id,
            term: raft.term,
            last: raft.raft_log.last_index(),
            commit: raft.raft_log.committed,
            applied: run.core.status().applied,
        })
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{}: {:?}, {} jobs",
            self.id,
            self.position(),
            self.running.as_ref().map_or(0, |r| r.log.len())
        )
    }
}

impl World {
    /// Starts a member's process on whatever its disk holds.
    pub(crate) fn start(&mut self, m: usize) {
        let store = Shared::new();
        let differs = self.mutation == Some(Mutation::ApplyDiffers) && m == 0;
        let member = &mut self.members[m];
        let id = member.id;
        let config = Config {
            snapshot_bytes: self.plan.snapshot_bytes,
            catch_up_bytes: self.plan.catch_up_bytes,
            log_cache_bytes: self.plan.log_cache_bytes,
            segment_bytes: self.plan.segment_bytes,
            prepare_segments_ahead: false,
            election_seed: Some(member.election_seed),
            ..Config::new(id)
        };
        if let Some(n) = member.power_off_at_start.take() {
            member.disk.power_off_at(n);
        }
        let (cluster_id, members) = self.cluster.clone();
        let machine = Machine::new(store.clone(), id, self.notes.clone(), differs);
        let node = Home::open(member.disk.disk(), Path::new("/kvd"))
            .and_then(|home| home.start(config, &Start::Initial { cluster_id, members }, machine));
        let node = match node {
            Ok(node) => node,
            Err(error) if member.disk.is_off() => {
                member.disk.crash(self.rng.number());
                self.tell(id, format_args!("loses power while it starts ({error})"));
                self.count("power losses while starting");
                self.restart_later(m);
                return;
            }
            Err(error) if member.may_stop => {
                member.disk.clear_faults();
                self.tell(id, format_args!("cannot start: {error}"));
                self.restart_later(m);
                return;
            }
            Err(error) => {
                self.fail(format!("member {id} cannot start: {error}"));
                return;
            }
        };
        member.disk.clear_faults();
        let handle = node.handle();
        let Parts { core, inbox, wal, snapshotter, lock } = node.into_parts();
        member.life += 1;
        member.may_stop = false;
        let running = Running {
            shadow: Shadow::of(core.raft().store()),
            role: StateRole::Follower,
            core,
            inbox,
            handle,
            store,
            reader: wal.reader(),
            wal,
            snapshotter,
            log: VecDeque::new(),
            helpers: BTreeMap::new(),
            next_helper: 0,
            helper_ends: [0; 4],
            log_busy: false,
            turn_due: false,
            tick_due: false,
            started: self.now,
            lock,
        };
        let life = member.life;
        member.running = Some(running);
        let first_tick = self.now + self.rng.within(0..TICK);
        self.at(first_tick, Event::Tick { member: m, life });
        self.check_start(m);
    }

    fn check_start(&mut self, m: usize) {
        let member = &mut self.members[m];
        let Some(run) = &member.running else { return };
        let (id, raft) = (member.id, run.core.raft());
        let look = Look { member: id, raft };
        let store = raft.store();
        let (first, last) = (store.first_index(), store.last_index());
        let applied = run.core.status().applied;
        let what = format!(
            "starts: term {}, snapshot {applied}, log {first}..={last}, commit {}",
            raft.raft.term, raft.raft.raft_log.committed
        );
        let mut verdict = member.durable.started(look, member.disturbed.take());
        verdict = verdict.and_then(|()| self.invariants.committed.started(look));
        let entries = store.entries(first, last + 1, None, GetEntriesContext::empty(false));
        let mut before = store.term(first - 1).unwrap_or(0);
        for entry in entries.into_iter().flatten() {
            verdict = verdict.and_then(|()| self.invariants.log_matching.entry(id, before, &entry));
            before = entry.term;
        }
        verdict = verdict.and_then(|()| self.invariants.state_equality.look(id, applied, &run.store.read()));
        self.count("starts");
        self.tell(id, format_args!("{what}"));
        self.expect(verdict);
    }

    /// Makes a member's loop take a turn soon.
    pub(crate) fn wake(&mut self, m: usize) {
        let member = &mut self.members[m];
        let life = member.life;
        if let Some(run) = &mut member.running
            && !run.turn_due
        {
            run.turn_due = true;
            let at = self.now + self.rng.within(0..300);
            self.at(at, Event::Turn { member: m, life });
        }
    }

    pub(crate) fn tick(&mut self, m: usize) {
        let life = self.members[m].life;
        if let Some(run) = &mut self.members[m].running {
            run.tick_due = true;
        }
        self.wake(m);
        // Clocks are never quite alike.
        let at = self.now + TICK + self.rng.within(0..3 * MS);
        self.at(at, Event::Tick { member: m, life });
    }

    pub(crate) fn turn(&mut self, m: usize) {
        let Some(run) = &mut self.members[m].running else { return };
        run.turn_due = false;
        let since = Duration::from_micros(self.now - run.started);
        let tick = std::mem::take(&mut run.tick_due).then_some(since);
        let (load, reads) = run.core.load();
        let (arrivals, _) = run.inbox.take(load, reads);
        let mut effects = Effects::default();
        let ended = run.core.turn(arrivals, tick, &mut effects);
        for effect in effects.0 {
            match effect {
                Effect::Send(messages) => self.send(m, messages),
                Effect::Write(write) => self.queue_write(m, write),
                Effect::Help(helper) => self.begin_help(m, helper),
                Effect::Ask(ask) => self.refuse_call(m, &ask),
            }
        }
        self.check_turn(m);
        if self.members[m].running.as_ref().is_some_and(|run| run.core.has_more()) {
            self.wake(m);
        }
        let life = self.members[m].life;
        let at = self.now + self.rng.within(0..200);
        self.at(at, Event::Poll { member: m, life });
        match ended {
            Ok(None) => {}
            Ok(Some(Exit::Shutdown)) => self.shut_down(m),
            Ok(Some(Exit::Removed)) => self.fail(format!("member {} believes it was removed", m + 1)),
            Err(fatal) => self.stopped(m, &fatal),
        }
    }

    /// Calls between members are not simulated: each finds nobody.
    fn refuse_call(&mut self, m: usize, ask: &Ask) {
        if let Some(run) = &self.members[m].running {
            let answer = Err(CallError::not_done("the simulator carries no calls"));
            run.inbox.done(Done::Answered { number: ask.number, answer });
        }
        self.wake(m);
    }

    fn check_turn(&mut self, m: usize) {
        let member = &mut self.members[m];
        let Some(run) = &mut member.running else { return };
        let (id, raft) = (member.id, run.core.raft());
        let role = raft.raft.state;
        let became = (role == StateRole::Leader && run.role != role).then_some(raft.raft.term);
        run.role = role;
        let applied = run.core.status().applied;
        let mut verdict = self.invariants.after_turn(Look { member: id, raft });
        verdict = verdict.and_then(|()| self.invariants.state_equality.look(id, applied, &run.store.read()));
        if let Some(conflict) = machine::lock(&self.notes).conflict.take() {
            verdict = verdict.and(Err(format!("state machine safety: {conflict}")));
        }
        if let Some(term) = became {
            self.tell(id, format_args!("leads in term {term}"));
        }
        self.expect(verdict);
    }

    /// The member ended by itself.
    fn stopped(&mut self, m: usize, fatal: &Fatal) {
        let id = self.members[m].id;
        self.tell(id, format_args!("stops: {fatal}"));
        if !self.members[m].may_stop {
            self.fail(format!("member {id} stopped without a cause: {fatal}"));
            return;
        }
        self.count("members that stopped because their disk failed");
        self.end_process(m);
        if self.rng.permille(500) {
            self.members[m].disk.crash(self.rng.number());
        }
        self.restart_later(m);
    }

    /// The process is gone, with whatever it had in memory.
    pub(crate) fn end_process(&mut self, m: usize) {
        self.members[m].life += 1;
        self.members[m].paused_until = 0;
        let Some(run) = self.members[m].running.take() else { return };
        let unfinished = run.log.iter().filter_map(|job| match job {
            Job::Write(write) => write.entries.first().map(|entry| entry.index),
            Job::Release(_) => None,
        });
        self.members[m].disturbed = unfinished.min();
        drop(run);
        self.hang_up(m);
    }

    /// A member that was told to stop has done so.
    fn shut_down(&mut self, m: usize) {
        let id = self.members[m].id;
        let Some(mut run) = self.members[m].running.take() else { return };
        run.core.fail_all(&Error::Stopped, "the member stopped");
        self.poll_clients(m);
        let mut result = Ok(());
        for job in run.log.drain(..) {
            if let (Job::Write(write), Ok(())) = (&job, &result) {
                result = save(&mut run.wal, &[write], None);
                if result.is_ok() {
                    self.is_durable(m, write);
                }
            }
        }
        let state = run.core.take_unsaved();
        let Running { mut wal, lock, .. } = run;
        result = result.and_then(|()| wal.save(&[], state.as_ref(), false)).and_then(|()| wal.close());
        drop(lock);
        self.members[m].life += 1;
        self.members[m].paused_until = 0;
        self.hang_up(m);
        self.tell(id, format_args!("has shut down"));
        if self.members[m].disk.is_off() {
            self.count("power losses in the middle of a write");
            self.members[m].disk.crash(self.rng.number());
        } else if let Err(error) = result
            && !self.members[m].may_stop
        {
            self.fail(format!("member {id} cannot close its log: {error}"));
        }
        self.restart_later(m);
    }

    /// Starts a member that is down in a while.
    pub(crate) fn restart_later(&mut self, m: usize) {
        let (life, longest) = (self.members[m].life, if self.healed { SECOND } else { 5 * SECOND });
        let at = self.now + self.rng.within(20 * MS..longest);
        self.at(at, Event::Start { member: m, life });
    }

    pub(crate) fn report_unreachable(&mut self, m: usize, to: u64) {
        if let Some(run) = &self.members[m].running {
            run.handle.report_unreachable(to);
        }
        self.wake(m);
    }

    pub(crate) fn report_snapshot(&mut self, m: usize, to: u64, received: bool) {
        if let Some(run) = &self.members[m].running {
            run.handle.report_snapshot(to, received);
        }
        self.wake(m);
    }

    /// The service of a member's process, for clients.
    pub(crate) fn service(&self, m: usize) -> Option<Service> {
        let run = self.members[m].running.as_ref()?;
        Some(Service::new(run.handle.clone(), run.store.clone()))
    }
}
