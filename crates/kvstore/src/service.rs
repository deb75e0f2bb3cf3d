//! The service around the state machine: what every front door calls.
//!
//! A write is a [`Command`] that the node proposes; its response comes back from this member's own apply, so an
//! acknowledged write can be read here at once. A linearizable read asks the node for a read index, waits until that
//! much is applied, and then looks the key up under the read lock. A request waits up to [`Service::with_timeout`]'s
//! deadline (5 s by default), for a leader among other things, and then fails.

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;
use kvd_node::{ChangeOutcome, Handle, MembershipChange};

use crate::command::{Command, Response};
use crate::door::{Age, Consistency, Door, Error, Limits, Reading, Status};
use crate::store::{Deleted, Shared, Store, Written};

/// How long a request waits before it fails, unless a service was told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The store of one member, for front doors. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Service {
    handle: Handle,
    store: Shared,
    timeout: Duration,
    limits: Limits,
}

impl Service {
    /// A service that proposes through `handle` and reads `store`, which the node's [`Kv`](crate::Kv) writes.
    #[must_use]
    pub fn new(handle: Handle, store: Shared) -> Self {
        Self { handle, store, timeout: DEFAULT_TIMEOUT, limits: Limits::default() }
    }

    /// The same service with another deadline for its requests.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same service with other limits; none above [`crate::command::FORMAT_KEY_BYTES`] and
    /// [`crate::command::FORMAT_VALUE_BYTES`], which hold in any case.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        let key_bytes = limits.key_bytes.min(crate::command::FORMAT_KEY_BYTES);
        let value_bytes = limits.value_bytes.min(crate::command::FORMAT_VALUE_BYTES);
        Self { limits: Limits { key_bytes, value_bytes }, ..self }
    }

    // For `admin.rs`.

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn store(&self) -> &Shared {
        &self.store
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn change(&self, change: MembershipChange) -> Result<(), Error> {
        match self.handle.change_membership(change, self.timeout).await.map_err(of_node)? {
            ChangeOutcome::Applied { .. } | ChangeOutcome::AlreadySo => Ok(()),
        }
    }
}

impl Door for Service {
    async fn put(&self, key: Bytes, value: Bytes) -> Result<Written, Error> {
        match self.propose(Command::Put { key, value }).await? {
            Response::Put(written) => Ok(written),
            _ => Err(Error::BadResponse),
        }
    }

    async fn delete(&self, key: Bytes) -> Result<Deleted, Error> {
        match self.propose(Command::Delete { key }).await? {
            Response::Delete(deleted) => Ok(deleted),
            _ => Err(Error::BadResponse),
        }
    }

    fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Response, Error>> + Send + 'static + use<> {
        let limits = self.limits;
        let proposed =
            self.limits.check_command(&command).map(|()| self.handle.propose(command.encode(), self.timeout));
        async move {
            let applied = proposed?.await.map_err(of_node)?;
            Response::decode(applied.response).ok_or(Error::BadResponse)?.accepted(&limits)
        }
    }

    fn local(&self) -> impl Deref<Target = Store> {
        self.store.read()
    }

    async fn get(&self, key: Bytes, how: Consistency) -> Result<Reading, Error> {
        self.limits.check_key(&key)?;
        let age = match how {
            Consistency::Linearizable => {
                self.confirm(self.timeout).await?;
                Age::Current
            }
            Consistency::Stale => self.handle.staleness().map_or(Age::Unknown, Age::AtMost),
        };
        let store = self.store.read();
        Ok(Reading { revision: store.revision(), record: store.get(&key).cloned(), age })
    }

    fn confirm(&self, timeout: Duration) -> impl Future<Output = Result<(), Error>> + Send {
        let index = self.handle.read_index(timeout);
        async move { index.await.map(drop).map_err(of_node) }
    }

    async fn add_member(&self, id: u64, peer_url: &str) -> Result<(), Error> {
        self.change(MembershipChange::Add { id, peer_urls: vec![peer_url.to_owned()] }).await
    }

    async fn remove_member(&self, id: u64) -> Result<(), Error> {
        self.change(MembershipChange::Remove { id }).await
    }

    fn snapshot(&self, timeout: Duration) -> impl Future<Output = Result<u64, Error>> + Send {
        let index = self.handle.snapshot(timeout);
        async move { index.await.map_err(of_node) }
    }

    fn status(&self) -> Status {
        let kvd_node::Status { id, cluster_id, leader, term, applied, is_member, .. } = self.handle.status();
        Status { id, cluster_id, leader, term, applied, member: is_member }
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

pub(crate) fn of_node(error: kvd_node::Error) -> Error {
    match error {
        kvd_node::Error::Overloaded => Error::Overloaded,
        kvd_node::Error::NoLeader => Error::NoLeader,
        kvd_node::Error::NoSpace => Error::NoSpace,
        kvd_node::Error::Unknown { reason } => Error::Unknown { reason },
        kvd_node::Error::TooLarge { len, limit } => Error::RequestTooLarge { len, limit },
        kvd_node::Error::Stopped => Error::Stopped,
        kvd_node::Error::Removed => Error::Removed,
        kvd_node::Error::Refused(refusal) => Error::Membership(refusal),
    }
}
