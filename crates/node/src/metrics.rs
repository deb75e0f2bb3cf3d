//! What a member measures, under etcd's names where etcd has one.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::event::Event;
use crate::handle::{Role, Status};

type UGauge = Gauge<u64, AtomicU64>;

/// The series of one member. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    has_leader: UGauge,
    is_leader: UGauge,
    is_learner: UGauge,
    leader_changes: Counter,
    term: UGauge,
    proposals_committed: UGauge,
    proposals_applied: UGauge,
    proposals_pending: UGauge,
    proposals_failed: Counter,
    snapshot_index: UGauge,
    log_bytes: UGauge,
    snapshots_installed: Counter,
    log_readbacks: Counter,
    disk_slow: Counter,
    disk_full: UGauge,
    apply_behind: Counter,
    peers_lagging: UGauge,
    messages_dropped: Counter,
    messages_rejected: Counter,
    pub(crate) wal_fsync_seconds: Histogram,
    pub(crate) wal_write_bytes: Counter,
    pub(crate) snapshot_save_seconds: Histogram,
}

/// What a turn of the loop adds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turn {
    pub(crate) pending: usize,
    pub(crate) failed: u64,
    pub(crate) log_bytes: u64,
    pub(crate) lagging: usize,
    pub(crate) dropped: u64,
    pub(crate) rejected: u64,
    pub(crate) installed: u64,
    pub(crate) readbacks: u64,
    pub(crate) leader_changes: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            has_leader: UGauge::default(),
            is_leader: UGauge::default(),
            is_learner: UGauge::default(),
            leader_changes: Counter::default(),
            term: UGauge::default(),
            proposals_committed: UGauge::default(),
            proposals_applied: UGauge::default(),
            proposals_pending: UGauge::default(),
            proposals_failed: Counter::default(),
            snapshot_index: UGauge::default(),
            log_bytes: UGauge::default(),
            snapshots_installed: Counter::default(),
            log_readbacks: Counter::default(),
            disk_slow: Counter::default(),
            disk_full: UGauge::default(),
            apply_behind: Counter::default(),
            peers_lagging: UGauge::default(),
            messages_dropped: Counter::default(),
            messages_rejected: Counter::default(),
            // 62.5 us to 2 s.
            wal_fsync_seconds: Histogram::new(exponential_buckets(0.000_062_5, 2.0, 16)),
            wal_write_bytes: Counter::default(),
            // 10 ms to 80 s.
            snapshot_save_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 14)),
        }
    }
}

impl Metrics {
    /// Registers every series. A counter's name gets `_total` when it is written out.
    pub fn register(&self, to: &mut Registry) {
        let m = self.clone();
        to.register("etcd_server_has_leader", "Whether a leader is known: 1 or 0", m.has_leader);
        to.register("etcd_server_is_leader", "Whether this member leads: 1 or 0", m.is_leader);
        to.register("etcd_server_is_learner", "Whether this member is a learner: 1 or 0", m.is_learner);
        to.register("etcd_server_leader_changes_seen", "Leaders seen since the start", m.leader_changes);
        // Gauges whose names end in `_total`, as etcd has them.
        to.register(
            "etcd_server_proposals_committed_total",
            "Index up to which the log is committed",
            m.proposals_committed,
        );
        to.register(
            "etcd_server_proposals_applied_total",
            "Index up to which the log is applied",
            m.proposals_applied,
        );
        to.register(
            "etcd_server_proposals_pending",
            "Commands in flight at this member",
            m.proposals_pending,
        );
        to.register("etcd_server_proposals_failed", "Commands answered with an error", m.proposals_failed);
        to.register_with_unit(
            "etcd_disk_wal_fsync_duration",
            "Time until a group of log records is durable",
            Unit::Seconds,
            m.wal_fsync_seconds,
        );
        to.register_with_unit(
            "etcd_disk_wal_write",
            "Bytes handed to the log",
            Unit::Bytes,
            m.wal_write_bytes,
        );
        to.register_with_unit(
            "kvd_snapshot_save_duration",
            "Time to write a snapshot",
            Unit::Seconds,
            m.snapshot_save_seconds,
        );
        to.register("kvd_raft_term", "raft's term", m.term);
        to.register("kvd_disk_slow", "Writes to the log that took long", m.disk_slow);
        to.register("kvd_disk_full", "Whether the log lacks room for its next segment", m.disk_full);
        to.register("kvd_apply_behind", "Times that apply fell behind", m.apply_behind);
        to.register("kvd_peers_lagging", "Followers of this leader that are far behind", m.peers_lagging);
        to.register("kvd_snapshot_index", "Index of the newest snapshot", m.snapshot_index);
        to.register_with_unit(
            "kvd_log_memory",
            "Payload of the log entries in memory",
            Unit::Bytes,
            m.log_bytes,
        );
        to.register(
            "kvd_log_readbacks",
            "Reads of log entries, no longer in memory, for followers that lag",
            m.log_readbacks,
        );
        to.register(
            "kvd_snapshots_installed",
            "Snapshots of a leader that took the state's place",
            m.snapshots_installed,
        );
        to.register(
            "kvd_peer_messages_dropped",
            "Messages of peers that found the queue full",
            m.messages_dropped,
        );
        to.register("kvd_peer_messages_rejected", "Messages of peers that were refused", m.messages_rejected);
    }

    /// Counts what has no series of another kind.
    pub(crate) fn count(&self, event: &Event) {
        match event {
            Event::DiskSlow { .. } => _ = self.disk_slow.inc(),
            Event::DiskFull => _ = self.disk_full.set(1),
            Event::DiskHasRoom => _ = self.disk_full.set(0),
            Event::ApplyBehind { .. } => _ = self.apply_behind.inc(),
            _ => {}
        }
    }

    pub(crate) fn show(&self, status: &Status, turn: Turn) {
        self.has_leader.set(status.leader.is_some().into());
        self.is_leader.set((status.role == Role::Leader).into());
        self.is_learner.set((status.role == Role::Learner).into());
        self.term.set(status.term);
        self.proposals_committed.set(status.commit);
        self.proposals_applied.set(status.applied);
        self.proposals_pending.set(turn.pending as u64);
        self.proposals_failed.inc_by(turn.failed);
        self.snapshot_index.set(status.snapshot);
        self.log_bytes.set(turn.log_bytes);
        self.snapshots_installed.inc_by(turn.installed);
        self.log_readbacks.inc_by(turn.readbacks);
        self.peers_lagging.set(turn.lagging as u64);
        self.messages_dropped.inc_by(turn.dropped);
        self.messages_rejected.inc_by(turn.rejected);
        self.leader_changes.inc_by(turn.leader_changes);
    }
}
