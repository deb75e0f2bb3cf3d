//! The driver: turns of the core, on whatever executor polls it.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream;
use kvd_raftpb::node::Membership;
use kvd_raftpb::peers::Peers;

use crate::core::{Core, Exit};
use crate::error::{Error, Fatal};
use crate::event::Event;
use crate::handle::{Handle, REFRESH, Shown, Status};
use crate::inbox::Inbox;
use crate::metrics::{Metrics, Turn};
use crate::oversight::Progress;
use crate::proposal::Load;
use crate::replicated::Restored;
use crate::state_machine::StateMachine;
use crate::threads::Threads;
use kvd_snap::Snapshotter;
use kvd_vfs::Lock;
use kvd_wal::Wal;

/// An inbox with a loop behind it, or one to come. When that goes, however it goes, nobody may wait any longer.
pub struct Attended<R>(pub(crate) Arc<Inbox<R>>);

impl<R> Deref for Attended<R> {
    type Target = Arc<Inbox<R>>;

    fn deref(&self) -> &Arc<Inbox<R>> {
        &self.0
    }
}

impl<R> Drop for Attended<R> {
    fn drop(&mut self) {
        self.0.close(Error::Stopped);
        // The waiters' channels go with what is queued.
        drop(self.0.take(Load::default(), 0));
    }
}

/// What the handles of a member show, for whoever drives it by hand.
pub struct Board(pub(crate) Arc<Mutex<Shown>>);

impl Board {
    /// Shows the member as of the end of a turn, and returns what happened since the last call.
    pub fn show<S: StateMachine>(&self, core: &mut Core<S>) -> Vec<Event> {
        let events = core.take_events();
        show(&mut self.lock(), core.status(), core.progress.clone(), &events);
        events
    }

    /// Shows a member list that has changed.
    pub fn members_changed(&self, membership: &Arc<Membership>) {
        self.lock().membership = membership.clone();
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member that was opened and does not run yet.
///
/// It runs when [`Node::run`] is polled; until then its [`Node::handle`] queues.
pub struct Node<S: StateMachine> {
    pub(crate) core: Core<S>,
    pub(crate) inbox: Attended<Restored<S::Restored>>,
    pub(crate) shown: Arc<Mutex<Shown>>,
    pub(crate) wal: Wal,
    pub(crate) snapshotter: Snapshotter,
    pub(crate) metrics: Metrics,
    /// Held for as long as the member runs.
    pub(crate) lock: Box<dyn Lock>,
}

impl<S: StateMachine> Node<S> {
    /// The handle. It is also what a transport delivers to.
    pub fn handle(&self) -> Handle {
        Handle { requests: self.inbox.0.clone(), shown: self.shown.clone() }
    }

    /// Where the snapshots lie, for a transport to send from and receive into.
    pub fn snapshots(&self) -> Snapshotter {
        self.snapshotter.clone()
    }

    /// The series that this member keeps.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Runs the member to its end. `ticks` yields the time since about the beginning of the run, once a tick; it is the
    /// only clock that the member knows.
    ///
    /// Dropping the future leaves the log as a crash would.
    ///
    /// # Errors
    /// What ended the member, if it was not told to stop and was not removed. Every waiter has had its answer then.
    pub async fn run(
        mut self,
        peers: Arc<dyn Peers>,
        ticks: impl Stream<Item = Duration>,
    ) -> Result<Exit, Fatal> {
        let mut threads = Threads::start(
            self.wal,
            self.snapshotter,
            self.core.config.snapshot_rate,
            self.inbox.clone(),
            peers,
            self.shown.clone(),
            self.metrics.clone(),
        )?;
        let ended = turns(&mut self.core, &self.inbox, &self.shown, &self.metrics, &mut threads, ticks).await;

        let error = if matches!(ended, Ok(Exit::Removed)) { Error::Removed } else { Error::Stopped };
        self.inbox.close(error.clone());
        // What is still queued was never proposed.
        let (late, _) = self.inbox.take(Load::default(), 0);
        for proposal in late.proposals {
            let _ = proposal.reply.send(Err(error.clone()));
        }
        for read in late.reads {
            let _ = read.reply.send(Err(error.clone()));
        }
        for change in late.changes {
            let _ = change.reply.send(Err(error.clone()));
        }
        self.core.fail_all(&error, "this member stopped before it was applied");
        let closed = threads.stop(self.core.pipeline.take_unsaved(), late.done);
        drop(self.lock);
        let exit = ended?;
        closed?;
        Ok(exit)
    }
}

async fn turns<S: StateMachine>(
    core: &mut Core<S>,
    inbox: &Inbox<Restored<S::Restored>>,
    shown: &Mutex<Shown>,
    metrics: &Metrics,
    threads: &mut Threads<S>,
    ticks: impl Stream<Item = Duration>,
) -> Result<Exit, Fatal> {
    let mut ticks = pin!(ticks);
    loop {
        let more = core.has_more();
        let tick = poll_fn(|cx| match ticks.as_mut().poll_next(cx) {
            Poll::Ready(Some(now)) => Poll::Ready(Some(now)),
            Poll::Ready(None) | Poll::Pending if more => Poll::Ready(None),
            // A clock that ends does not tick any more; requests and messages are still handled.
            Poll::Ready(None) | Poll::Pending => {
                // What they answer arrives like everything else.
                threads.poll_questions(cx);
                inbox.poll_arrival(cx).map(|()| None)
            }
        })
        .await;
        let (load, reads) = core.load();
        let (arrivals, dropped) = inbox.take(load, reads);
        if arrivals.shutdown {
            inbox.close_to_requests();
        }
        let exit = core.turn(arrivals, tick, threads)?;
        let status = core.status();
        let turn = Turn {
            pending: core.load().0.count,
            failed: core.tracker.take_failed(),
            log_bytes: core.raw.store().bytes(),
            lagging: core.watchdog.lagging(),
            dropped,
            rejected: std::mem::take(&mut core.rejected_messages),
            installed: std::mem::take(&mut core.installed_snapshots),
            readbacks: std::mem::take(&mut core.readbacks),
            leader_changes: std::mem::take(&mut core.leader_changes),
        };
        metrics.show(&status, turn);
        let events = core.take_events();
        events.iter().for_each(|event| metrics.count(event));
        let progress = core.progress.clone();
        show(&mut shown.lock().unwrap_or_else(PoisonError::into_inner), status, progress, &events);
        if let Some(exit) = exit {
            return Ok(exit);
        }
        yield_now().await;
    }
}

fn show(shown: &mut Shown, status: Status, progress: Arc<[Progress]>, events: &[Event]) {
    shown.refreshing &= status.staleness.is_none_or(|age| age >= REFRESH);
    shown.status = status;
    shown.progress = progress;
    for event in events {
        event.log();
        shown.subscribers.tell(event);
    }
}

/// Lets the executor's other tasks go first, so that what they have to say is handled in one turn.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
