//! The kinds of faults that the nemesis brings about.

use std::fmt;

macro_rules! faults {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A kind of fault. It counts when it has had an effect, not when it was asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $what])+ $name,)+
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
        }
    };
}

faults! {
    /// A member loses power: any legal subset of what it had not synced survives.
    PowerLoss,
    /// All members lose power at once.
    PowerLossOfAll,
    /// A member loses power, and again in the middle of its recovery.
    PowerLossAtStart,
    /// A member's process is killed, perhaps in the middle of a file operation; its disk goes on.
    Kill,
    /// A member is told to stop.
    Shutdown,
    /// A member's process stands still for a while.
    Pause,
    /// A member cannot reach the others, nor they it.
    Isolate,
    /// The members fall apart into two groups.
    Split,
    /// The members fall apart into two groups, but for one that sees both.
    Bridge,
    /// Some links work in one direction only.
    OneWay,
    /// A member's disk is slow, or does not answer for a while.
    SlowDisk,
    /// A sync or a write of a member's disk fails.
    FailedSync,
    /// A member's disk is full until somebody makes room.
    FullDisk,
    /// A bit of what is durable flips on one member's disk.
    Rot,
    /// A member's clock stands still for a while and then jumps ahead, or jumps ahead at once.
    ClockJump,
    /// A member's clock runs up to five times too fast or too slow for a while.
    ClockDrift,
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
    /// A member is killed or loses power in the middle of writing, receiving or reading a snapshot.
    SnapshotInterrupted,
    /// A member joins: as a learner, which the leader promotes.
    Join,
    /// A member is removed, whatever it is at the moment.
    Leave,
    /// A member is replaced by a new one in a single change, by joint consensus.
    Replace,
    /// Another member is asked to lead.
    Transfer,
}

impl Fault {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|fault| fault.to_string() == name)
    }

    /// How many members there must be.
    pub(crate) fn needs(self) -> u64 {
        use Fault::*;
        match self {
            Transfer | Isolate | Split | OneWay | Loss | Duplicates | Reordering | Delay
            | BrokenSnapshots => 2,
            Bridge | Rot | Leave | Replace => 3,
            _ => 1,
        }
    }

    /// Whether it leaves the leader's lease as safe as its documentation says: nothing stands still, no clock goes
    /// wrong, nobody forgets in a restart whom it has heard.
    pub(crate) fn spares_the_lease(self) -> bool {
        use Fault::*;
        matches!(
            self,
            Isolate
                | Split
                | Bridge
                | OneWay
                | SlowDisk
                | Loss
                | Duplicates
                | Reordering
                | Delay
                | BrokenSnapshots
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}
