//! Every limit and every deadline of the transport, in one place.

use std::time::Duration;

/// hyper panics below it.
const MIN_HEAD_BYTES: usize = 8192;

/// Who this member is, and what it allows itself and its peers.
///
/// ```
/// let config = kvd_transport::Config { member_id: 1, cluster_id: 0xC1, ..Default::default() };
/// assert_eq!(config.max_frame_bytes, 64 << 20);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// This member's id. Never zero in a running cluster.
    pub member_id: u64,
    /// The cluster's id. Peers of another cluster are refused.
    pub cluster_id: u64,
    /// Most messages that wait for one peer in one class. More are dropped and reported: raft sends them again.
    pub queue_messages: usize,
    /// Most bytes that wait for one peer in one class, payloads and a fixed charge for each message and entry. A queue
    /// that is empty takes one message of any size, so that no message is too big for every attempt.
    pub queue_bytes: usize,
    /// Bytes after which one write to a stream is full and the rest waits for the next. It keeps a follower that
    /// catches up from holding the event loop for the time of encoding its whole queue.
    pub write_bytes: usize,
    /// Longest frame, in bytes, in either direction. Checked before memory is taken for it.
    pub max_frame_bytes: u32,
    /// Most connections that the listener holds at once; one more is closed at once.
    pub max_connections: usize,
    /// Longest request or response head, and size of one read, in bytes. 8192 at least.
    pub max_head_bytes: usize,
    /// How long a connect may take, name resolution included.
    pub dial_timeout: Duration,
    /// How long the other side may take to send its request head, or its response head.
    pub head_timeout: Duration,
    /// A stream without a byte for so long is dead: the reader redials, the writer closes.
    pub stream_timeout: Duration,
    /// An idle stream carries a heartbeat frame this often. At most half of `stream_timeout`, since the gap between two
    /// frames can be two intervals.
    pub heartbeat_interval: Duration,
    /// Wait after the first failed dial. It doubles up to `redial_max`; a stream that comes up resets it.
    pub redial_min: Duration,
    /// Longest wait between two dials.
    pub redial_max: Duration,
    /// Bytes of a snapshot that are read from the store at once. A few such chunks are in memory for each transfer.
    pub snapshot_chunk_bytes: usize,
    /// A snapshot transfer that makes no progress for so long has failed.
    pub snapshot_stall_timeout: Duration,
    /// How long the receiver may take, after the last byte, to verify a snapshot and make it durable.
    pub snapshot_install_timeout: Duration,
    /// Most calls that are under way to other members, and most that are being answered. One more is an error to the
    /// caller.
    pub max_calls: usize,
    /// Longest request and longest answer of a call, in bytes.
    pub max_call_bytes: usize,
    /// Longest time that a call of another member may ask for; more is cut down to it.
    pub max_call_time: Duration,
    /// How long [`crate::Transport::stop`] lets streams write out what is queued.
    pub stop_grace: Duration,
}

impl Config {
    /// The same, with what cannot work replaced by the nearest that can.
    pub(crate) fn workable(mut self) -> Config {
        const MOMENT: Duration = Duration::from_millis(1);
        self.max_head_bytes = self.max_head_bytes.max(MIN_HEAD_BYTES);
        self.snapshot_chunk_bytes = self.snapshot_chunk_bytes.max(1);
        self.heartbeat_interval = self.heartbeat_interval.max(MOMENT);
        self.stream_timeout = self.stream_timeout.max(MOMENT);
        self.redial_min = self.redial_min.max(MOMENT);
        self.redial_max = self.redial_max.max(self.redial_min);
        self.snapshot_stall_timeout = self.snapshot_stall_timeout.max(MOMENT);
        self
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            member_id: 0,
            cluster_id: 0,
            queue_messages: 4096,
            queue_bytes: 64 << 20,
            write_bytes: 1 << 20,
            max_frame_bytes: 64 << 20,
            max_connections: 256,
            max_head_bytes: 64 << 10,
            dial_timeout: Duration::from_secs(2),
            head_timeout: Duration::from_secs(5),
            stream_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_millis(1667),
            redial_min: Duration::from_millis(100),
            redial_max: Duration::from_secs(1),
            snapshot_chunk_bytes: 128 << 10,
            snapshot_stall_timeout: Duration::from_secs(5),
            snapshot_install_timeout: Duration::from_secs(60),
            max_calls: 64,
            max_call_bytes: 1 << 20,
            max_call_time: Duration::from_secs(60),
            stop_grace: Duration::from_millis(500),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_can_panic_or_spin() {
        for (given, want) in [(0, 8192), (8191, 8192), (8192, 8192), (8193, 8193)] {
            let config = Config { max_head_bytes: given, ..Config::default() }.workable();
            assert_eq!(config.max_head_bytes, want);
        }
        let zero = Duration::ZERO;
        let config = Config {
            heartbeat_interval: zero,
            stream_timeout: zero,
            redial_min: zero,
            redial_max: zero,
            snapshot_stall_timeout: zero,
            snapshot_chunk_bytes: 0,
            ..Config::default()
        }
        .workable();
        assert!(!config.heartbeat_interval.is_zero() && !config.stream_timeout.is_zero());
        assert!(!config.redial_min.is_zero() && config.redial_max >= config.redial_min);
        assert!(!config.snapshot_stall_timeout.is_zero() && config.snapshot_chunk_bytes > 0);
    }
}
