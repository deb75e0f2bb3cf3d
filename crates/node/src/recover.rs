//! When a majority of a cluster is lost for good: one stopped member's directory becomes a cluster of its own.
//!
//! The new cluster has a new id, so that no member of the old one talks to it by accident, and every other id of the old
//! one is spent. Its state is that of the member with *all* of its log. Entries that it does not know to be committed are
//! kept: the majority that may have acknowledged them is gone, and dropping them could lose what a client was promised;
//! but nobody may have been. What the member never received is lost.
//!
//! # On disk
//!
//! ```text
//! 1. DIR/snap/…      a snapshot of that state, one index and one term behind the log's end: its name is new
//! 2. DIR/wal.new/    a log of the new cluster that begins with it; appears whole
//! 3. DIR/wal  -> DIR/wal.old      with this it is done
//! 4. DIR/wal.new -> DIR/wal
//! 5. DIR/wal.old is removed; old snapshots go with the member's first start
//! ```
//!
//! Each step is durable before the next. [`Home::open`] finishes what was interrupted: without a `wal` the steps from 4 on,
//! with one by taking away what there is of step 2. So a power failure leaves the old member or the new one, and never
//! none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvd_raftpb::codec;
use kvd_raftpb::node::{Batch, Identity, Member, Membership};
use kvd_vfs::Disk;
use kvd_wal::{LogStorage, SnapshotRecord, Wal};
use prost::Message as _;
use raft::eraftpb::{ConfChangeTransition, ConfState, Entry, EntryType, HardState, SnapshotMetadata};
use raft::{GetEntriesContext, Storage as _};

use crate::bootstrap::{Home, read_identity};
use crate::changes;
use crate::core::fnv1a;
use crate::error::Fatal;
use crate::membership::{self, Verdict};
use crate::replicated::Replicated;
use crate::session::Sessions;
use crate::state_machine::StateMachine;
use crate::threads;

/// Bytes of entries that are read at once.
const PART_BYTES: u64 = 4 << 20;
/// The new log's first segment, in bytes; the next ones are as long as the member is told when it starts.
const SEGMENT_BYTES: u64 = 64 << 10;

/// What a recovery makes of a directory; for whoever has to decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// The member whose directory it is. It keeps its id and its URLs.
    pub member: Member,
    /// The cluster that it was a part of.
    pub old_cluster: u64,
    /// The cluster that it will be.
    pub new_cluster: u64,
    /// Term of the last entry in its log.
    pub last_term: u64,
    /// Index of the last entry in its log. What the old cluster has acknowledged behind it is lost.
    pub last_index: u64,
    /// Up to this index it knows the log to be committed. What is behind it is kept, whether it was acknowledged or not.
    pub commit: u64,
    /// The members that are not part of the new cluster; their ids are spent.
    pub dropped: Vec<Member>,
}

/// A recovery that was planned and not carried out.
pub struct PlannedRecovery<S> {
    home: Home,
    recovery: Recovery,
    state: Replicated<S>,
}

impl Home {
    /// Reads everything that this member has, and says what a recovery would make of it. Nothing is changed, but that a
    /// torn write at the end of the log is cut as it is at any start. `machine` is its state machine, empty; `nonce` makes
    /// the new cluster's id differ from that of any other recovery of the same directory: a time of day will do.
    ///
    /// # Errors
    /// [`Fatal::CannotRecover`] if there is nothing to begin a cluster with; whatever the log and the snapshots answer.
    pub fn plan_recovery<S: StateMachine>(self, machine: S, nonce: u64) -> Result<PlannedRecovery<S>, Fatal> {
        let cannot = |path: &Path, why: &'static str| Fatal::CannotRecover { path: path.to_owned(), why };
        if !Wal::exists(self.disk(), &self.wal_dir())? {
            return Err(cannot(self.dir(), "no member has ever begun there"));
        }
        let identity = read_identity(&Wal::read_metadata(self.disk(), &self.wal_dir())?);
        let snapshotter = self.snapshotter()?;
        let Some(snapshot) = snapshotter.newest_of(&self.recorded()?)? else {
            return Err(cannot(self.dir(), "it holds no snapshot that can be read"));
        };
        let mut state = Replicated {
            membership: Arc::new(Membership::default()),
            sessions: Sessions::default(),
            machine,
        };
        state.install(threads::load::<S>(&snapshotter, &snapshot)?);
        let at = SnapshotRecord { index: snapshot.index, term: snapshot.term };
        let options =
            kvd_wal::Options { prepare_ahead: false, replay_bytes: PART_BYTES, segment_bytes: SEGMENT_BYTES };
        let (wal, replay) = Wal::open(self.disk().clone(), &self.wal_dir(), at, options)?;
        let hard_state = replay.hard_state.clone();
        let mut joint = !snapshot.get_conf_state().voters_outgoing.is_empty();
        let mut storage = LogStorage::recovered(snapshot.clone(), replay, wal.reader());
        storage.set_cache_bytes(PART_BYTES);
        let last_index = storage.last_index();
        let mut applied = snapshot.index;
        while applied < last_index {
            storage.read_ahead(applied)?;
            let context = GetEntriesContext::empty(false);
            for entry in storage.entries(applied + 1, last_index + 1, PART_BYTES, context)? {
                applied = entry.index;
                apply(&mut state, &mut joint, entry)?;
            }
            storage.evict(applied);
        }
        let last_term = storage.term(last_index)?;
        wal.close()?;

        let list = &state.membership;
        let known = list.members.iter().find(|member| member.id == identity.member_id);
        let Some(known) = known.cloned() else {
            return Err(cannot(
                self.dir(),
                "its member was removed from the cluster, or was never a part of it",
            ));
        };
        let dropped = list.members.iter().filter(|member| member.id != known.id).cloned().collect();
        let parts = [identity.cluster_id, known.id, last_term.max(hard_state.term), last_index, nonce];
        let hash = parts.iter().flat_map(|part| part.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, fnv1a);
        let recovery = Recovery {
            member: known,
            old_cluster: identity.cluster_id,
            new_cluster: if hash == identity.cluster_id { !hash } else { hash }.max(1),
            last_term: last_term.max(hard_state.term),
            last_index,
            commit: hard_state.commit,
            dropped,
        };
        Ok(PlannedRecovery { home: self, recovery, state })
    }

    fn new_log(&self) -> PathBuf {
        self.dir().join("wal.new")
    }

    /// Finishes, or takes back, a recovery that was interrupted.
    pub(crate) fn settle_recovery(disk: &Disk, dir: &Path) -> std::io::Result<()> {
        let (log, new, old) = (dir.join("wal"), dir.join("wal.new"), dir.join("wal.old"));
        let mut changed = false;
        match (disk.exists(&log)?, disk.exists(&new)?) {
            (false, true) => {
                disk.rename(&new, &log)?;
                // Before the old one goes.
                disk.sync_dir(dir)?;
                changed = true;
            }
            (true, true) => {
                disk.remove_dir_all(&new)?;
                changed = true;
            }
            (_, false) => {}
        }
        if disk.exists(&log)? && disk.exists(&old)? {
            disk.remove_dir_all(&old)?;
            changed = true;
        }
        if changed { disk.sync_dir(dir) } else { Ok(()) }
    }
}

impl<S: StateMachine> PlannedRecovery<S> {
    /// What will be done.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Does it.
    ///
    /// # Errors
    /// Whatever the disk answers. The directory is then the old member's or the new one's, as after a power failure.
    pub fn carry_out(self) -> Result<(), Fatal> {
        let Self { home, recovery, mut state } = self;
        let (disk, dir) = (home.disk(), home.dir());
        let (index, term) = (recovery.last_index + 1, recovery.last_term + 1);
        let list = Arc::make_mut(&mut state.membership);
        list.cluster_id = recovery.new_cluster;
        list.removed.extend(recovery.dropped.iter().map(|member| member.id));
        list.removed.sort_unstable();
        list.members = vec![Member { learner: false, leaving: false, ..recovery.member.clone() }];
        for member in &recovery.dropped {
            state.sessions.forget(member.id);
        }
        // 1
        let mut metadata = SnapshotMetadata::default();
        metadata.index = index;
        metadata.term = term;
        metadata.set_conf_state(ConfState::from((vec![recovery.member.id], Vec::new())));
        let mut frozen = Some(state.freeze());
        home.snapshotter()?.save(&metadata, &mut |out| match frozen.take() {
            Some(frozen) => frozen.write(out),
            None => Err(std::io::Error::other("a frozen state is written once")),
        })?;
        // 2
        let mut hard_state = HardState::default();
        hard_state.term = term;
        hard_state.commit = index;
        let identity = Identity { cluster_id: recovery.new_cluster, member_id: recovery.member.id };
        let begin = Some((SnapshotRecord { index, term }, hard_state));
        let options = kvd_wal::Options {
            prepare_ahead: false,
            segment_bytes: SEGMENT_BYTES,
            ..kvd_wal::Options::default()
        };
        let new = home.new_log();
        Wal::create(disk.clone(), &new, &identity.encode_to_vec(), begin, options)?.close()?;
        // 3
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| Fatal::File { path: path.clone(), source }
        };
        let (log, old) = (home.wal_dir(), dir.join("wal.old"));
        disk.rename(&log, &old).map_err(file(&log))?;
        disk.sync_dir(dir).map_err(file(dir))?;
        // 4 and 5
        Home::settle_recovery(disk, dir).map_err(file(dir))
    }
}

/// What the core does with an entry, without raft.
fn apply<S: StateMachine>(state: &mut Replicated<S>, joint: &mut bool, entry: Entry) -> Result<(), Fatal> {
    let index = entry.index;
    let unreadable = |cause: String| Fatal::Entry { index, cause };
    match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => {}
        EntryType::EntryNormal if !entry.context.is_empty() => {
            return Err(unreadable("it is of a kind that this version does not know".into()));
        }
        EntryType::EntryNormal => {
            let batch = Batch::decode(entry.data).map_err(|e| unreadable(e.to_string()))?;
            state.apply(batch, index, |_, _| ());
        }
        kind => {
            let change =
                codec::decode_conf_change(kind, &entry.data).map_err(|e| unreadable(e.to_string()))?;
            let list = Arc::make_mut(&mut state.membership);
            if change.changes.is_empty() {
                *joint = false;
                membership::leave_joint(list);
                return Ok(());
            }
            let proposed = changes::read(&change, &entry.context)
                .ok_or_else(|| unreadable("a membership change that this version does not know".into()))?;
            let verdict = membership::judge(list, *joint, &proposed.steps, proposed.change.again);
            if let Verdict::Change(change) = verdict {
                *joint = change.get_transition() == ConfChangeTransition::Explicit;
                membership::carry_out(list, &proposed.steps, *joint);
            }
        }
    }
    Ok(())
}
