//! What a front door may ask about the cluster: its members, their changes, who leads.
//!
//! Beside [`Door`], which is about keys, so that a door that has no use for this need not know of it.

use std::future::Future;
use std::time::Duration;

use crate::door::{Consistency, Door, Error};
use crate::service::{Service, of_node};

pub use kvd_node::{
    CatchUp, ChangeOutcome, MAX_CHANGES, MAX_REASON_BYTES, MembershipChange, MembershipRequest, Progress,
    Role,
};

/// The cluster as one member knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// Ascending by id.
    pub members: Vec<MemberInfo>,
    /// Ids that were removed and never come back, ascending.
    pub removed: Vec<u64>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub id: u64,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it, as far as it has said so.
    pub client_urls: Vec<String>,
    /// What it is to the cluster.
    pub standing: Standing,
    /// What the leader knows of it; `None` unless the leader was asked, and for the leader itself.
    pub progress: Option<Progress>,
}

/// What a member is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It votes.
    Voter,
    /// It follows without a vote.
    Learner,
    /// It is being removed together with another change, and has its place until that is finished.
    Leaving,
}

/// How one member is, as of the last turn of its loop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// What raft makes of it.
    pub role: Role,
    /// The leader of the term, if one is known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The index up to which the log is known to be committed.
    pub commit: u64,
    /// The index up to which it is applied.
    pub applied: u64,
    /// The index of the newest snapshot.
    pub snapshot: u64,
    /// Whether the member list contains it.
    pub member: bool,
    /// How old its state may be. `None` while nothing proves a bound.
    pub staleness: Option<Duration>,
    /// The store's revision.
    pub revision: u64,
    /// Keys in the store.
    pub keys: u64,
    /// Bytes of keys and values in the store.
    pub bytes: u64,
}

/// The cluster as a front door sees it. Calls resolve with exactly one answer, by their deadline; whichever member is
/// asked, the leader does it.
pub trait Admin: Door {
    /// The member list.
    fn members(&self, how: Consistency) -> impl Future<Output = Result<Members, Error>> + Send;

    /// Changes members, all of them or none; resolves once that is in force at this member.
    fn change_members(
        &self,
        request: MembershipRequest,
    ) -> impl Future<Output = Result<ChangeOutcome, Error>> + Send;

    /// Makes member `to` lead, or whoever has the longest log; resolves to the leader once it does.
    fn transfer_leadership(&self, to: Option<u64>) -> impl Future<Output = Result<u64, Error>> + Send;

    /// How this member is.
    fn member_status(&self) -> MemberStatus;
}

impl Admin for Service {
    async fn members(&self, how: Consistency) -> Result<Members, Error> {
        if how == Consistency::Linearizable {
            self.confirm(self.timeout()).await?;
        }
        let (list, progress) = (self.handle().membership(), self.handle().progress());
        let members = list.members.iter().map(|member| MemberInfo {
            id: member.id,
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            standing: match (member.leaving, member.learner) {
                (true, _) => Standing::Leaving,
                (false, true) => Standing::Learner,
                (false, false) => Standing::Voter,
            },
            progress: progress.iter().find(|progress| progress.id == member.id).cloned(),
        });
        Ok(Members {
            cluster_id: list.cluster_id,
            leader: self.handle().status().leader,
            members: members.collect(),
            removed: list.removed.clone(),
        })
    }

    async fn change_members(&self, request: MembershipRequest) -> Result<ChangeOutcome, Error> {
        self.handle().change_members(request, self.timeout()).await.map_err(of_node)
    }

    async fn transfer_leadership(&self, to: Option<u64>) -> Result<u64, Error> {
        self.handle().transfer_leadership(to, self.timeout()).await.map_err(of_node)
    }

    fn member_status(&self) -> MemberStatus {
        let status = self.handle().status();
        let store = self.store().read();
        MemberStatus {
            id: status.id,
            cluster_id: status.cluster_id,
            role: status.role,
            leader: status.leader,
            term: status.term,
            commit: status.commit,
            applied: status.applied,
            snapshot: status.snapshot,
            member: status.is_member,
            staleness: status.staleness,
            revision: store.revision(),
            keys: store.len() as u64,
            bytes: store.payload_bytes(),
        }
    }
}
