//! One peer: its outboxes, its URLs, and what ends its tasks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kvd_raftpb::peer_url::PeerUrl;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::lock;
use crate::metrics::PeerMetrics;
use crate::order::Inbound;
use crate::outbox::{Class, Outbox};
use crate::probe::Probed;

/// A peer at one moment, for people and for tests.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStatus {
    /// Its member id.
    pub id: u64,
    /// The URL that is in use; `None` if it has none.
    pub url: Option<PeerUrl>,
    /// It has dialled the stream that appends to it take.
    pub append_stream: bool,
    /// It has dialled the stream that all other messages to it take.
    pub message_stream: bool,
    /// How long the last probe took; `None` if it had no answer, or before the first.
    pub round_trip: Option<Duration>,
    /// By how many seconds its clock is ahead of ours (negative: behind), to within half a round trip; `None` while it
    /// never said.
    pub clock_ahead: Option<f64>,
    /// The snapshot on its way to it: bytes handed to the socket, and bytes in all.
    pub snapshot: Option<(u64, u64)>,
}

/// How far a snapshot is.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// Bytes that the socket has taken.
    pub(crate) sent: Arc<AtomicU64>,
    pub(crate) total: u64,
}

/// Another member.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    append: Outbox,
    message: Outbox,
    /// How far the peer has come in sending, by class.
    inbound: [Inbound; Class::ALL.len()],
    urls: Mutex<Urls>,
    /// Wakes dialers that wait: the URLs changed, or the peer has dialled us.
    pub(crate) kick: Notify,
    /// Ends dialers, readers and snapshot transfers.
    pub(crate) cancel: CancellationToken,
    /// The peer has said that this member was removed: it is not asked any more.
    pub(crate) gone: CancellationToken,
    /// A snapshot is on its way: the next one must wait.
    pub(crate) sending_snapshot: AtomicBool,
    /// How far the snapshot is that is on its way.
    progress: Mutex<Option<Progress>>,
    probed: Mutex<Probed>,
    pub(crate) metrics: PeerMetrics,
}

impl Peer {
    pub(crate) fn new(
        config: &Config,
        id: u64,
        urls: Vec<PeerUrl>,
        metrics: PeerMetrics,
        cancel: CancellationToken,
    ) -> Peer {
        Peer {
            id,
            append: Outbox::new(config.queue_messages, config.queue_bytes, 1),
            message: Outbox::new(config.queue_messages, config.queue_bytes, 3),
            inbound: Default::default(),
            urls: Mutex::new(Urls { list: urls, current: 0 }),
            kick: Notify::new(),
            gone: CancellationToken::new(),
            cancel,
            sending_snapshot: AtomicBool::new(false),
            progress: Mutex::default(),
            probed: Mutex::default(),
            metrics,
        }
    }

    pub(crate) fn outbox(&self, class: Class) -> &Outbox {
        match class {
            Class::Append => &self.append,
            Class::Message => &self.message,
        }
    }

    pub(crate) fn inbound(&self, class: Class) -> &Inbound {
        &self.inbound[class as usize]
    }

    /// Whether there is a URL to post to.
    pub(crate) fn has_url(&self) -> bool {
        self.urls().pick().is_some()
    }

    pub(crate) fn probed(&self) -> Probed {
        *lock(&self.probed)
    }

    pub(crate) fn set_probed(&self, probed: Probed) {
        *lock(&self.probed) = probed;
    }

    pub(crate) fn set_progress(&self, progress: Option<Progress>) {
        *lock(&self.progress) = progress;
    }

    /// What there is to see of the peer.
    pub(crate) fn status(&self) -> PeerStatus {
        let probed = self.probed();
        let progress = lock(&self.progress).clone();
        PeerStatus {
            id: self.id,
            url: self.url(),
            append_stream: self.append.has_stream(),
            message_stream: self.message.has_stream(),
            round_trip: probed.round_trip,
            clock_ahead: probed.clock_ahead,
            snapshot: progress.map(|progress| (progress.sent.load(Ordering::Relaxed), progress.total)),
        }
    }

    /// The URL to dial. It stays the same until it is called [`Peer::unreachable`].
    pub(crate) fn url(&self) -> Option<PeerUrl> {
        self.urls().pick().cloned()
    }

    /// Moves on from a URL that did not lead to the peer, unless that has been done.
    pub(crate) fn unreachable(&self, url: &PeerUrl) {
        self.urls().unreachable(url);
    }

    /// Sets the URLs. True if they are others than before.
    pub(crate) fn set_urls(&self, list: Vec<PeerUrl>) -> bool {
        let changed = self.urls().set(list);
        if changed {
            self.kick.notify_waiters();
        }
        changed
    }

    /// The peer is gone: its tasks end, and its streams once they have written what is queued.
    pub(crate) fn close(&self) {
        self.cancel.cancel();
        for class in Class::ALL {
            self.outbox(class).close();
        }
    }

    fn urls(&self) -> MutexGuard<'_, Urls> {
        lock(&self.urls)
    }
}

/// The URLs of a peer, and which of them is in use.
#[derive(Debug, Default)]
struct Urls {
    list: Vec<PeerUrl>,
    current: usize,
}

impl Urls {
    fn pick(&self) -> Option<&PeerUrl> {
        self.list.get(self.current)
    }

    fn unreachable(&mut self, url: &PeerUrl) {
        if self.pick() == Some(url) {
            self.current = (self.current + 1) % self.list.len();
        }
    }

    fn set(&mut self, list: Vec<PeerUrl>) -> bool {
        if self.list == list {
            return false;
        }
        // The URL in use stays in use if it is still listed.
        let current = self.pick().and_then(|used| list.iter().position(|url| url == used)).unwrap_or(0);
        *self = Urls { list, current };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(ports: &[u16]) -> Vec<PeerUrl> {
        ports.iter().map(|port| format!("http://127.0.0.1:{port}").parse().unwrap()).collect()
    }

    #[test]
    fn a_url_sticks_until_it_is_unreachable() {
        let list = urls(&[1, 2, 3]);
        let mut picker = Urls { list: list.clone(), current: 0 };
        assert_eq!(picker.pick(), Some(&list[0]));
        assert_eq!(picker.pick(), Some(&list[0]));
        picker.unreachable(&list[0]);
        picker.unreachable(&list[0]);
        assert_eq!(picker.pick(), Some(&list[1]), "two reports about one URL move on once");
        picker.unreachable(&list[1]);
        picker.unreachable(&list[2]);
        assert_eq!(picker.pick(), Some(&list[0]));
    }

    #[test]
    fn an_update_keeps_the_url_in_use() {
        let list = urls(&[1, 2]);
        let mut picker = Urls { list: list.clone(), current: 1 };
        assert!(!picker.set(list.clone()));
        assert!(picker.set(urls(&[3, 4, 2])));
        assert_eq!(picker.pick(), Some(&list[1]));
        assert!(picker.set(urls(&[5, 6])));
        assert_eq!(picker.pick(), Some(&urls(&[5])[0]));
        assert!(picker.set(vec![]));
        assert_eq!(picker.pick(), None);
        picker.unreachable(&list[0]);
        assert!(picker.set(urls(&[7])));
        assert_eq!(picker.pick(), Some(&urls(&[7])[0]));
    }
}
