//! The handle: starts, updates, sends, stops.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvd_raftpb::node::{Member, Membership};
use kvd_raftpb::peer_url::{PeerUrl, parse_peer_url};
use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler, Peers, SnapshotStore};
use raft::eraftpb::Message;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbox::{Class, Pushed};
use crate::outgoing::{Outgoing, share};
use crate::peer::Peer;
use crate::shared::Shared;
use crate::{call, pipeline, reader, server, snapshot_sender};

/// A running transport. Clones are handles to the same one.
///
/// Dropping the handles does not end it, [`Transport::stop`] does.
#[derive(Debug, Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

impl Transport {
    /// Starts dialling the members of `membership`, on the current tokio runtime. Any kind of runtime will do; it needs
    /// time and I/O enabled.
    ///
    /// # Panics
    /// If it is called outside of a tokio runtime.
    pub fn start(
        config: Config,
        handler: Arc<dyn PeerHandler>,
        snapshots: Arc<dyn SnapshotStore>,
        membership: &Membership,
    ) -> Transport {
        let shared = Arc::new(Shared::new(config.workable(), handler, snapshots, Handle::current()));
        let transport = Transport { shared };
        transport.update(membership);
        transport
    }

    /// Takes peers' connections from a bound listener, until [`Transport::stop`]. May be called for several listeners.
    pub fn serve(&self, listener: TcpListener) {
        self.shared.spawn(server::accept(self.shared.clone(), listener));
    }

    /// Ends the transport: no more messages are taken, streams write out what is queued (for a short time), and every
    /// task is joined. A snapshot on its way is given up and reported.
    ///
    /// It waits for a [`SnapshotStore`] that is in a call: the call must end.
    pub async fn stop(&self) {
        let shared = &self.shared;
        shared.halt.cancel();
        for peer in shared.directory().peers.values() {
            peer.close();
        }
        shared.tracker.close();
        let written = timeout(shared.config.stop_grace, shared.tracker.wait()).await;
        shared.kill.cancel();
        if written.is_err() {
            shared.tracker.wait().await;
        }
    }

    /// What the transport counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Tasks and blocking calls that are under way. Zero after [`Transport::stop`].
    pub fn tasks(&self) -> usize {
        self.shared.tracker.len()
    }
}

impl Transport {
    fn send_snapshot(&self, message: Message) {
        let shared = &self.shared;
        let to = message.to;
        let peer = shared.directory().peers.get(&to).cloned();
        if peer.is_none() {
            shared.metrics.unknown_recipients.inc();
        }
        match peer {
            Some(peer) if !shared.halt.is_cancelled() => snapshot_sender::start(shared, peer, message),
            _ => shared.handler.report_snapshot(to, false),
        }
    }
}

impl Peers for Transport {
    fn send(&self, messages: Vec<Message>) {
        let shared = &self.shared;
        // The handler is called when no lock is held: it may come back to the transport.
        let mut unreachable: Vec<u64> = Vec::new();
        let mut snapshots: Vec<Message> = Vec::new();
        let entries = share(&messages);
        let directory = shared.directory();
        for (message, entries) in messages.into_iter().zip(entries) {
            let to = message.to;
            let Some(class) = Class::of(&message) else {
                snapshots.push(message);
                continue;
            };
            let Some(peer) = directory.peers.get(&to) else {
                shared.metrics.unknown_recipients.inc();
                continue;
            };
            let outgoing = Outgoing::new(message, entries);
            match peer.outbox(class).push(outgoing, || peer.has_url()) {
                Ok(Pushed::Queued) => {}
                Ok(Pushed::NeedsPoster) => pipeline::start(shared, peer.clone(), class),
                Err(dropped) => {
                    peer.metrics.dropped(dropped.reason, 1);
                    if dropped.report && !unreachable.contains(&to) {
                        unreachable.push(to);
                    }
                }
            }
        }
        drop(directory);
        for id in unreachable {
            shared.handler.report_unreachable(id);
        }
        for message in snapshots {
            self.send_snapshot(message);
        }
    }

    fn update(&self, membership: &Membership) {
        let shared = &self.shared;
        let own = shared.config.member_id;
        let mut added = Vec::new();
        let mut gone = Vec::new();
        {
            let mut directory = shared.directory_mut();
            // Checked under the lock that stop takes after it has set this: no peer escapes it.
            if shared.halt.is_cancelled() {
                return;
            }
            directory.removed.extend(&membership.removed);
            let wanted = |id| {
                id != own
                    && membership.members.iter().any(|m| m.id == id)
                    && !membership.removed.contains(&id)
            };
            directory.peers.retain(|id, peer| {
                let stays = wanted(*id);
                if !stays {
                    gone.push(peer.clone());
                }
                stays
            });
            for member in membership.members.iter().filter(|member| wanted(member.id)) {
                let urls = urls(member);
                if let Some(peer) = directory.peers.get(&member.id) {
                    peer.set_urls(urls);
                    continue;
                }
                let metrics = shared.metrics.peer(own, member.id);
                let peer = Peer::new(&shared.config, member.id, urls, metrics, shared.halt.child_token());
                let peer = Arc::new(peer);
                directory.peers.insert(member.id, peer.clone());
                added.push(peer);
            }
        }
        for peer in gone {
            tracing::info!(peer = peer.id, "peer dropped");
            peer.close();
            shared.metrics.forget_peer(own, peer.id);
        }
        for peer in added {
            tracing::info!(peer = peer.id, "peer added");
            for class in Class::ALL {
                shared.spawn(reader::run(shared.clone(), peer.clone(), class));
            }
        }
    }

    fn call(&self, to: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        call::start(&self.shared, to, request, limit)
    }
}

/// The usable URLs of a member. One that is not was never accepted by this version; the others still serve.
fn urls(member: &Member) -> Vec<PeerUrl> {
    let parse = |url: &String| {
        parse_peer_url(url).inspect_err(|error| tracing::warn!(peer = member.id, %error, "URL ignored")).ok()
    };
    member.peer_urls.iter().filter_map(parse).collect()
}
