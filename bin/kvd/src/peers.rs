//! Whom this member can reach: the members that its log knows, and those that others told it of.
//!
//! A member that was away for long knows the members of long ago. If the cluster's leader is none of them, the two would
//! never connect, and the log that could tell of it would never arrive. So while no leader is known, the others are asked
//! for their list, and who is on it counts as a peer until this member's own log has caught up with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kvd_node::{Handle, Member, Membership};
use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler as _, Peers};
use kvd_transport::Transport;
use raft::eraftpb::Message;
use tokio::time::sleep;

/// How long a member is without a leader before it asks, and between two times.
const ASK_AFTER: Duration = Duration::from_secs(3);
/// How long it tries each time.
const ASK_FOR: Duration = Duration::from_secs(2);

/// The member list of the log, and what others told.
#[derive(Debug, Default)]
struct Lists {
    own: Membership,
    /// Members on somebody's list that the own list has neither as members nor as removed.
    told: Vec<Member>,
}

impl Lists {
    /// The log's list changed: what it knows now need not be told any more.
    fn own(&mut self, list: &Membership) {
        self.own = list.clone();
        let Self { own, told } = self;
        told.retain(|member| is_news(own, member.id));
    }

    /// Somebody told of these members.
    fn tell(&mut self, members: &[Member]) {
        self.told = members.iter().filter(|member| is_news(&self.own, member.id)).cloned().collect();
    }

    fn union(&self) -> Membership {
        let mut all = self.own.clone();
        all.members.extend(self.told.iter().cloned());
        all.members.sort_by_key(|member| member.id);
        all
    }
}

fn is_news(list: &Membership, id: u64) -> bool {
    list.members.iter().all(|member| member.id != id) && !list.removed.contains(&id)
}

/// The transport, with the peers that this member was told of.
#[derive(Debug, Clone)]
pub struct KnownPeers {
    transport: Transport,
    lists: Arc<Mutex<Lists>>,
}

impl KnownPeers {
    /// Peers are those of `own`, the log's list, and those of `told`.
    #[must_use]
    pub fn new(transport: Transport, own: &Membership, told: &[Member]) -> Self {
        let peers = Self { transport, lists: Arc::default() };
        let union = {
            let mut lists = peers.lock();
            lists.own(own);
            lists.tell(told);
            lists.union()
        };
        peers.transport.update(&union);
        peers
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the others for their list whenever no leader is known for a while. Never ends.
    pub async fn ask_while_lost(self, handle: Handle, seeds: Vec<String>) {
        let id = handle.status().id;
        loop {
            sleep(ASK_AFTER).await;
            if handle.status().leader.is_some() {
                continue;
            }
            let mut urls: Vec<String> = self
                .lock()
                .union()
                .members
                .into_iter()
                .filter(|m| m.id != id)
                .flat_map(|m| m.peer_urls)
                .collect();
            urls.extend(seeds.iter().cloned());
            urls.sort_unstable();
            urls.dedup();
            match kvd_transport::fetch_membership(&urls, id, ASK_FOR).await {
                Ok(list) => {
                    let union = {
                        let mut lists = self.lock();
                        lists.tell(&list.members);
                        lists.union()
                    };
                    self.transport.update(&union);
                }
                Err(kvd_transport::Error::Removed { .. }) => handle.removed(),
                Err(error) => tracing::warn!(%error, "no leader is known, and no member list is to be had"),
            }
        }
    }
}

impl Peers for KnownPeers {
    fn send(&self, messages: Vec<Message>) {
        self.transport.send(messages);
    }

    fn update(&self, membership: &Membership) {
        let union = {
            let mut lists = self.lock();
            lists.own(membership);
            lists.union()
        };
        self.transport.update(&union);
    }

    fn call(&self, to: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        self.transport.call(to, request, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member { id, peer_urls: vec![format!("http://127.0.0.1:{id}")], ..Member::default() }
    }

    fn list(members: &[u64], removed: &[u64]) -> Membership {
        Membership {
            cluster_id: 1,
            members: members.iter().map(|id| member(*id)).collect(),
            removed: removed.to_vec(),
        }
    }

    fn ids(list: &Membership) -> Vec<u64> {
        list.members.iter().map(|member| member.id).collect()
    }

    #[test]
    fn who_others_tell_of_counts_until_the_own_log_knows() {
        let mut lists = Lists::default();
        lists.own(&list(&[1, 2, 3], &[]));
        lists.tell(&list(&[1, 3, 4, 5], &[]).members);
        assert_eq!(ids(&lists.union()), [1, 2, 3, 4, 5]);
        // An older list than the one that was told, on the way there.
        lists.own(&list(&[1, 3], &[2]));
        assert_eq!(ids(&lists.union()), [1, 3, 4, 5]);
        lists.own(&list(&[1, 3, 4], &[2]));
        assert_eq!(ids(&lists.union()), [1, 3, 4, 5]);
        lists.own(&list(&[1, 3, 4], &[2, 5]));
        assert_eq!(ids(&lists.union()), [1, 3, 4]);
    }

    #[test]
    fn nobody_is_told_back_who_was_removed() {
        let mut lists = Lists::default();
        lists.own(&list(&[1, 2], &[3]));
        lists.tell(&list(&[1, 2, 3], &[]).members);
        assert_eq!(ids(&lists.union()), [1, 2]);
    }
}
