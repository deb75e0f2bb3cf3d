//! A member's process: its start, its turns and ticks, its end. It is the real core; what its threads do is in `disk.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvd_kvstore::{Service, Shared};
use kvd_node::driver::{Ask, Fetch, Outside, Parts, Write};
use kvd_node::{Config, Error, Exit, Fatal, Home, Membership, Start};
use kvd_raftpb::peers::PeerHandler as _;
use kvd_vfs::Vfs as _;
use raft::eraftpb::{Message, SnapshotMetadata};
use raft::{GetEntriesContext, StateRole, Storage as _};

use crate::clock::{Clock, TICK};
use crate::disk::save;
use crate::fault::Fault;
use crate::invariants::durability::Durable;
use crate::invariants::{Look, State};
use crate::machine::{self, Machine};
use crate::member::{Helper, Job, Member, Running, Stage, View};
use crate::plan::{MS, SECOND};
use crate::shadow::Shadow;
use crate::world::{Event, World};

/// Where a member keeps its files.
pub(crate) const DIR: &str = "/kvd";

/// What the core asks for in a turn, in order.
#[derive(Default)]
struct Effects(Vec<Effect>);

enum Effect {
    Send(Vec<Message>),
    Write(Write),
    Help(Helper),
    Ask(Ask),
    Members(Arc<Membership>),
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
    fn members_changed(&mut self, membership: &Arc<Membership>) {
        self.0.push(Effect::Members(membership.clone()));
    }
}

impl World {
    /// Starts a member's process on whatever its disk holds.
    pub(crate) fn start(&mut self, m: usize) {
        let store = Shared::new();
        let member = &mut self.members[m];
        let id = member.id;
        let config = Config {
            snapshot_bytes: self.plan.snapshot_bytes,
            catch_up_bytes: self.plan.catch_up_bytes,
            log_cache_bytes: self.plan.log_cache_bytes,
            segment_bytes: self.plan.segment_bytes,
            lease_reads: self.plan.lease_reads != 0,
            prepare_segments_ahead: false,
            election_seed: Some(member.election_seed),
            ..Config::new(id)
        };
        if let Some(n) = member.power_off_at_start.take() {
            member.disk.power_off_at(n);
        }
        let (cluster_id, members) = self.cluster.clone();
        let start = match member.first {
            true => Start::Initial { cluster_id, members },
            false => Start::Join { cluster_id },
        };
        let machine = Machine::new(store.clone(), id, self.notes.clone());
        let node = Home::open(member.disk.disk(), Path::new(DIR))
            .and_then(|home| home.start(config, &start, machine));
        self.note_failures(m);
        let node = match node {
            Ok(node) => node,
            Err(error) => return self.not_started(m, &error),
        };
        let member = &mut self.members[m];
        member.disk.clear_faults();
        let handle = node.handle();
        let Parts { core, inbox, shown, wal, snapshotter, lock } = node.into_parts();
        member.life += 1;
        member.may_stop = false;
        member.refused = false;
        member.clock = Clock::new(self.now);
        member.running = Some(Running {
            shadow: Shadow::of(core.raft().store()),
            role: StateRole::Follower,
            core,
            inbox,
            handle,
            shown,
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
            looked_at: None,
            lock,
        });
        let life = member.life;
        let first_tick = self.now + self.rng.within(0..TICK);
        self.at(first_tick, Event::Tick { member: m, life });
        self.check_start(m);
    }

    fn not_started(&mut self, m: usize, error: &Fatal) {
        let member = &mut self.members[m];
        let id = member.id;
        if member.disk.is_off() {
            member.disk.crash(self.rng.number());
            self.tell(id, format_args!("loses power while it starts ({error})"));
            self.happened(Fault::PowerLossAtStart);
            self.restart_later(m);
        } else if self.refuses_for_rot(m, error) {
            // It stays down.
        } else if self.members[m].has_an_excuse() {
            self.members[m].disk.clear_faults();
            self.tell(id, format_args!("cannot start: {error}"));
            self.count("starts that failed because of the disk");
            self.restart_later(m);
        } else {
            self.fail(format!("recovery: member {id} cannot start: {error}"));
        }
    }

    fn check_start(&mut self, m: usize) {
        let member = &mut self.members[m];
        let Some(run) = &mut member.running else { return };
        let (id, raft) = (member.id, run.core.raft());
        let look = Look { member: id, raft };
        let store = raft.store();
        let (first, last) = (store.first_index(), store.last_index());
        let applied = run.core.status().applied;
        let what = format!(
            "starts: term {}, snapshot {applied}, log {first}..={last}, commit {}",
            raft.raft.term, raft.raft.raft_log.committed
        );
        // All that is read was read; what is left of the damage nobody will see.
        let rotten = member.rotten.take().is_some();
        let mut verdict = member.durable.started(look, member.disturbed.take(), rotten);
        verdict = verdict.and_then(|()| self.invariants.committed.started(look));
        let entries = store.entries(first, last + 1, None, GetEntriesContext::empty(false));
        let mut before = store.term(first - 1).unwrap_or(0);
        for entry in entries.into_iter().flatten() {
            verdict = verdict.and_then(|()| self.invariants.entry(id, before, &entry));
            before = entry.term;
        }
        let files = member.disk.list(&Path::new(DIR).join("snap")).unwrap_or_default();
        if !member.rotted
            && let Some(name) = files.iter().find(|name| name.ends_with(".broken"))
        {
            let violation = format!("durability: member {id} found its own snapshot damaged: {name}");
            verdict = verdict.and(Err(violation));
        }
        let store = run.store.read();
        let state =
            State { applied, conf: run.core.conf_state(), node: run.core.node_state(), store: &store };
        verdict = verdict.and_then(|()| self.invariants.applied(id, &state, &self.notes));
        drop(state);
        drop(store);
        run.looked_at = Some(applied);
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
        let now = self.now;
        let member = &mut self.members[m];
        let (life, was_wrong) = (member.life, member.clock.is_wrong());
        member.clock.mend(now);
        let next = member.clock.next_tick();
        let again = next.map_or(member.clock.wrong_until, |next| now + next);
        // While a clock stands still it does not tick.
        if next.is_some() {
            if let Some(run) = &mut member.running {
                run.tick_due = true;
            }
            if was_wrong {
                self.clock_felt(m);
            }
            self.wake(m);
        }
        // Clocks are never quite alike.
        let at = again.max(now + 1) + self.rng.within(0..3 * MS);
        self.at(at, Event::Tick { member: m, life });
    }

    pub(crate) fn turn(&mut self, m: usize) {
        let since = Duration::from_micros(self.members[m].clock.read(self.now));
        let Some(run) = &mut self.members[m].running else { return };
        run.turn_due = false;
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
                Effect::Ask(ask) => self.call(m, ask),
                Effect::Members(list) => {
                    if let Some(run) = &self.members[m].running {
                        run.shown.members_changed(&list);
                    }
                }
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
            Ok(Some(Exit::Removed)) => self.was_removed(m),
            Err(fatal) => self.stopped(m, &fatal),
        }
    }

    fn check_turn(&mut self, m: usize) {
        let disks: Vec<(u64, &Durable)> =
            self.members.iter().map(|member| (member.id, &member.durable)).collect();
        let member = &self.members[m];
        let Some(run) = &member.running else { return };
        let (id, raft) = (member.id, run.core.raft());
        let mut verdict = self.invariants.after_turn(Look { member: id, raft }, &disks);
        let applied = run.core.status().applied;
        if run.looked_at != Some(applied) {
            let state = State {
                applied,
                conf: run.core.conf_state(),
                node: run.core.node_state(),
                store: &run.store.read(),
            };
            verdict = verdict.and_then(|()| self.invariants.applied(id, &state, &self.notes));
        }
        if let Some(conflict) = machine::lock(&self.notes).conflict.take() {
            verdict = verdict.and(Err(format!("state machine safety: {conflict}")));
        }
        let Some(run) = &mut self.members[m].running else { return };
        run.looked_at = Some(applied);
        run.shown.show(&mut run.core);
        let raft = &run.core.raft().raft;
        let became = (raft.state == StateRole::Leader && run.role != raft.state).then_some(raft.term);
        run.role = raft.state;
        if let Some(term) = became {
            self.tell(id, format_args!("leads in term {term}"));
        }
        self.expect(verdict);
    }

    /// The member ended by itself.
    fn stopped(&mut self, m: usize, fatal: &Fatal) {
        let id = self.members[m].id;
        self.note_failures(m);
        self.tell(id, format_args!("stops: {fatal}"));
        if self.refuses_for_rot(m, fatal) {
            self.end_process(m);
            return;
        }
        if !self.members[m].has_an_excuse() {
            self.fail(format!("no cause: member {id} stopped: {fatal}"));
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
        let member = &mut self.members[m];
        member.life += 1;
        member.paused_until = 0;
        member.end_armed = None;
        let Some(run) = member.running.take() else { return };
        let unfinished = run.log.iter().filter_map(|job| match job {
            Job::Write(write, _) => write.entries.first().map(|entry| entry.index),
            Job::Release(_) => None,
        });
        member.disturbed = unfinished.min();
        drop(run);
        self.invariants.leader_append_only.ended(self.members[m].id);
        self.hang_up(m);
        self.poll_calls(m);
    }

    /// A member that was told to stop has done so.
    fn shut_down(&mut self, m: usize) {
        let id = self.members[m].id;
        let Some(mut run) = self.members[m].running.take() else { return };
        run.core.fail_all(&Error::Stopped, "the member stopped");
        self.poll_clients(m);
        let mut result = Ok(());
        for job in run.log.drain(..) {
            if let (Job::Write(write, late), Ok(())) = (&job, &result) {
                result = save(&mut run.wal, &[write]);
                if result.is_ok() {
                    self.is_durable(m, write, *late);
                }
            }
        }
        let state = run.core.take_unsaved();
        let Running { mut wal, lock, .. } = run;
        result = result.and_then(|()| wal.save(&[], state.as_ref(), false)).and_then(|()| wal.close());
        drop(lock);
        self.note_failures(m);
        let member = &mut self.members[m];
        member.life += 1;
        member.paused_until = 0;
        self.invariants.leader_append_only.ended(id);
        self.hang_up(m);
        self.poll_calls(m);
        self.tell(id, format_args!("has shut down"));
        if self.members[m].disk.is_off() {
            self.power_has_gone(m);
        } else if let Err(error) = result {
            if !self.members[m].has_an_excuse() {
                self.fail(format!("no cause: member {id} cannot close its log: {error}"));
            }
        } else {
            self.happened(Fault::Shutdown);
        }
        self.restart_later(m);
    }

    /// A member ended because it was removed.
    fn was_removed(&mut self, m: usize) {
        let id = self.members[m].id;
        if !self.invariants.configuration.is_removed(id) {
            self.fail(format!("configuration: member {id} believes that it was removed"));
            return;
        }
        self.tell(id, format_args!("ends: it was removed"));
        self.count("members that learnt of their removal");
        self.end_process(m);
        self.members[m].stage = Stage::Out;
    }

    /// Starts a member that is down in a while.
    pub(crate) fn restart_later(&mut self, m: usize) {
        if self.members[m].stage == Stage::Out && self.healed {
            return;
        }
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

    /// Another member told this one that it was removed.
    pub(crate) fn report_removed(&mut self, m: usize) {
        if let Some(run) = &self.members[m].running {
            run.handle.removed();
        }
        self.wake(m);
    }

    /// The service of a member's process, for clients.
    pub(crate) fn service(&self, m: usize) -> Option<Service> {
        let run = self.members[m].running.as_ref()?;
        Some(Service::new(run.handle.clone(), run.store.clone()))
    }
}

impl Member {
    /// Whether the cluster counts on it.
    pub(crate) fn counts(&self) -> bool {
        self.stage == Stage::In
    }
}
