//! What a member is told when it starts.

use std::time::Duration;

use kvd_raftpb::node::Announcement;

/// The bounds of a member's queues. Each is an answer ([`crate::Error::Overloaded`]) or a counted drop, never a stall.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest payload of one command, in bytes. Default 2 MiB, a little over the largest request of the doors.
    pub command_bytes: usize,
    /// Most commands in flight. Default 8192; at most half of [`crate::session::WINDOW`], so that a few slow commands
    /// do not close the window for the rest.
    pub proposals: usize,
    /// Most payload bytes in flight. Default 64 MiB.
    pub proposal_bytes: usize,
    /// Most linearizable reads in flight. Default 65,536.
    pub reads: usize,
    /// Most membership changes and transfers of leadership in flight, those of peers included. Default 16.
    pub changes: usize,
    /// Most requests for a snapshot that wait for one. Default 16.
    pub snapshots: usize,
    /// Most messages of peers that wait for the loop. Default 8192.
    pub messages: usize,
    /// Most bytes of such messages. Default 64 MiB.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_bytes: 2 << 20,
            proposals: 8192,
            proposal_bytes: 64 << 20,
            reads: 65_536,
            changes: 16,
            snapshots: 16,
            messages: 8192,
            message_bytes: 64 << 20,
        }
    }
}

/// How a member runs. Every member of a cluster should have the same ticks.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member's id, not 0.
    pub id: u64,
    /// Ticks without a leader before an election; the real time-out is drawn from [n, 2n). Default 10.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats. Default 1.
    pub heartbeat_ticks: usize,
    /// A snapshot is taken once the log has grown by this many bytes since the last one, or by the size of that one
    /// if it was larger: so the cost of a write does not grow with the state. Default 64 MiB.
    pub snapshot_bytes: u64,
    /// Most bytes of a snapshot that are written in a second, so that the log's syncs on the same disk are not held up.
    /// Default 64 MiB.
    pub snapshot_rate: u64,
    /// Answer linearizable reads at the leader without a round of heartbeats, if the last one was begun less than an
    /// election time-out ago: until then nobody else can lead. **Unsafe** under pauses: a leader that was stopped for
    /// longer than an election (a suspended machine, a stalled disk) does not notice that it was replaced, and answers
    /// once with an old state. So it may if clocks run at different speeds, or when a member that has just answered it
    /// restarts and votes for another. Default off; the gain is small.
    pub lease_reads: bool,
    /// Entries kept in the log behind a snapshot for followers that lag, in bytes. Default 16 MiB.
    pub catch_up_bytes: u64,
    /// Most bytes of the log that are held in memory, but for entries that are not yet durable and applied, and for what
    /// is read back from the disk for followers that lag, or after a restart: up to seven times an eighth of this, at
    /// most 4 MiB each. Default 32 MiB.
    pub log_cache_bytes: u64,
    /// How long a shutdown waits for the requests in flight, and then for a successor. Default 2 s.
    pub shutdown_grace: Duration,
    /// Size of a log segment in bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// Whether a thread prepares the log's segments ahead of need; see [`kvd_wal::Options::prepare_ahead`]. Default
    /// true.
    pub prepare_segments_ahead: bool,
    /// If set, election time-outs are drawn from it instead of from the thread's random numbers, so that a simulator
    /// can repeat itself. Members may share one; each draws differently. Default none.
    pub election_seed: Option<u64>,
    /// What the cluster is told of this member at its start: it becomes part of the member list. Default none: the list
    /// stays as it is.
    pub announce: Option<Announcement>,
    /// The bounds of the queues.
    pub limits: Limits,
}

impl Config {
    /// The defaults for a member.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            snapshot_bytes: 64 << 20,
            snapshot_rate: 64 << 20,
            lease_reads: false,
            catch_up_bytes: 16 << 20,
            log_cache_bytes: 32 << 20,
            shutdown_grace: Duration::from_secs(2),
            segment_bytes: 64 << 20,
            prepare_segments_ahead: true,
            election_seed: None,
            announce: None,
            limits: Limits::default(),
        }
    }

    pub(crate) fn raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.id,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            // 0 would mean one entry a message.
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            // Backed by the bound on proposals of each member; this one guards the leader against all of them.
            max_uncommitted_size: 256 << 20,
            max_committed_size_per_ready: 4 << 20,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        }
    }
}
