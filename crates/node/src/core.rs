//! The core: raft, the replicated state and everybody who waits for it. No clock, no disk, no network, no thread.
//!
//! What happens goes in through [`Core::turn`]; what is to be done comes out through [`Outside`], in order. The order
//! itself is in `ready.rs`.

use std::sync::Arc;
use std::time::Duration;

use kvd_mutation::{Bug, planted};
use kvd_raftpb::node::{Batch, Membership, NodeState};
use kvd_raftpb::{codec, validate};
use kvd_wal::{Fetch, LogStorage};
use prost::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType, SnapshotMetadata};
use raft::{RawNode, SnapshotStatus, StateRole, Storage};

use crate::changes::{Ask, Changes};
use crate::compaction::Compaction;
use crate::config::Config;
use crate::error::{Error, Fatal};
use crate::event::{Event, Sight, Watchdog};
use crate::handle::{Role, Status};
use crate::inbox::{Arrivals, Done, Report};
use crate::lease::Lease;
use crate::oversight::{Oversight, Progress};
use crate::proposal::{Load, Tracker};
use crate::read_index::Reads;
use crate::ready::{Pipeline, Write};
use crate::replicated::{Frozen, Replicated, Restored};
use crate::session::Applied;
use crate::shutdown::Phase;
use crate::snapshot_requests::SnapshotRequests;
use crate::state_machine::StateMachine;

/// A leader without room hands over at most once in this time: if nobody has room, leadership must not go round.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(30);

/// A snapshot for which there was no room is tried again after this time.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);

/// What the core wants done. The calls come in the order in which the effects must happen; none may block.
pub trait Outside<S: StateMachine> {
    /// Send messages to the members they name.
    fn send(&mut self, messages: Vec<Message>);
    /// Hand a group to the log's thread; answered by `Done::Written` with its `seq`, or by a failure that ends the
    /// member.
    fn write(&mut self, write: Write);
    /// Write a snapshot file; answered by `Done::SnapshotSaved`.
    fn save_snapshot(&mut self, metadata: SnapshotMetadata, state: Frozen<S::View>);
    /// Read back the snapshot that a `MsgSnapshot` names, which the transport has stored; answered by
    /// `Done::SnapshotLoaded` or `Done::SnapshotRejected`.
    fn load_snapshot(&mut self, message: Message);
    /// Read entries back from the log, beside its writer: [`crate::driver::read_back`], whose answer goes to the inbox. No
    /// more than two are under way at a time.
    fn fetch_entries(&mut self, fetch: Fetch);
    /// Remove snapshot files ([`crate::driver::discard`]), and then log segments, that nobody needs: `newest` is (term,
    /// index) of the newest snapshot on record.
    fn discard_older(&mut self, newest: (u64, u64));
    /// Ask the leader something; answered by `Done::Answered`. No more than [`crate::Limits::changes`] are under way at a
    /// time, but for those that were asked anew.
    fn ask(&mut self, ask: Ask);
    /// The member list changed.
    fn members_changed(&mut self, membership: &Arc<Membership>);
}

/// One step of a hash (FNV-1a, 64 bit).
pub(crate) fn fnv1a(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// How a member's life ended when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was told to stop.
    Shutdown,
    /// It was removed from the cluster.
    Removed,
}

/// A snapshot that was read back and waits for raft to accept it.
struct Loaded<R> {
    term: u64,
    index: u64,
    restored: Restored<R>,
}

/// One member's raft and everything that its log decides.
pub struct Core<S: StateMachine> {
    pub(crate) config: Config,
    pub(crate) raw: RawNode<LogStorage>,
    pub(crate) state: Replicated<S>,
    pub(crate) pipeline: Pipeline,
    pub(crate) compaction: Compaction,
    pub(crate) reads: Reads,
    pub(crate) lease: Lease,
    pub(crate) tracker: Tracker,
    pub(crate) changes: Changes,
    pub(crate) oversight: Oversight,
    /// `oversight` as of the last tick, for others to see.
    pub(crate) progress: Arc<[Progress]>,
    snapshot_requests: SnapshotRequests,
    /// Index of the last entry that `state` holds.
    pub(crate) applied: u64,
    /// raft's configuration as of `applied`.
    pub(crate) conf_state: ConfState,
    boot: u64,
    pub(crate) now: Duration,
    /// The (term, leader) that was last known; a change of it sends everything without an answer again.
    leader: (u64, u64),
    /// The disk has no room for the next segment of the log. What is left of the current one is for what cannot be
    /// refused: votes, a leader's first entry, entries of other leaders.
    full: bool,
    /// A leader without room does not hand over before this time.
    hand_over_after: Duration,
    /// No snapshot is begun before this time.
    snapshot_after: Duration,
    loading: bool,
    loaded: Option<Loaded<S::Restored>>,
    pub(crate) phase: Phase,
    pub(crate) has_more: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) watchdog: Watchdog,
    pub(crate) rejected_messages: u64,
    pub(crate) installed_snapshots: u64,
    /// Fetches of entries that were no longer in memory.
    pub(crate) readbacks: u64,
    pub(crate) leader_changes: u64,
}

/// What a core starts from.
pub(crate) struct Beginning<S> {
    pub(crate) storage: LogStorage,
    pub(crate) snapshot: SnapshotMetadata,
    pub(crate) state: Replicated<S>,
    pub(crate) boot: u64,
}

impl<S: StateMachine> Core<S> {
    pub(crate) fn new(config: Config, from: Beginning<S>, logger: &slog::Logger) -> Result<Self, Fatal> {
        let (id, boot, snapshot) = (config.id, from.boot, from.snapshot);
        let raw = RawNode::new(&config.raft(snapshot.index), from.storage, logger)?;
        let mut compaction = Compaction::new(config.snapshot_bytes, (snapshot.term, snapshot.index));
        let voters = &snapshot.get_conf_state().voters;
        if let Some(place) = voters.iter().position(|voter| *voter == id) {
            compaction.stagger(place as u64, voters.len() as u64);
        }
        Ok(Self {
            compaction,
            reads: Reads::new(id, boot),
            lease: Lease::default(),
            tracker: Tracker::new(id, boot, config.announce.clone()),
            changes: Changes::new(id, boot, config.limits.changes),
            oversight: Oversight::default(),
            progress: Arc::default(),
            snapshot_requests: SnapshotRequests::default(),
            pipeline: Pipeline::default(),
            state: from.state,
            applied: snapshot.index,
            conf_state: snapshot.get_conf_state().clone(),
            boot,
            now: Duration::ZERO,
            leader: (0, 0),
            full: false,
            hand_over_after: Duration::ZERO,
            snapshot_after: Duration::ZERO,
            loading: false,
            loaded: None,
            phase: Phase::Running,
            has_more: false,
            events: Vec::new(),
            watchdog: Watchdog::default(),
            rejected_messages: 0,
            installed_snapshots: 0,
            readbacks: 0,
            leader_changes: 0,
            raw,
            config,
        })
    }

    /// Handles everything that has arrived, in the order in which the parts depend on one another, and then does what
    /// can be done. `tick` is the time since start if a tick is due. `Some`: the member's life is over.
    ///
    /// # Errors
    /// What ends the member: it must not be given another turn.
    pub fn turn(
        &mut self,
        arrivals: Arrivals<Restored<S::Restored>>,
        tick: Option<Duration>,
        out: &mut impl Outside<S>,
    ) -> Result<Option<Exit>, Fatal> {
        for done in arrivals.done {
            self.done(done, out)?;
        }
        for report in arrivals.reports {
            self.report(report);
        }
        for (from, message) in arrivals.messages {
            self.step(from, message, out);
        }
        for change in arrivals.changes {
            self.changes.push(change, self.now);
        }
        for request in arrivals.snapshots {
            self.snapshot_requests.push(request, self.applied, self.now, self.config.limits.snapshots);
        }
        for read in arrivals.reads {
            self.reads.push(read, self.now);
        }
        for proposal in arrivals.proposals {
            if self.full {
                // The caller may be gone; then nobody wants the answer.
                let _ = proposal.reply.send(Err(Error::NoSpace));
            } else {
                self.tracker.push(proposal, self.now);
            }
        }
        if let Some(now) = tick {
            self.tick(now);
        }
        if arrivals.shutdown {
            self.begin_shutdown();
        }
        self.drain(out)?;
        if self.advance_shutdown() {
            self.drain(out)?;
        }
        Ok(match self.phase {
            Phase::Over(exit) => Some(exit),
            _ => None,
        })
    }

    /// Whether the last turn left something undone: the next one should come without waiting for an arrival.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// What the bounds of the inbox are to count as in flight here.
    pub fn load(&self) -> (Load, usize) {
        (self.tracker.load(), self.reads.waiting())
    }

    fn done(&mut self, done: Done<Restored<S::Restored>>, out: &mut impl Outside<S>) -> Result<(), Fatal> {
        match done {
            Done::Written(seq) => self.written(seq, out),
            Done::SnapshotSaved { metadata, bytes } => {
                self.compaction.saved(bytes);
                self.record_snapshot(*metadata, out);
            }
            Done::SnapshotLoaded { message, restored } => self.step_snapshot(*message, restored, out)?,
            Done::SnapshotRejected => self.loading = false,
            Done::Fetched { fetch, answer } => self.fetched(fetch, answer)?,
            Done::NotFetched(fetch) => self.not_fetched(fetch),
            Done::Room { full } => self.room(full),
            Done::SnapshotNotSaved => {
                self.compaction.not_saved();
                self.snapshot_after = self.now + SNAPSHOT_RETRY;
            }
            Done::Answered { number, answer } => self.changes.answered(number, answer, self.now),
            Done::Failed(fatal) => return Err(fatal),
        }
        Ok(())
    }

    /// A member without room for the next segment takes no commands.
    fn room(&mut self, full: bool) {
        self.full = full;
        self.events.push(if full { Event::DiskFull } else { Event::DiskHasRoom });
        self.lead_only_with_room();
    }

    /// A leader without room hands over, for the others may have it.
    fn lead_only_with_room(&mut self) {
        if self.full && self.is_leader() && self.now >= self.hand_over_after && self.hand_over() {
            self.hand_over_after = self.now + HAND_OVER_AGAIN;
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Unreachable(id) => self.raw.report_unreachable(id),
            Report::Snapshot { to, received: true } => self.raw.report_snapshot(to, SnapshotStatus::Finish),
            Report::Snapshot { received: false, .. } if planted(Bug::SnapshotReportLost) => {}
            Report::Snapshot { to, received: false } => self.raw.report_snapshot(to, SnapshotStatus::Failure),
            Report::Removed => self.phase = Phase::Over(Exit::Removed),
        }
    }

    fn tick(&mut self, now: Duration) {
        self.now = now;
        self.lease.tick();
        if self.must_not_campaign() {
            // It is over in a moment.
        } else if self.is_leader() || !self.is_sole_voter() {
            self.fix_election_timeout();
            self.raw.tick();
        } else if self.pipeline.is_idle() {
            // Nobody else can lead, so there is nobody to wait for but the disk: raft asserts that a log is persisted
            // to its end when its owner becomes leader. With others, their votes come after that anyway.
            if let Err(error) = self.raw.campaign() {
                tracing::debug!(%error, "raft does not campaign");
            }
        }
        self.tracker.expire(now);
        self.reads.expire(now);
        self.changes.expire(now);
        self.snapshot_requests.expire(now);
        self.look_around();
        self.lead_only_with_room();
        if self.is_leader() {
            self.watch_over();
        } else {
            self.watch_nobody();
            self.tracker.retry_if_due(now);
        }
    }

    /// raft draws its election time-out from the thread's generator whenever it begins to wait anew, and looks at it
    /// in a tick only. With a seed the one that counts is a function of the seed, the member, its term and its role.
    fn fix_election_timeout(&mut self) {
        let Some(seed) = self.config.election_seed else { return };
        let (min, max) = (self.config.election_ticks, 2 * self.config.election_ticks);
        let raft = &mut self.raw.raft;
        let parts = [seed, self.config.id, raft.term, raft.state as u64];
        let hash = parts.iter().flat_map(|part| part.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, fnv1a);
        raft.set_randomized_election_timeout(min + (hash >> 16) as usize % (max - min));
    }

    fn step(&mut self, from: u64, mut message: Message, out: &mut impl Outside<S>) {
        let rules = validate::Rules::of(&self.raw.raft, from);
        if let Err(invalid) = validate::message(&mut message, &rules) {
            self.rejected_messages += 1;
            match invalid.reason {
                // Nothing is wrong with it: it came before our disk was ready for it, and its like will come again.
                validate::Reason::NotPersisted { .. } => tracing::debug!(%invalid, "message of a peer"),
                _ => tracing::warn!(%invalid, "message of a peer"),
            }
            return;
        }
        match message.get_msg_type() {
            MessageType::MsgSnapshot => {
                // One at a time; the leader sends another if it still has to.
                if !self.loading && self.loaded.is_none() {
                    self.loading = true;
                    out.load_snapshot(message);
                }
            }
            // The leader that wants this member to take its place goes on if it does not.
            MessageType::MsgTimeoutNow if self.must_not_campaign() => {}
            MessageType::MsgPropose if !self.may_be_proposed(&message) => {
                self.rejected_messages += 1;
            }
            _ => self.step_raft(message),
        }
    }

    /// A campaign looks through the entries that are committed and not applied. raft counts a leader's snapshot as
    /// applied when it is on record, and would look for entries that it took the place of, and panic; and a member that
    /// restarted with a long log reads it in parts.
    fn must_not_campaign(&self) -> bool {
        self.pipeline.is_installing() || self.raw.store().is_behind(self.applied)
    }

    fn is_sole_voter(&self) -> bool {
        self.conf_state.voters == [self.config.id] && self.conf_state.voters_outgoing.is_empty()
    }

    fn step_raft(&mut self, message: Message) {
        let (kind, from) = (message.get_msg_type(), message.from);
        if let Err(error) = self.raw.step(message) {
            // A dropped proposal is sent again by its proposer, a response of somebody removed does not matter.
            tracing::debug!(?kind, from, %error, "raft dropped a message");
        }
    }

    /// Looks into a forwarded proposal: its commands must be readable, for they will be applied by everybody. Changes of
    /// the configuration are asked for by a call, and not forwarded.
    fn may_be_proposed(&mut self, message: &Message) -> bool {
        // Its proposer tries again, perhaps at another leader.
        if self.full {
            return false;
        }
        let readable = |entry: &Entry| {
            entry.get_entry_type() == EntryType::EntryNormal
                && entry.context.is_empty()
                && Batch::decode(entry.data.clone()).is_ok()
        };
        let all = message.entries.iter().all(readable);
        if !all {
            tracing::warn!(from = message.from, "a forwarded proposal cannot be read and is refused");
        }
        all
    }

    fn step_snapshot(
        &mut self,
        message: Message,
        restored: Restored<S::Restored>,
        out: &mut impl Outside<S>,
    ) -> Result<(), Fatal> {
        self.loading = false;
        let (term, index) =
            (message.get_snapshot().get_metadata().term, message.get_snapshot().get_metadata().index);
        self.loaded = Some(Loaded { term, index, restored });
        self.step_raft(message);
        self.drain(out)?;
        // raft may have found it outdated.
        self.loaded = None;
        Ok(())
    }

    /// raft accepted the leader's snapshot: the same one takes the place of the state.
    pub(crate) fn install(
        &mut self,
        metadata: SnapshotMetadata,
        out: &mut impl Outside<S>,
    ) -> Result<(), Fatal> {
        let (term, index) = (metadata.term, metadata.index);
        let Some(loaded) = self.loaded.take().filter(|loaded| (loaded.term, loaded.index) == (term, index))
        else {
            let source = std::io::Error::other("raft installs it, but it was not read");
            return Err(Fatal::Restore { term, index, source });
        };
        self.events.push(Event::SnapshotInstalled { index });
        self.state.install(loaded.restored);
        self.applied = index;
        self.conf_state = metadata.get_conf_state().clone();
        self.installed_snapshots += 1;
        self.compaction.installed(term, index);
        let storage = self.raw.mut_store();
        storage.install(metadata);
        self.members_changed(out);
        self.changes_installed();
        // Commands whose entries the snapshot covers were applied by others; their results came along.
        for counter in self.tracker.open_counters() {
            if let Some(applied) = self.state.sessions.result(self.config.id, self.boot, counter) {
                self.tracker.resolve(counter, applied, self.now);
            }
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, entry: Entry, out: &mut impl Outside<S>) -> Result<(), Fatal> {
        let unreadable = |index, cause: String| Fatal::Entry { index, cause };
        self.applied = entry.index;
        self.compaction.grow(codec::entry_len(&entry) as u64);
        match entry.get_entry_type() {
            // A new leader's, or a membership change that raft refused.
            EntryType::EntryNormal if entry.data.is_empty() => {}
            // Reserved: kinds of entries to come have their name here.
            EntryType::EntryNormal if !entry.context.is_empty() => {
                let kind = String::from_utf8_lossy(&entry.context).escape_debug().to_string();
                let cause = format!("it is of kind {kind:?}, which this version does not know");
                return Err(unreadable(entry.index, cause));
            }
            EntryType::EntryNormal => {
                let batch = Batch::decode(entry.data).map_err(|e| unreadable(entry.index, e.to_string()))?;
                let ours = (batch.member, batch.boot) == (self.config.id, self.boot);
                let (tracker, now) = (&mut self.tracker, self.now);
                if ours {
                    tracker.heard();
                }
                let news = self.state.apply(batch, entry.index, |counter, applied: &Applied| {
                    if ours {
                        tracker.resolve(counter, applied, now);
                    }
                });
                if news {
                    self.members_changed(out);
                }
            }
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_change(&entry, out)?,
        }
        Ok(())
    }

    pub(crate) fn members_changed(&self, out: &mut impl Outside<S>) {
        out.members_changed(&self.state.membership);
    }

    /// Proposes commands, those that arrived together as one entry. A leader waits until nothing is being written:
    /// what arrives meanwhile shares the next entry and its sync.
    pub(crate) fn propose_what_waits(&mut self) {
        while self.tracker.has_unproposed()
            && self.raw.raft.leader_id != raft::INVALID_ID
            && (!self.is_leader() || self.pipeline.is_idle())
        {
            let Some((data, mark)) = self.tracker.next_batch() else { break };
            if self.raw.propose(Vec::new(), data).is_err() {
                break;
            }
            self.tracker.proposed(mark, self.now);
            if self.is_leader() {
                break;
            }
        }
    }

    pub(crate) fn ask_for_read_index(&mut self) {
        self.read_by_lease();
        // raft drops a request without a word unless a leader is known, and unless that leader has committed an entry
        // of its own term. Of the second we know only when we lead ourselves.
        let askable = self.raw.raft.leader_id != raft::INVALID_ID
            && (!self.is_leader() || self.raw.raft.commit_to_current_term());
        if let Some(context) = self.reads.next_round(askable, self.now) {
            self.lease.round_begins();
            self.raw.read_index(context);
        }
    }

    fn look_around(&mut self) {
        let raft = &self.raw.raft;
        let commit = raft.raft_log.committed;
        let followers = raft.prs().iter().filter(|(peer, _)| self.is_leader() && **peer != self.config.id);
        let sight = Sight {
            write: self.pipeline.oldest().map(|(seq, begun)| (seq, self.now.saturating_sub(begun))),
            apply_backlog: commit.saturating_sub(self.applied),
            peers: followers
                .map(|(peer, progress)| (*peer, commit.saturating_sub(progress.matched)))
                .collect(),
        };
        self.watchdog.look(&sight, &mut self.events);
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn note_leader(&mut self) {
        let raft = &self.raw.raft;
        let leader = (raft.term, raft.leader_id);
        if leader == self.leader {
            return;
        }
        self.leader = leader;
        // Whatever was on its way to the last leader may be lost.
        self.reads.abandon_round();
        if raft.leader_id != raft::INVALID_ID {
            self.leader_changes += 1;
            self.events.push(Event::Leader { term: leader.0, leader: leader.1 });
            self.tracker.propose_again();
            self.changes.new_leader(leader.1);
        }
    }

    pub(crate) fn snapshot_if_due(&mut self, out: &mut impl Outside<S>) -> Result<(), Fatal> {
        if let Some(index) = self.raw.store().take_snapshot_request() {
            self.compaction.ask_for(index);
        }
        self.snapshot_requests.recorded(self.compaction.newest().1);
        if let Some(index) = self.snapshot_requests.wanted() {
            self.compaction.ask_for(index);
        }
        // A learner that is not promoted yet is in the configuration all the same; an empty one is a joiner's.
        if self.now < self.snapshot_after
            || self.conf_state.voters.is_empty()
            || !self.compaction.is_due(self.applied)
        {
            return Ok(());
        }
        self.compaction.begin();
        let mut metadata = SnapshotMetadata::default();
        metadata.index = self.applied - u64::from(planted(Bug::SnapshotNewerThanIndex));
        metadata.term = self.raw.store().term(metadata.index)?;
        metadata.set_conf_state(self.conf_state.clone());
        if planted(Bug::SnapshotWithoutConfState) {
            metadata.clear_conf_state();
        }
        if planted(Bug::SnapshotWithOldConfState) {
            metadata.set_conf_state(self.raw.store().snapshot_metadata().get_conf_state().clone());
        }
        tracing::info!(term = metadata.term, index = metadata.index, "taking a snapshot");
        let state = self.state.freeze();
        out.save_snapshot(metadata, state);
        Ok(())
    }

    /// A snapshot of our own is on record: the log may be cut behind it, but for what lagging followers may need.
    pub(crate) fn compact(&mut self, metadata: SnapshotMetadata, out: &mut impl Outside<S>) {
        let (term, index) = (metadata.term, metadata.index);
        self.compaction.recorded(term, index);
        self.events.push(Event::SnapshotTaken { index });
        // The leader's may have overtaken ours.
        if self.compaction.newest() == (term, index) {
            let keep = self.config.catch_up_bytes;
            let storage = self.raw.mut_store();
            storage.set_snapshot(metadata);
            storage.compact_keeping(index, keep);
        }
        out.discard_older(self.compaction.newest());
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// What the member looks like from outside.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let id = self.config.id;
        Status {
            id,
            cluster_id: self.state.membership.cluster_id,
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower if self.conf_state.learners.contains(&id) => Role::Learner,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            leader: Some(raft.leader_id).filter(|leader| *leader != raft::INVALID_ID),
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: self.applied,
            snapshot: self.compaction.newest().1,
            is_member: self.state.membership.members.iter().any(|member| member.id == id),
            staleness: self.reads.fresh().map(|fresh| self.now.saturating_sub(fresh)),
        }
    }

    /// What this member knows of the others as their leader, as of its last tick. Empty if it does not lead.
    pub fn progress(&self) -> &Arc<[Progress]> {
        &self.progress
    }

    /// raft itself, for whoever checks its properties from outside.
    pub fn raft(&self) -> &RawNode<LogStorage> {
        &self.raw
    }

    /// Members and sessions as of the applied index, for whoever compares members from outside.
    pub fn node_state(&self) -> NodeState {
        NodeState {
            membership: Some((*self.state.membership).clone()),
            sessions: self.state.sessions.to_pb(),
        }
    }

    /// raft's configuration as of the applied index, for whoever compares members from outside.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The hard state that no write has carried yet. Whoever closes the log saves it there first.
    pub fn take_unsaved(&mut self) -> Option<HardState> {
        self.pipeline.take_unsaved()
    }

    /// Ends every wait: the log's thread has failed, or the member stops, or it was removed, which answers whoever asked
    /// for that. `never` goes to whoever was never proposed, an [`Error::Unknown`] with that reason to the rest.
    pub fn fail_all(&mut self, never: &Error, reason: &'static str) {
        if *never == Error::Removed {
            self.changes.removed(self.config.id, &self.state.membership, self.applied);
        }
        let maybe = Error::Unknown { reason };
        self.tracker.fail_all(never.clone(), maybe.clone());
        self.changes.fail_all(never, &maybe);
        self.reads.fail_all(never);
        self.snapshot_requests.fail_all(never);
    }
}
