//! A member: its disk, and the process that runs on it. The process is the real core; this is its outside.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvd_kvstore::{Service, Shared};
use kvd_node::driver::{Attended, Core, Done, Frozen, Outside, Parts, Restored, Write, load};
use kvd_node::{Config, Error, Exit, Fatal, Handle, Home, Membership, Start, StateMachine};
use kvd_raftpb::peers::PeerHandler as _;
use kvd_snap::Snapshotter;
use kvd_vfs::{Lock, MemDisk};
use kvd_wal::Wal;
use raft::eraftpb::{Message, SnapshotMetadata};
use raft::{GetEntriesContext, StateRole, Storage as _};

use crate::invariants::Look;
use crate::invariants::durability::Durable;
use crate::machine::{self, Machine};
use crate::mutation::Mutation;
use crate::plan::{MS, SECOND};
use crate::shadow::Shadow;
use crate::trace::{Level, Micros};
use crate::world::{Event, World, brief};

/// Time between two ticks.
const TICK: Micros = 100 * MS;

type State = Restored<<Machine as StateMachine>::Restored>;
type View = Frozen<<Machine as StateMachine>::View>;

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
    pub(crate) snapshotter: Snapshotter,
    pub(crate) log: VecDeque<Job>,
    pub(crate) helpers: BTreeMap<u64, Helper>,
    /// The log as it was handed over for writing.
    shadow: Shadow,
    next_helper: u64,
    /// When the last operation of each kind ends: there is one at a time.
    helper_ends: [Micros; 3],
    log_busy: bool,
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
    fn discard_older(&mut self, newest: (u64, u64)) {
        self.0.push(Effect::Help(Helper::Discard(newest)));
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
            wal,
            snapshotter,
            log: VecDeque::new(),
            helpers: BTreeMap::new(),
            next_helper: 0,
            helper_ends: [0; 3],
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
            }
        }
        self.check_turn(m);
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
                    self.members[m].durable.written(write);
                }
            }
        }
        let state = run.core.take_unsaved();
        let Running { mut wal, lock, .. } = run;
        result = result.and_then(|()| wal.save(&[], state.as_ref(), false)).and_then(|()| wal.close());
        drop(lock);
        self.members[m].life += 1;
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

    // --- the log and the files -------------------------------------------------------------------------------------

    fn queue_write(&mut self, m: usize, mut write: Write) {
        let id = self.members[m].id;
        self.trace.add(
            Level::Detail,
            self.now,
            id,
            format_args!(
                "writes {}: {} entries{}{}{}",
                write.seq,
                write.entries.len(),
                write
                    .entries
                    .first()
                    .map(|e| format!(" from {} (term {})", e.index, e.term))
                    .unwrap_or_default(),
                write
                    .hard_state
                    .as_ref()
                    .map(|s| format!(", term {} vote {} commit {}", s.term, s.vote, s.commit))
                    .unwrap_or_default(),
                write.snapshot.as_ref().map(|s| format!(", snapshot {}", s.index)).unwrap_or_default(),
            ),
        );
        let Some(run) = &mut self.members[m].running else { return };
        let mut verdict = Ok(());
        // A sole voter leads before its own vote is durable. If it loses power then, nobody has seen that term.
        let sole = self.plan.members == 1;
        run.shadow.write(&write, |before, entry| {
            if verdict.is_ok() && !sole {
                verdict = self.invariants.log_matching.entry(id, before, entry);
            }
        });
        match self.mutation {
            Some(Mutation::AckBeforeSync) => run.inbox.done(Done::Written(write.seq)),
            Some(Mutation::VoteForgotten) => {
                if let Some(state) = &mut write.hard_state {
                    state.vote = 0;
                }
            }
            _ => {}
        }
        run.log.push_back(Job::Write(write));
        self.wake(m);
        self.start_log(m);
        self.expect(verdict);
    }

    fn disk_delay(&mut self, m: usize) -> Micros {
        if self.members[m].slow_until > self.now {
            self.count("slow disk operations");
            return self.rng.within(10 * MS..800 * MS);
        }
        match self.rng.within(0..100) {
            0 => self.rng.within(5 * MS..50 * MS),
            _ => self.rng.within(50..3 * MS),
        }
    }

    fn start_log(&mut self, m: usize) {
        let life = self.members[m].life;
        match &mut self.members[m].running {
            Some(run) if !run.log_busy && !run.log.is_empty() => run.log_busy = true,
            _ => return,
        }
        let at = self.now + self.disk_delay(m);
        self.at(at, Event::Log { member: m, life });
    }

    /// The log has done its next job: a release, or some of the writes that wait, as one group.
    pub(crate) fn log_done(&mut self, m: usize) {
        let done = self.do_log_job(m);
        if let Some(run) = &mut self.members[m].running {
            run.log_busy = false;
            let failed = done.is_err();
            match (done, self.mutation) {
                (Ok(Some(_)), Some(Mutation::AckBeforeSync)) => {}
                (Ok(Some(seq)), _) => run.inbox.done(Done::Written(seq)),
                (Ok(None), _) => {}
                (Err(error), _) => run.inbox.done(Done::Failed(error.into())),
            }
            self.wake(m);
            if !failed {
                self.start_log(m);
            }
        }
        self.notice_power_loss(m);
    }

    /// Does it, and says which write is durable then.
    pub(crate) fn do_log_job(&mut self, m: usize) -> Result<Option<u64>, kvd_wal::Error> {
        let member = &mut self.members[m];
        let Some(run) = &mut member.running else { return Ok(None) };
        if let Some(Job::Release(index)) = run.log.front() {
            let index = *index;
            run.log.pop_front();
            run.wal.release_to(index)?;
            return Ok(None);
        }
        let waiting = run.log.iter().take_while(|job| matches!(job, Job::Write(_))).count();
        if waiting == 0 {
            return Ok(None);
        }
        let some = 1 + self.rng.index(waiting);
        let group: Vec<&Write> = run
            .log
            .iter()
            .take(some)
            .filter_map(|job| if let Job::Write(write) = job { Some(write) } else { None })
            .collect();
        match save(&mut run.wal, &group, self.mutation) {
            Err(_) if self.mutation == Some(Mutation::FailedSyncIgnored) && !member.disk.is_off() => {}
            other => other?,
        }
        let mut last = 0;
        for job in run.log.drain(..some) {
            if let Job::Write(write) = job {
                last = write.seq;
                member.durable.written(&write);
            }
        }
        Ok(Some(last))
    }

    fn begin_help(&mut self, m: usize, helper: Helper) {
        let (id, life) = (self.members[m].id, self.members[m].life);
        let kind = match &helper {
            Helper::Save(metadata, _) => {
                self.tell(id, format_args!("takes a snapshot at {}", metadata.index));
                0
            }
            Helper::Load(message) => {
                self.tell(id, format_args!("reads the snapshot of {}", brief(message)));
                1
            }
            Helper::Discard(_) => 2,
        };
        let delay = 3 * self.disk_delay(m);
        let Some(run) = &mut self.members[m].running else { return };
        run.next_helper += 1;
        let number = run.next_helper;
        run.helpers.insert(number, helper);
        let at = (self.now + delay).max(run.helper_ends[kind] + 1);
        run.helper_ends[kind] = at;
        self.at(at, Event::Helper { member: m, life, helper: number });
    }

    pub(crate) fn helper_done(&mut self, m: usize, number: u64) {
        let done = self.do_help(m, number);
        if let Some(run) = &self.members[m].running
            && let Some(done) = done
        {
            run.inbox.done(done);
        }
        self.wake(m);
        self.start_log(m);
        self.notice_power_loss(m);
    }

    /// Does a file operation.
    pub(crate) fn do_help(&mut self, m: usize, number: u64) -> Option<Done<State>> {
        let mutation = self.mutation;
        let run = self.members[m].running.as_mut()?;
        Some(match run.helpers.remove(&number)? {
            Helper::Save(metadata, state) => {
                let mut state = Some(state);
                let saved = run.snapshotter.save(&metadata, &mut |out| match state.take() {
                    Some(state) => state.write(out),
                    None => Err(std::io::Error::other("a frozen state is written once")),
                });
                match saved {
                    Ok(bytes) => {
                        self.count("snapshots taken");
                        Done::SnapshotSaved { metadata: Box::new(metadata), bytes }
                    }
                    Err(error) => Done::Failed(error.into()),
                }
            }
            Helper::Load(message) => {
                let metadata = message.get_snapshot().get_metadata();
                match load::<Machine>(&run.snapshotter, metadata) {
                    Ok(restored) => {
                        self.count("snapshots read back");
                        Done::SnapshotLoaded { message: Box::new(message), restored }
                    }
                    Err(error) => {
                        let id = self.members[m].id;
                        self.tell(id, format_args!("cannot read the snapshot: {error}"));
                        self.count("snapshots that could not be read back");
                        Done::SnapshotRejected
                    }
                }
            }
            Helper::Discard(newest) => {
                match run.snapshotter.retain_up_to(kvd_node::driver::SNAPSHOTS_KEPT, newest) {
                    Ok(left) => {
                        if let Some((_, oldest)) = left.first() {
                            let too_far = if mutation == Some(Mutation::ReleasedTooFar) { 100 } else { 1 };
                            run.log.push_back(Job::Release(oldest + too_far));
                        }
                        return None;
                    }
                    Err(error) => Done::Failed(error.into()),
                }
            }
        })
    }
}

/// Saves a group as the node's own thread does.
fn save(wal: &mut Wal, group: &[&Write], mutation: Option<Mutation>) -> Result<(), kvd_wal::Error> {
    let shorten = |write: &Write| match mutation {
        Some(Mutation::EntryNotWritten) if write.entries.len() > 1 => write.entries.len() - 1,
        _ => write.entries.len(),
    };
    let saves: Vec<kvd_wal::Save<'_>> = group
        .iter()
        .map(|write| kvd_wal::Save {
            snapshot: write
                .snapshot
                .as_ref()
                .filter(|_| mutation != Some(Mutation::InstallNotRecorded))
                .map(|s| kvd_wal::SnapshotRecord { index: s.index, term: s.term }),
            entries: &write.entries[..shorten(write)],
            hard_state: write.hard_state.as_ref(),
            must_sync: true,
        })
        .collect();
    wal.save_group(&saves)
}
