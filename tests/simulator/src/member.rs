//! A member: its disk, and what is known of it from outside. Its process is in `process.rs`.

use std::collections::{BTreeMap, VecDeque};

use kvd_kvstore::Shared;
use kvd_node::driver::{Attended, Board, Core, Fetch, Frozen, LogReader, Restored, Write};
use kvd_node::{Handle, StateMachine};
use kvd_snap::Snapshotter;
use kvd_vfs::{Lock, MemDisk};
use kvd_wal::Wal;
use raft::StateRole;
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::clock::Clock;
use crate::fault::Fault;
use crate::invariants::durability::Durable;
use crate::machine::Machine;
use crate::rot::Rotten;
use crate::shadow::Shadow;
use crate::trace::Micros;

pub(crate) type State = Restored<<Machine as StateMachine>::Restored>;
pub(crate) type View = Frozen<<Machine as StateMachine>::View>;

/// What a member is to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is to be added, and has no process before it is.
    Asked,
    /// It is one of the cluster.
    In,
    /// It was removed. A process that has not heard of that may go on.
    Out,
}

/// How a process ends that nobody told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The disk loses what was not synced.
    PowerLoss,
    /// The disk goes on.
    Kill,
}

/// A member, running or not.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) stage: Stage,
    /// Whether it was one of the first, or joined.
    pub(crate) first: bool,
    pub(crate) disk: MemDisk,
    pub(crate) clock: Clock,
    /// Ascends with each start and each end of its process.
    pub(crate) life: u64,
    pub(crate) running: Option<Running>,
    pub(crate) paused_until: Micros,
    /// Whether the pause was felt: something waited for its end.
    pub(crate) pause_felt: bool,
    pub(crate) slow_until: Micros,
    pub(crate) slow_felt: bool,
    /// At its next start the power fails at this operation of its disk.
    pub(crate) power_off_at_start: Option<u64>,
    /// How the process ends when the power that was told to go in the middle of something has gone.
    pub(crate) end_armed: Option<(End, Fault)>,
    /// The next snapshot that it writes, receives or reads is interrupted.
    pub(crate) interrupt_snapshot: Option<End>,
    /// Its disk was told to fail, so it may stop by itself.
    pub(crate) may_stop: bool,
    /// Its disk is full.
    pub(crate) full: bool,
    /// Failures of its disk that were counted: with EIO, and for want of room.
    pub(crate) failures_seen: (u64, u64),
    /// A bit flipped.
    pub(crate) rotten: Option<Rotten>,
    /// That was so once.
    pub(crate) rotted: bool,
    /// It refused to start on what it found, and stays down until somebody mends it.
    pub(crate) refused: bool,
    pub(crate) durable: Durable,
    /// The first index that an unfinished write of the last process may have overwritten.
    pub(crate) disturbed: Option<u64>,
    pub(crate) election_seed: u64,
}

/// A file operation that is under way.
pub(crate) enum Helper {
    Save(SnapshotMetadata, View),
    Load(Message),
    Discard((u64, u64)),
    Fetch(Fetch),
}

/// What the log is to do.
pub(crate) enum Job {
    /// A write, and whether its entries count as written only once they are durable.
    Write(Write, bool),
    Release(u64),
}

/// A member's process.
pub(crate) struct Running {
    pub(crate) core: Core<Machine>,
    pub(crate) inbox: Attended<State>,
    pub(crate) handle: Handle,
    pub(crate) shown: Board,
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
    pub(crate) turn_due: bool,
    pub(crate) tick_due: bool,
    pub(crate) role: StateRole,
    /// The applied index whose state was looked at last.
    pub(crate) looked_at: Option<u64>,
    /// Last, so that it is dropped last.
    pub(crate) lock: Box<dyn Lock>,
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

impl Member {
    pub(crate) fn new(id: u64, first: bool, election_seed: u64) -> Self {
        Self {
            id,
            stage: if first { Stage::In } else { Stage::Asked },
            first,
            disk: MemDisk::new(),
            clock: Clock::new(0),
            life: 0,
            running: None,
            paused_until: 0,
            pause_felt: false,
            slow_until: 0,
            slow_felt: false,
            power_off_at_start: None,
            end_armed: None,
            interrupt_snapshot: None,
            may_stop: false,
            full: false,
            failures_seen: (0, 0),
            rotten: None,
            rotted: false,
            refused: false,
            durable: Durable::default(),
            disturbed: None,
            election_seed,
        }
    }

    /// Whether it may end, or not start, for what was done to its disk.
    pub(crate) fn has_an_excuse(&self) -> bool {
        self.may_stop || self.full || self.rotten.is_some()
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
            "{} ({:?}): {:?}, {} jobs",
            self.id,
            self.stage,
            self.position(),
            self.running.as_ref().map_or(0, |r| r.log.len())
        )
    }
}
