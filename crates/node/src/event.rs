//! What a member has to say of itself: changes, and conditions that an operator wants to know of.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_channel::mpsc;

/// Events that a subscriber may leave unread; more are dropped for it.
pub const UNREAD_EVENTS: usize = 256;

/// A write to the log that takes longer than this is slow.
const SLOW_WRITE: Duration = Duration::from_millis(500);
/// This many committed entries that are not applied are a backlog.
const APPLY_BACKLOG: u64 = 4096;
/// A follower this many entries behind the leader's commit index lags.
const PEER_BACKLOG: u64 = 4096;

/// Something that happened at a member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A leader is known, in this term.
    Leader {
        /// raft's term.
        term: u64,
        /// The leader's id; perhaps this member's own.
        leader: u64,
    },
    /// The member list changed.
    Members {
        /// The index of the entry, or of the snapshot.
        index: u64,
    },
    /// A snapshot is on record, and the log was cut behind it.
    SnapshotTaken {
        /// Its index.
        index: u64,
    },
    /// The leader's snapshot took the place of the state.
    SnapshotInstalled {
        /// Its index.
        index: u64,
    },
    /// A write to the log has been under way for long; said once for each such write.
    DiskSlow {
        /// For how long, so far.
        since: Duration,
    },
    /// The disk has no room for the next segment of the log: this member takes no commands.
    DiskFull,
    /// It has room again.
    DiskHasRoom,
    /// Many committed entries are not applied yet; said once until they are.
    ApplyBehind {
        /// How many.
        entries: u64,
    },
    /// A follower of this leader is far behind; said once until it has caught up.
    PeerLagging {
        /// The follower.
        peer: u64,
        /// How many committed entries it lacks.
        entries: u64,
    },
    /// It has caught up.
    PeerCaughtUp {
        /// The follower.
        peer: u64,
    },
}

impl Event {
    /// Writes the event to the log of the program.
    pub(crate) fn log(&self) {
        match self {
            Event::Leader { term, leader } => tracing::info!(term, leader, "a leader is known"),
            // The core says who came and who went.
            Event::Members { index } => tracing::debug!(index, "the member list changed"),
            Event::SnapshotTaken { index } => tracing::info!(index, "snapshot taken, log cut behind it"),
            Event::SnapshotInstalled { index } => tracing::info!(index, "the leader's snapshot installed"),
            Event::DiskSlow { since } => {
                tracing::warn!(?since, "disk slow: a write to the log is not durable yet")
            }
            Event::DiskFull => tracing::error!(
                "disk full: no room for the next segment of the log, so this member takes no writes until there is; \
                 free some space on the file system of its data directory"
            ),
            Event::DiskHasRoom => tracing::info!("the disk has room again: this member takes writes"),
            Event::ApplyBehind { entries } => tracing::warn!(entries, "apply behind"),
            Event::PeerLagging { peer, entries } => tracing::warn!(peer, entries, "peer lagging"),
            Event::PeerCaughtUp { peer } => tracing::info!(peer, "peer caught up"),
        }
    }
}

/// A subscription. A stream of [`Event`]s, which ends with the member.
pub type Events = mpsc::Receiver<Event>;

/// Those who want to know.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(Vec<mpsc::Sender<Event>>);

impl Subscribers {
    pub(crate) fn add(&mut self) -> Events {
        let (sender, events) = mpsc::channel(UNREAD_EVENTS);
        self.0.push(sender);
        events
    }

    /// Tells everybody. Whoever does not read misses what does not fit, whoever has gone is forgotten.
    pub(crate) fn tell(&mut self, event: &Event) {
        self.0.retain_mut(|sender| match sender.try_send(event.clone()) {
            Ok(()) => true,
            Err(error) => error.is_full(),
        });
    }
}

/// What the watchdog looks at, once a tick.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// The oldest write that is not durable yet: its number, and for how long.
    pub(crate) write: Option<(u64, Duration)>,
    /// Committed and not applied.
    pub(crate) apply_backlog: u64,
    /// Followers and the committed entries that each lacks; empty unless this member leads.
    pub(crate) peers: Vec<(u64, u64)>,
}

/// Turns conditions into events, each once for as long as it lasts.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    slow_write: u64,
    apply_behind: bool,
    lagging: BTreeSet<u64>,
}

impl Watchdog {
    pub(crate) fn look(&mut self, sight: &Sight, events: &mut Vec<Event>) {
        if let Some((seq, since)) = sight.write
            && since >= SLOW_WRITE
            && seq > self.slow_write
        {
            self.slow_write = seq;
            events.push(Event::DiskSlow { since });
        }
        let behind = sight.apply_backlog >= APPLY_BACKLOG;
        if behind && !self.apply_behind {
            events.push(Event::ApplyBehind { entries: sight.apply_backlog });
        }
        self.apply_behind = behind;
        self.lagging.retain(|lagging| sight.peers.iter().any(|(peer, _)| peer == lagging));
        for &(peer, entries) in &sight.peers {
            if entries >= PEER_BACKLOG && self.lagging.insert(peer) {
                events.push(Event::PeerLagging { peer, entries });
            // Not at the same number: a follower on the edge would be news at every tick.
            } else if entries < PEER_BACKLOG / 4 && self.lagging.remove(&peer) {
                events.push(Event::PeerCaughtUp { peer });
            }
        }
    }

    /// Followers that lag.
    pub(crate) fn lagging(&self) -> usize {
        self.lagging.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(watchdog: &mut Watchdog, sight: Sight) -> Vec<Event> {
        let mut events = Vec::new();
        watchdog.look(&sight, &mut events);
        events
    }

    #[test]
    fn a_slow_write_is_said_once() {
        let mut watchdog = Watchdog::default();
        let write =
            |seq, millis| Sight { write: Some((seq, Duration::from_millis(millis))), ..Sight::default() };
        assert_eq!(look(&mut watchdog, write(1, 499)), []);
        let slow = Event::DiskSlow { since: SLOW_WRITE };
        assert_eq!(look(&mut watchdog, write(1, 500)), std::slice::from_ref(&slow));
        assert_eq!(look(&mut watchdog, write(1, 900)), []);
        assert_eq!(look(&mut watchdog, Sight::default()), []);
        assert_eq!(look(&mut watchdog, write(2, 500)), [slow]);
    }

    #[test]
    fn a_backlog_of_apply_is_said_once_until_it_is_gone() {
        let mut watchdog = Watchdog::default();
        let apply = |apply_backlog| Sight { apply_backlog, ..Sight::default() };
        assert_eq!(look(&mut watchdog, apply(APPLY_BACKLOG - 1)), []);
        let behind = Event::ApplyBehind { entries: APPLY_BACKLOG };
        assert_eq!(look(&mut watchdog, apply(APPLY_BACKLOG)), std::slice::from_ref(&behind));
        assert_eq!(look(&mut watchdog, apply(APPLY_BACKLOG + 1)), []);
        assert_eq!(look(&mut watchdog, apply(0)), []);
        assert_eq!(look(&mut watchdog, apply(APPLY_BACKLOG)), [behind]);
    }

    #[test]
    fn a_lagging_peer_is_said_once_until_it_has_caught_up_or_gone() {
        let mut watchdog = Watchdog::default();
        let peer = |entries| Sight { peers: vec![(2, entries)], ..Sight::default() };
        assert_eq!(look(&mut watchdog, peer(PEER_BACKLOG - 1)), []);
        let lagging = Event::PeerLagging { peer: 2, entries: PEER_BACKLOG };
        assert_eq!(look(&mut watchdog, peer(PEER_BACKLOG)), std::slice::from_ref(&lagging));
        assert_eq!(look(&mut watchdog, peer(PEER_BACKLOG / 4)), []);
        assert_eq!(watchdog.lagging(), 1);
        assert_eq!(look(&mut watchdog, peer(PEER_BACKLOG / 4 - 1)), [Event::PeerCaughtUp { peer: 2 }]);
        assert_eq!(look(&mut watchdog, peer(PEER_BACKLOG)), [lagging]);
        assert_eq!(look(&mut watchdog, Sight::default()), []);
        assert_eq!(watchdog.lagging(), 0);
    }

    #[test]
    fn a_subscriber_that_does_not_read_misses_the_rest_and_one_that_left_is_forgotten() {
        let mut subscribers = Subscribers::default();
        let mut slow = subscribers.add();
        drop(subscribers.add());
        for index in 0..UNREAD_EVENTS as u64 + 10 {
            subscribers.tell(&Event::Members { index });
        }
        assert_eq!(subscribers.0.len(), 1);
        let mut read = 0;
        while slow.try_recv().is_ok() {
            read += 1;
        }
        // The channel has a place for each sender besides its own.
        assert_eq!(read, UNREAD_EVENTS + 1);
    }
}
