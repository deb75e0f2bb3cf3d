//! What all tasks of a transport share: the directory of members, the seams, and the means to end it all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use kvd_raftpb::peers::{PeerHandler, SnapshotStore};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::identity::Refusal;
use crate::metrics::Metrics;
use crate::peer::Peer;

/// Who is a member, who was one.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) peers: BTreeMap<u64, Arc<Peer>>,
    pub(crate) removed: BTreeSet<u64>,
}

/// The time by this machine's clock. Zero for a clock before 1970.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) handler: Arc<dyn PeerHandler>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) metrics: Metrics,
    /// When this transport started, in milliseconds since 1970: see [`crate::order::Place`].
    pub(crate) boot: u64,
    pub(crate) tracker: TaskTracker,
    /// The transport stops: nothing new begins, streams write out what is queued.
    pub(crate) halt: CancellationToken,
    /// The time for that is over.
    pub(crate) kill: CancellationToken,
    /// One permit for each connection that the listener may hold.
    pub(crate) connections: Arc<Semaphore>,
    /// The one permit to receive a snapshot: two at once would only delay each other.
    pub(crate) receiving: Arc<Semaphore>,
    /// One permit for each call to others that may be under way.
    pub(crate) calling: Arc<Semaphore>,
    /// One permit for each call of others that may be under way.
    pub(crate) answering: Arc<Semaphore>,
    runtime: Handle,
    directory: RwLock<Directory>,
    told_removed: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        handler: Arc<dyn PeerHandler>,
        snapshots: Arc<dyn SnapshotStore>,
        runtime: Handle,
    ) -> Shared {
        Shared {
            connections: Arc::new(Semaphore::new(config.max_connections)),
            receiving: Arc::new(Semaphore::new(1)),
            calling: Arc::new(Semaphore::new(config.max_calls)),
            answering: Arc::new(Semaphore::new(config.max_calls)),
            config,
            boot: since_1970().as_millis().try_into().unwrap_or(u64::MAX),
            handler,
            snapshots,
            metrics: Metrics::default(),
            tracker: TaskTracker::new(),
            halt: CancellationToken::new(),
            kill: CancellationToken::new(),
            runtime,
            directory: RwLock::default(),
            told_removed: AtomicBool::new(false),
        }
    }

    pub(crate) fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn directory_mut(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task that [`crate::Transport::stop`] waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Runs a closure that blocks on a thread of its own, and that [`crate::Transport::stop`] waits for.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn_blocking_on(work, &self.runtime)
    }

    /// The peer of that id, or why it gets nothing: 410 if it was removed, 404 if it is not a member (yet).
    pub(crate) fn member(&self, id: u64) -> Result<Arc<Peer>, Refusal> {
        let directory = self.directory();
        if directory.removed.contains(&id) {
            return Err(Refusal::new(
                StatusCode::GONE,
                format!("member {id} was removed from the cluster; add it again under a new id"),
            ));
        }
        directory.peers.get(&id).cloned().ok_or_else(|| {
            Refusal::new(StatusCode::NOT_FOUND, format!("{id} is not a member of the cluster yet"))
        })
    }

    /// A peer answered that this member was removed. The handler learns of it once.
    pub(crate) fn was_removed(&self, by: u64, reason: &str) {
        if !self.told_removed.swap(true, Ordering::Relaxed) {
            tracing::warn!(peer = by, reason, "this member was removed from the cluster");
            self.handler.removed();
        }
    }
}
