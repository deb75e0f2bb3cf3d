//! When the requests of an open loop arrive.
//!
//! Arrival k is due at `start + k / rate`, whatever became of those before it. A client that has room takes the next one
//! that is due; while none has, arrivals wait, and their latency runs. Nothing is stored for an arrival: what is due and
//! what was taken are two numbers, so that a backlog needs no memory.
//!
//! One task keeps the time for all clients: tokio's own timers go by the millisecond, as long as a whole request takes,
//! hence a timer of the kernel (`timerfd`). It fires for every arrival, or every 100 µs if they come faster than that.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// How long after the end a client may still take what was due before it: a few turns of a busy machine, and little of
/// a measurement, so that a server that cannot keep up is not credited with much of its backlog.
const SLACK: Duration = Duration::from_millis(100);

/// How often the timer fires at most.
const SHORTEST_PERIOD: Duration = Duration::from_micros(100);

/// The arrivals of one run.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    /// Seconds between two arrivals.
    gap: f64,
    /// How many arrivals have been due until now.
    due: Cell<u64>,
    /// How many of them were taken.
    taken: Cell<u64>,
    /// Whether all have come; clients need not wait any longer.
    over: Cell<bool>,
    idle: RefCell<Idle>,
}

/// The clients that have room, in the order in which they began to wait.
#[derive(Debug)]
struct Idle {
    order: VecDeque<usize>,
    /// For each client, how to wake it; nothing if it does not wait.
    wakers: Vec<Option<Waker>>,
}

impl Schedule {
    /// `rate` arrivals a second, from `start` on.
    pub(crate) fn new(start: Instant, rate: f64, clients: usize) -> Schedule {
        let idle = Idle { order: VecDeque::new(), wakers: vec![None; clients] };
        Schedule {
            start,
            gap: 1.0 / rate,
            due: Cell::new(0),
            taken: Cell::new(0),
            over: Cell::new(false),
            idle: RefCell::new(idle),
        }
    }

    /// Takes the next arrival that is due: the instant at which it was.
    pub(crate) fn take(&self) -> Option<Instant> {
        let number = self.taken.get();
        (number < self.due.get()).then(|| {
            self.taken.set(number + 1);
            self.instant(number)
        })
    }

    /// Ready when an arrival is due, or when none will be; else wakes the task when `client` is the next in the row.
    pub(crate) fn poll_due(&self, client: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.taken.get() < self.due.get() || self.over.get() {
            return Poll::Ready(());
        }
        let Idle { order, wakers } = &mut *self.idle.borrow_mut();
        match &mut wakers[client] {
            Some(waker) => waker.clone_from(cx.waker()),
            none => {
                *none = Some(cx.waker().clone());
                order.push_back(client);
            }
        }
        Poll::Pending
    }

    /// Whether all arrivals have come.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// How many arrivals that were due in this span, before `until`, have not been taken: their clients never had room.
    pub(crate) fn left_behind(&self, from: Instant, until: Instant) -> u64 {
        self.arrivals_before(until).saturating_sub(self.taken.get().max(self.arrivals_before(from)))
    }

    /// Lets arrivals become due, until then; wakes all clients at the end.
    pub(crate) async fn keep_time(&self, until: Instant) -> io::Result<()> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let period = Duration::from_secs_f64(self.gap).clamp(SHORTEST_PERIOD, Duration::from_secs(1));
        let spec = Timespec {
            tv_sec: period.as_secs().try_into().unwrap_or_default(),
            tv_nsec: period.subsec_nanos().into(),
        };
        let spec = Itimerspec { it_interval: spec, it_value: spec };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
        #[expect(
            deprecated,
            reason = "unsound for types that lie about their descriptor; an OwnedFd does not"
        )]
        let timer = AsyncFd::new(timer)?;
        loop {
            let now = Instant::now();
            self.advance(now.min(until));
            if now >= until {
                break;
            }
            // The eight bytes count how often it fired; the clock says more.
            let fired = |timer: &AsyncFd<_>| Ok(rustix::io::read(timer, &mut [0u8; 8])?);
            if let Ok(read) = timer.readable().await?.try_io(fired) {
                read?;
            }
        }
        self.over.set(true);
        for waker in self.idle.borrow_mut().wakers.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
        Ok(())
    }

    /// All arrivals until `now` are due; as many clients as can take one are woken.
    fn advance(&self, now: Instant) {
        self.due.set(self.arrivals_before(now).max(self.due.get()));
        let Idle { order, wakers } = &mut *self.idle.borrow_mut();
        for _ in self.taken.get()..self.due.get() {
            let Some(client) = order.pop_front() else { break };
            if let Some(waker) = wakers[client].take() {
                waker.wake();
            }
        }
    }

    fn instant(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 * self.gap)
    }

    fn arrivals_before(&self, instant: Instant) -> u64 {
        let seconds = instant.saturating_duration_since(self.start).as_secs_f64();
        (seconds / self.gap).ceil() as u64
    }
}

/// How a client's requests are paced.
#[derive(Debug, Clone)]
pub(crate) enum Pace {
    /// The next one as soon as there is room.
    Closed,
    /// As they arrive.
    Open(Rc<Schedule>),
}

impl Pace {
    /// Whether it is too late to send another request.
    pub(crate) fn is_over(&self, now: Instant, until: Instant) -> bool {
        match self {
            Pace::Closed => now >= until,
            Pace::Open(_) => now >= until + SLACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_due_at_their_instants_and_taken_once() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let schedule = Schedule::new(start, 100.0, 1);
        assert_eq!(schedule.take(), None);
        schedule.advance(at(25));
        assert_eq!([schedule.take(), schedule.take(), schedule.take()], [0, 10, 20].map(|ms| Some(at(ms))));
        assert_eq!(schedule.take(), None);
        // However late somebody comes, the arrival was when it was.
        schedule.advance(at(5000));
        assert_eq!(schedule.take(), Some(at(30)));
    }

    #[test]
    fn what_nobody_took_is_counted_within_the_window() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let schedule = Schedule::new(start, 100.0, 1);
        schedule.advance(at(100));
        assert_eq!(schedule.left_behind(at(0), at(100)), 10);
        assert_eq!(schedule.left_behind(at(50), at(100)), 5);
        for _ in 0..7 {
            schedule.take();
        }
        assert_eq!(schedule.left_behind(at(50), at(100)), 3);
        for _ in 0..3 {
            schedule.take();
        }
        assert_eq!(schedule.left_behind(at(0), at(100)), 0);
    }

    #[test]
    fn clients_are_woken_in_turn_and_only_as_many_as_there_is_work_for() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let start = Instant::now();
        let schedule = Schedule::new(start, 100.0, 3);
        let flags: Vec<_> = (0..3).map(|_| std::sync::Arc::new(Flag(false.into()))).collect();
        for client in [2, 0, 1, 2] {
            let waker = Waker::from(std::sync::Arc::clone(&flags[client]));
            assert!(schedule.poll_due(client, &mut Context::from_waker(&waker)).is_pending());
        }
        schedule.advance(start + Duration::from_millis(15));
        let woken: Vec<bool> =
            flags.iter().map(|flag| flag.0.load(std::sync::atomic::Ordering::Relaxed)).collect();
        assert_eq!(woken, [true, false, true]);
    }

    #[test]
    fn time_is_kept_more_finely_than_by_the_millisecond() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 5000.0, 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(schedule.keep_time(start + Duration::from_millis(20))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(schedule.due.get(), 100);
    }
}
