//! The handle: how everybody else talks to the loop.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use kvd_raftpb::node::Membership;
use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler};
use raft::eraftpb::Message;

use crate::changes::{Answer, Wish};
use crate::error::Error;
use crate::event::{Events, Subscribers};
use crate::inbox::{Inbox, Report, Request};
use crate::leader_call;
use crate::membership::{self, ChangeOutcome, MembershipChange, MembershipRequest};
use crate::oversight::Progress;
use crate::proposal::Proposal;
use crate::read_index::Read;
use crate::session::Applied;
use crate::snapshot_requests::SnapshotRequest;

/// What a member is to the cluster at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// It orders the log.
    Leader,
    /// It votes and follows.
    #[default]
    Follower,
    /// It asks for votes.
    Candidate,
    /// It follows without a vote, until it has caught up.
    Learner,
}

/// A member as of the end of the loop's last turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// This member's id.
    pub id: u64,
    /// The cluster's id; 0 for a joiner that has no state yet.
    pub cluster_id: u64,
    /// This member's role.
    pub role: Role,
    /// The leader's id, while one is known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The index up to which the log is known to be committed.
    pub commit: u64,
    /// The index up to which the state machine has applied the log.
    pub applied: u64,
    /// The index of the newest snapshot.
    pub snapshot: u64,
    /// Whether the member list as of `applied` contains this member.
    pub is_member: bool,
    /// How old the local state may be: everything that was committed longer ago has been applied. To within a tick.
    /// `None` before the first linearizable read. See [`Handle::staleness`].
    pub staleness: Option<Duration>,
}

/// How old the proof of freshness may grow before [`Handle::staleness`] asks for a new one.
pub(crate) const REFRESH: Duration = Duration::from_secs(1);

/// What the loop shows to its handles.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) subscribers: Subscribers,
    /// A read was sent to renew the proof of freshness, and has not done so yet.
    pub(crate) refreshing: bool,
    pub(crate) status: Status,
    pub(crate) membership: Arc<Membership>,
    pub(crate) progress: Arc<[Progress]>,
}

/// The queues without the type of what a snapshot restores to, so that handles have no type parameter.
pub(crate) trait Requests: Send + Sync {
    fn propose(&self, proposal: Proposal) -> Result<(), Error>;
    fn read(&self, read: Read) -> Result<(), Error>;
    fn change(&self, change: Request) -> Result<(), Error>;
    fn snapshot(&self, request: SnapshotRequest) -> Result<(), Error>;
    fn deliver(&self, from: u64, message: Message);
    fn report(&self, report: Report);
    fn shut_down(&self);
}

impl<R: Send> Requests for Inbox<R> {
    fn propose(&self, proposal: Proposal) -> Result<(), Error> {
        Inbox::propose(self, proposal)
    }
    fn read(&self, read: Read) -> Result<(), Error> {
        Inbox::read(self, read)
    }
    fn change(&self, change: Request) -> Result<(), Error> {
        Inbox::change(self, change)
    }
    fn snapshot(&self, request: SnapshotRequest) -> Result<(), Error> {
        Inbox::snapshot(self, request)
    }
    fn deliver(&self, from: u64, message: Message) {
        Inbox::deliver(self, from, message);
    }
    fn report(&self, report: Report) {
        Inbox::report(self, report);
    }
    fn shut_down(&self) {
        Inbox::shut_down(self);
    }
}

/// Talks to a running node. Cheap to clone; every method may be called from any thread, and none blocks.
///
/// Each request gets exactly one answer: its result, or the [`Error`] that says what is known. Dropping a future gives
/// up the answer, not the request.
#[derive(Clone)]
pub struct Handle {
    pub(crate) requests: Arc<dyn Requests>,
    pub(crate) shown: Arc<Mutex<Shown>>,
}

impl Handle {
    /// Proposes a command, and waits until it has been committed and applied here.
    ///
    /// `payload` is the state machine's command, at most [`crate::Limits::command_bytes`] long. While there is no
    /// leader it waits for one, up to `timeout`. It is applied at most once, however often it has to be sent again.
    ///
    /// # Errors
    /// See [`Error`]; only after [`Error::Unknown`] may the command still be applied.
    pub fn propose(
        &self,
        payload: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<Applied, Error>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.propose(Proposal { payload, timeout, reply });
        let gone = Error::Unknown { reason: "the member stopped" };
        async move {
            match sent {
                Ok(()) => answer.await.unwrap_or(Err(gone)),
                Err(error) => Err(error),
            }
        }
    }

    /// Waits until this member has applied everything that was committed anywhere when the call was made. A read of
    /// the state after that is linearizable. Resolves to the applied index.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if no leader confirmed it within `timeout`; [`Error::Overloaded`]; [`Error::Stopped`] and
    /// [`Error::Removed`].
    pub fn read_index(&self, timeout: Duration) -> impl Future<Output = Result<u64, Error>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.read(Read { timeout, reply });
        async move {
            match sent {
                Ok(()) => answer.await.unwrap_or(Err(Error::Stopped)),
                Err(error) => Err(error),
            }
        }
    }

    /// Changes the membership, and waits until the change is part of the configuration here. Any member may be asked.
    ///
    /// # Errors
    /// As [`Handle::change_members`].
    pub fn change_membership(
        &self,
        change: MembershipChange,
        timeout: Duration,
    ) -> impl Future<Output = Result<ChangeOutcome, Error>> + Send + use<> {
        self.change_members(change.into(), timeout)
    }

    /// Changes several members at once, by joint consensus: all of it happens or none. Waits until it is part of the
    /// configuration here. Any member may be asked; the leader makes one change after the other.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason, and those of [`Handle::propose`].
    pub fn change_members(
        &self,
        request: MembershipRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<ChangeOutcome, Error>> + Send + use<> {
        let checked = membership::check(&request).map_err(Error::Refused);
        let answer = checked.map(|()| self.ask(Wish::Change(request), timeout, false, false));
        async move {
            match answer?.await? {
                Answer::Changed(outcome) => Ok(outcome),
                Answer::Leads(_) => Err(Error::Unknown { reason: "the leader answered another question" }),
            }
        }
    }

    /// Makes member `to` lead, or whoever has the longest log, and waits until it does. Any member may be asked. Resolves
    /// to the leader.
    ///
    /// # Errors
    /// [`Error::Refused`] if that member cannot lead or did not take over, and those of [`Handle::propose`].
    pub fn transfer_leadership(
        &self,
        to: Option<u64>,
        timeout: Duration,
    ) -> impl Future<Output = Result<u64, Error>> + Send + use<> {
        let answer = self.ask(Wish::Transfer(to), timeout, false, false);
        async move {
            match answer.await? {
                Answer::Leads(id) => Ok(id),
                Answer::Changed(_) => Err(Error::Unknown { reason: "the leader answered another question" }),
            }
        }
    }

    fn ask(
        &self,
        wish: Wish,
        timeout: Duration,
        of_peer: bool,
        again: bool,
    ) -> impl Future<Output = Result<Answer, Error>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.change(Request { wish, timeout, of_peer, again, reply });
        let gone = Error::Unknown { reason: "the member stopped" };
        async move {
            match sent {
                Ok(()) => answer.await.unwrap_or(Err(gone)),
                Err(error) => Err(error),
            }
        }
    }

    /// Has this member take a snapshot, and waits until one is on record that holds everything which was applied here
    /// when the request arrived. Resolves to its index. If it is on record already, nothing is written.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it was not on record within `timeout`: it may be under way. [`Error::Overloaded`];
    /// [`Error::Stopped`] and [`Error::Removed`].
    pub fn snapshot(&self, timeout: Duration) -> impl Future<Output = Result<u64, Error>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.snapshot(SnapshotRequest { timeout, reply });
        async move {
            match sent {
                Ok(()) => answer.await.unwrap_or(Err(Error::Stopped)),
                Err(error) => Err(error),
            }
        }
    }

    /// What this member knows of the others as their leader, as of its last tick. Empty if it does not lead.
    pub fn progress(&self) -> Arc<[Progress]> {
        self.shown().progress.clone()
    }

    /// The member as of the end of the loop's last turn.
    pub fn status(&self) -> Status {
        self.shown().status.clone()
    }

    /// Subscribes to what happens at this member from now on.
    pub fn events(&self) -> Events {
        self.shown().subscribers.add()
    }

    /// How old a read of the local state may be: everything that was committed longer ago than this has been applied
    /// here, to within a tick. `None` while nothing proves it. The only clock is the ticks': a process that stood still
    /// shows the bound that it had before, until its next tick.
    ///
    /// Every linearizable read renews the proof. If the last one is more than a second ago this asks for one, without
    /// waiting for it: so whoever goes on reading stale soon learns a bound.
    pub fn staleness(&self) -> Option<Duration> {
        let mut shown = self.shown();
        let staleness = shown.status.staleness;
        if staleness.is_none_or(|age| age >= REFRESH) && !shown.refreshing {
            let (reply, _) = oneshot::channel();
            shown.refreshing = self.requests.read(Read { timeout: REFRESH, reply }).is_ok();
        }
        staleness
    }

    /// The member list as of the applied index. Empty for a joiner that has no state yet.
    pub fn membership(&self) -> Arc<Membership> {
        self.shown().membership.clone()
    }

    /// Stops the member: refuses new requests, finishes those in flight, hands leadership over, closes the log.
    /// Returns at once; the end is the end of [`crate::Node::run`].
    pub fn shutdown(&self) {
        self.requests.shut_down();
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerHandler for Handle {
    fn deliver(&self, from: u64, message: Message) {
        self.requests.deliver(from, message);
    }

    fn report_unreachable(&self, id: u64) {
        self.requests.report(Report::Unreachable(id));
    }

    fn report_snapshot(&self, id: u64, received: bool) {
        self.requests.report(Report::Snapshot { to: id, received });
    }

    fn removed(&self) {
        self.requests.report(Report::Removed);
    }

    fn membership(&self) -> Option<Membership> {
        Some((*Handle::membership(self)).clone()).filter(|list| !list.members.is_empty())
    }

    fn answer(&self, _from: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        match leader_call::decode_request(request) {
            Ok((wish, again)) => {
                let answer = self.ask(wish, limit, true, again);
                Box::pin(async move { leader_call::encode_answer(answer.await) })
            }
            Err(why) => Box::pin(std::future::ready(Err(CallError::not_done(why)))),
        }
    }
}
