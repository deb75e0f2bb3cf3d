//! What a seed decides before anything happens: the cluster's shape, its limits, and which faults it will see.

use std::fmt;

use crate::rng::Rng;
use crate::trace::Micros;

/// One millisecond.
pub(crate) const MS: Micros = 1000;
/// One second.
pub(crate) const SECOND: Micros = 1000 * MS;

/// A kind of fault that the nemesis brings about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A member loses power: any legal subset of what it had not synced survives.
    PowerLoss,
    /// All members lose power at once.
    PowerLossOfAll,
    /// A member loses power, and again in the middle of its recovery.
    PowerLossAtStart,
    /// A member's process is killed; its disk goes on.
    Kill,
    /// A member is told to stop.
    Shutdown,
    /// A member's process stands still for a while.
    Pause,
    /// A member cannot reach the others, nor they it.
    Isolate,
    /// The members fall apart into two groups.
    Split,
    /// Some links work in one direction only.
    OneWay,
    /// A member's disk is slow, or does not answer for a while.
    SlowDisk,
    /// A sync or a write of a member's log fails.
    FailedSync,
    /// Messages get lost.
    Loss,
    /// Messages arrive twice.
    Duplicates,
    /// Messages overtake each other.
    Reordering,
    /// Messages take long.
    Delay,
    /// Snapshots break off on their way.
    BrokenSnapshots,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::PowerLossAtStart,
        Self::Kill,
        Self::Shutdown,
        Self::Pause,
        Self::Isolate,
        Self::Split,
        Self::OneWay,
        Self::SlowDisk,
        Self::FailedSync,
        Self::Loss,
        Self::Duplicates,
        Self::Reordering,
        Self::Delay,
        Self::BrokenSnapshots,
    ];

    /// Whether it takes two members.
    fn needs_links(self) -> bool {
        use Fault::*;
        matches!(self, Isolate | Split | OneWay | Loss | Duplicates | Reordering | Delay | BrokenSnapshots)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How one simulation is set up.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of members, all voters.
    pub members: u64,
    /// Number of clients, each with one operation at a time.
    pub clients: usize,
    /// Number of keys that they share.
    pub keys: u64,
    /// The longest value in bytes.
    pub value_bytes: u64,
    /// Longest pause of a client between two operations.
    pub think: Micros,
    /// See `kvd_node::Config::snapshot_bytes`.
    pub snapshot_bytes: u64,
    /// See `kvd_node::Config::catch_up_bytes`.
    pub catch_up_bytes: u64,
    /// See `kvd_node::Config::log_cache_bytes`.
    pub log_cache_bytes: u64,
    /// See `kvd_node::Config::segment_bytes`.
    pub segment_bytes: u64,
    /// How long there are faults and clients.
    pub duration: Micros,
    /// Longest time between two faults.
    pub calm: Micros,
    /// The faults, in the order in which each comes for the first time.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let members = rng.pick(&[3, 3, 3, 3, 3, 3, 5, 5, 1]);
        let mut faults: Vec<Fault> =
            Fault::ALL.into_iter().filter(|fault| members > 1 || !fault.needs_links()).collect();
        rng.shuffle(&mut faults);
        let most = faults.len() as u64;
        faults.truncate(rng.within(2..most + 1) as usize);
        let snapshot_bytes = rng.pick(&[600, 2000, 8000, 64 << 20]);
        Self {
            members,
            clients: rng.within(2..11) as usize,
            keys: rng.within(1..9),
            value_bytes: rng.pick(&[16, 40, 300, 2000]),
            think: rng.pick(&[5, 20, 100, 500]) * MS,
            snapshot_bytes,
            catch_up_bytes: rng.pick(&[0, 500, 5000]).min(snapshot_bytes),
            segment_bytes: rng.pick(&[4096, 8192, 32_768]),
            duration: rng.within(10..40) * SECOND,
            calm: rng.pick(&[300, 1000, 3000]) * MS,
            faults,
            log_cache_bytes: rng.pick(&[0, 0, 2000, 10_000, 32 << 20]),
        }
    }
}
