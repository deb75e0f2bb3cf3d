//! One peer: its outboxes, its URLs, and what ends its tasks.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard};

use kvd_raftpb::peer_url::PeerUrl;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::lock;
use crate::metrics::PeerMetrics;
use crate::order::Inbound;
use crate::outbox::{Class, Outbox};

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
    /// A snapshot is on its way: the next one must wait.
    pub(crate) sending_snapshot: AtomicBool,
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
            cancel,
            sending_snapshot: AtomicBool::new(false),
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
