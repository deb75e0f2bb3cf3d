//! What blocks, on threads of its own: the log (`log_threads.rs`), and snapshot files.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kvd_raftpb::peers::{BoxFuture, CallError, Peers};
use kvd_snap::Snapshotter;
use kvd_wal::{Fetch, LogReader, Wal};
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::changes::Ask;
use crate::core::Outside;
use crate::error::Fatal;
use crate::handle::Shown;
use crate::inbox::{Done, Inbox};
use crate::log_threads::{Job, Jobs, log_thread, read_thread};
use crate::metrics::Metrics;
use crate::ready::Write;
use crate::replicated::{self, Frozen, Restored};
use crate::state_machine::StateMachine;
use crate::throttle::{Pace as _, Stopping, Throttle};

/// How many snapshots stay on disk: the newest, and one to fall back to.
const SNAPSHOTS_KEPT: usize = 2;

type Mail<S> = Arc<Inbox<Restored<<S as StateMachine>::Restored>>>;

/// The real outside: threads for what blocks, and the peers.
pub(crate) struct Threads<S: StateMachine> {
    inbox: Mail<S>,
    peers: Arc<dyn Peers>,
    shown: Arc<std::sync::Mutex<Shown>>,
    snapshotter: Snapshotter,
    /// Bytes a second.
    snapshot_rate: u64,
    metrics: Metrics,
    jobs: Jobs,
    log: JoinHandle<()>,
    /// Set when the member stops: a snapshot that is being written is given up.
    stopping: Arc<Stopping>,
    reader: LogReader,
    /// The queue of the thread that reads the log back, once there was something to read.
    fetches: Option<mpsc::Sender<Fetch>>,
    /// Calls to the leader, each with its number. The loop polls them.
    questions: FuturesUnordered<BoxFuture<(u64, Result<Bytes, CallError>)>>,
    /// One for each file operation that is under way.
    helpers: BTreeMap<&'static str, JoinHandle<()>>,
}

impl<S: StateMachine> Threads<S> {
    pub(crate) fn start(
        wal: Wal,
        snapshotter: Snapshotter,
        snapshot_rate: u64,
        inbox: Mail<S>,
        peers: Arc<dyn Peers>,
        shown: Arc<std::sync::Mutex<Shown>>,
        metrics: Metrics,
    ) -> Result<Self, Fatal> {
        let (sender, receiver) = mpsc::channel();
        let reader = wal.reader();
        let log = {
            let metrics = metrics.clone();
            spawn("kvd-wal", inbox.clone(), move |inbox| {
                if let Err(error) = log_thread(wal, &receiver, inbox, &metrics) {
                    inbox.done(Done::Failed(error.into()));
                }
            })?
        };
        let jobs = Jobs::new(sender);
        Ok(Self {
            inbox,
            peers,
            shown,
            snapshotter,
            snapshot_rate,
            metrics,
            jobs,
            log,
            reader,
            fetches: None,
            questions: FuturesUnordered::new(),
            stopping: Arc::default(),
            helpers: BTreeMap::new(),
        })
    }

    /// Puts what the leader has answered into the inbox, and wakes the task when there is more.
    pub(crate) fn poll_questions(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some((number, answer))) = self.questions.poll_next_unpin(cx) {
            self.inbox.done(Done::Answered { number, answer });
        }
    }

    /// Closes the log and joins every thread, whatever became of the others: nobody touches the member's files after
    /// this. What was handed over before is on disk then, or the error is the first that a thread reported. `said` is
    /// what the threads said and the loop has not heard.
    pub(crate) fn stop(
        self,
        hard_state: Option<raft::eraftpb::HardState>,
        said: Vec<Done<Restored<S::Restored>>>,
    ) -> Result<(), Fatal> {
        self.stopping.stop();
        self.jobs.put(Job::Close(hard_state));
        drop(self.jobs);
        drop(self.fetches);
        let mut panicked = None;
        for (name, thread) in self.helpers.into_iter().chain([("kvd-wal", self.log)]) {
            if thread.join().is_err() {
                panicked.get_or_insert(name);
            }
        }
        // The loop is over; whatever was said since then is here.
        let (left, _) = self.inbox.take(Default::default(), 0);
        for done in said.into_iter().chain(left.done) {
            if let Done::Failed(fatal) = done {
                return Err(fatal);
            }
        }
        panicked.map_or(Ok(()), |name| Err(Fatal::Panicked(name)))
    }

    /// Runs `work` on a thread of its own. There is one of each name at a time: the last one is joined first, which
    /// does not block, for its end was reported.
    fn help(&mut self, name: &'static str, work: impl FnOnce() -> Result<(), Fatal> + Send + 'static) {
        if let Some(last) = self.helpers.remove(name)
            && last.join().is_err()
        {
            self.inbox.done(Done::Failed(Fatal::Panicked(name)));
        }
        let run = move |inbox: &Inbox<_>| {
            if let Err(fatal) = work() {
                inbox.done(Done::Failed(fatal));
            }
        };
        match spawn(name, self.inbox.clone(), run) {
            Ok(handle) => {
                self.helpers.insert(name, handle);
            }
            Err(fatal) => self.inbox.done(Done::Failed(fatal)),
        }
    }
}

/// Tells the loop when the thread that holds it panics: the loop would wait for its word for ever.
struct Sentinel<R> {
    name: &'static str,
    inbox: Arc<Inbox<R>>,
}

impl<R> Drop for Sentinel<R> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.inbox.done(Done::Failed(Fatal::Panicked(self.name)));
        }
    }
}

fn spawn<R: Send + 'static>(
    name: &'static str,
    inbox: Arc<Inbox<R>>,
    work: impl FnOnce(&Inbox<R>) + Send + 'static,
) -> Result<JoinHandle<()>, Fatal> {
    let sentinel = Sentinel { name, inbox };
    // The whole sentinel moves, so that it is dropped when the work is over, or has panicked.
    let run = move || {
        let sentinel = sentinel;
        work(&sentinel.inbox);
    };
    let spawned = thread::Builder::new().name(name.into()).spawn(run);
    spawned.map_err(|source| Fatal::File { path: format!("thread {name}").into(), source })
}

impl<S: StateMachine> Outside<S> for Threads<S> {
    fn send(&mut self, messages: Vec<Message>) {
        self.peers.send(messages);
    }

    fn ask(&mut self, ask: Ask) {
        let answer = self.peers.call(ask.to, ask.request, ask.limit);
        self.questions.push(Box::pin(async move { (ask.number, answer.await) }));
    }

    fn write(&mut self, write: Write) {
        self.jobs.put(Job::Write(write));
    }

    fn save_snapshot(&mut self, metadata: SnapshotMetadata, state: Frozen<S::View>) {
        let (snapshotter, inbox, metrics) =
            (self.snapshotter.clone(), self.inbox.clone(), self.metrics.clone());
        let (rate, stopping) = (self.snapshot_rate, self.stopping.clone());
        self.help("kvd-snap-save", move || {
            let begun = Instant::now();
            let mut state = Some(state);
            let saved = snapshotter.save(&metadata, &mut |out| match state.take() {
                Some(state) => state.write(&mut Throttle::new(out, rate, &*stopping)),
                None => Err(std::io::Error::other("a frozen state is written once")),
            });
            let bytes = match saved {
                Ok(bytes) => bytes,
                Err(_) if stopping.is_stopped() => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            metrics.snapshot_save_seconds.observe(begun.elapsed().as_secs_f64());
            inbox.done(Done::SnapshotSaved { metadata: Box::new(metadata), bytes });
            Ok(())
        });
    }

    fn load_snapshot(&mut self, message: Message) {
        let (snapshotter, inbox) = (self.snapshotter.clone(), self.inbox.clone());
        self.help("kvd-snap-load", move || {
            let metadata = message.get_snapshot().get_metadata();
            match load::<S>(&snapshotter, metadata) {
                Ok(restored) => inbox.done(Done::SnapshotLoaded { message: Box::new(message), restored }),
                Err(error) => {
                    // Nothing of it is in use yet, and the leader sends another.
                    tracing::warn!(%error, "a received snapshot cannot be read");
                    inbox.done(Done::SnapshotRejected);
                }
            }
            Ok(())
        });
    }

    fn fetch_entries(&mut self, fetch: Fetch) {
        if self.fetches.is_none() {
            let (sender, fetches) = mpsc::channel();
            let (reader, inbox) = (self.reader.clone(), self.inbox.clone());
            self.help("kvd-wal-read", move || read_thread(reader, &fetches, &inbox));
            self.fetches = Some(sender);
        }
        if let Some(fetches) = &self.fetches {
            // As with the log's thread: it ends early only after it has told the loop why.
            let _ = fetches.send(fetch);
        }
    }

    fn discard_older(&mut self, newest: (u64, u64)) {
        // Removing large files takes time. What the last one leaves, the next one takes.
        if self.helpers.get("kvd-discard").is_some_and(|last| !last.is_finished()) {
            return;
        }
        let (snapshotter, jobs) = (self.snapshotter.clone(), self.jobs.clone());
        self.help("kvd-discard", move || {
            if let Some(oldest) = discard(&snapshotter, newest)? {
                jobs.put(Job::Release(oldest));
            }
            Ok(())
        });
    }

    fn members_changed(&mut self, membership: &Arc<kvd_raftpb::node::Membership>) {
        self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).membership = membership.clone();
        self.peers.update(membership);
    }
}

/// Removes the snapshot files that nobody needs any more. `newest` is (term, index) of the newest one on record. Returns
/// the index of the oldest that stays, for [`Wal::release_to`]: the log must go on being openable there.
///
/// # Errors
/// If a file cannot be removed.
pub fn discard(snapshotter: &Snapshotter, newest: (u64, u64)) -> Result<Option<u64>, Fatal> {
    let left = snapshotter.retain_up_to(SNAPSHOTS_KEPT, newest)?;
    Ok(left.first().map(|(_, oldest)| *oldest))
}

/// Reads a stored snapshot back.
///
/// # Errors
/// If it cannot be read whole and unharmed, or carries another conf state than `metadata`: raft would run on the one
/// that was announced, and after a restart on the one in the file.
pub fn load<S: StateMachine>(
    snapshotter: &Snapshotter,
    metadata: &SnapshotMetadata,
) -> Result<Restored<S::Restored>, Fatal> {
    let (term, index) = (metadata.term, metadata.index);
    let mut reader = snapshotter.read(term, index)?;
    if reader.metadata() != metadata {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "the file's conf state is another");
        return Err(Fatal::Restore { term, index, source });
    }
    let restored =
        replicated::restore::<S>(&mut reader).map_err(|source| Fatal::Restore { term, index, source })?;
    // The checksum of the whole file stands behind the last byte.
    let trailing = reader.read(&mut [0]).map_err(|source| Fatal::Restore { term, index, source })?;
    if trailing != 0 {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "bytes behind the state's end");
        return Err(Fatal::Restore { term, index, source });
    }
    Ok(restored)
}

#[cfg(test)]
#[path = "threads_tests.rs"]
mod tests;
