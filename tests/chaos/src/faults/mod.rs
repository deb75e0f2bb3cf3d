//! What is done to a cluster. Each fault shows that it happened: one that cannot fails the run.

mod clock;
mod disk;
mod full;
mod membership;
mod network;
mod power;
mod process;

use std::fmt;

use crate::cluster::Cluster;
use crate::rng::Rng;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Kind {
    /// SIGKILL to one member.
    Kill,
    /// SIGKILL to a majority at once.
    KillSeveral,
    /// SIGKILL to all members at once.
    KillAll,
    /// SIGSTOP, and SIGCONT after more than an election.
    Pause,
    /// A write or a sync fails with EIO. The member has to stop and say why.
    DiskError,
    /// Every write and sync takes long.
    DiskDelay,
    /// The file system has no room left, and then has again.
    FullDisk,
    /// One member loses its power.
    PowerLoss,
    /// All members lose their power at once.
    PowerLossAll,
    /// One member is cut off from the others.
    Partition,
    /// A link is cut in one direction.
    OneWay,
    /// Links are slow.
    SlowLink,
    /// A member's wall clock jumps by days, there and back.
    Clock,
    /// A member joins and another one is removed.
    Membership,
}

impl Kind {
    /// Every kind.
    pub fn all() -> &'static [Kind] {
        clap::ValueEnum::value_variants()
    }

    /// Whether it is one of links.
    pub fn is_network(self) -> bool {
        matches!(self, Kind::Partition | Kind::OneWay | Kind::SlowLink)
    }

    /// The members that it happens to, `None` for all of them, taken from those that no other fault has.
    fn victims(self, size: usize) -> Option<usize> {
        match self {
            kind if kind.is_network() => Some(0),
            Kind::KillSeveral => Some(size / 2 + 1),
            Kind::KillAll | Kind::PowerLossAll | Kind::Membership => None,
            _ => Some(1),
        }
    }

    /// Whether it needs a certain member: the one whose disk can be filled, the ones that can lose their power.
    pub(crate) fn fits(self, cluster: &Cluster, id: u64) -> bool {
        use crate::cluster::Storage;
        let storage = cluster.slots[id as usize - 1].storage;
        match self {
            Kind::FullDisk => storage == Storage::Tmpfs,
            Kind::PowerLoss => storage == Storage::Ext4,
            _ => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.pad(value.as_ref().map_or("?", |value| value.get_name()))
    }
}

/// A fault under way.
pub trait Fault {
    /// Waits until it has taken effect, and undoes it. Returns what shows that it happened.
    ///
    /// # Errors
    /// If it did not happen, or the member did not do what it must.
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String>;
}

/// Begins a fault at some members.
///
/// # Errors
/// If the system did not do its part.
pub fn begin(
    kind: Kind,
    cluster: &mut Cluster,
    victims: &[u64],
    rng: &mut Rng,
) -> Result<Box<dyn Fault>, String> {
    match kind {
        Kind::Kill | Kind::KillSeveral | Kind::KillAll => process::kill(cluster, victims),
        Kind::Pause => process::pause(cluster, victims),
        Kind::DiskError => disk::error(cluster, victims, rng),
        Kind::DiskDelay => disk::delay(cluster, victims, rng),
        Kind::FullDisk => full::fill(cluster, victims),
        Kind::PowerLoss | Kind::PowerLossAll => power::cut(cluster, victims),
        Kind::Partition => network::partition(cluster, rng),
        Kind::OneWay => network::one_way(cluster, rng),
        Kind::SlowLink => network::slow(cluster, rng),
        Kind::Clock => clock::jump(cluster, victims, rng),
        Kind::Membership => membership::change(cluster, rng),
    }
}

/// Picks members for a fault among those that are free, if there are enough.
pub fn choose(kind: Kind, cluster: &Cluster, free: &mut Vec<u64>, rng: &mut Rng) -> Option<Vec<u64>> {
    let size = cluster.ids().len();
    let mut fitting: Vec<u64> = free.iter().copied().filter(|id| kind.fits(cluster, *id)).collect();
    rng.shuffle(&mut fitting);
    let count = match kind.victims(size) {
        Some(count) => count,
        None if free.len() < size => return None,
        None => size,
    };
    if fitting.len() < count {
        return None;
    }
    fitting.truncate(count);
    free.retain(|id| !fitting.contains(id));
    Some(fitting)
}
