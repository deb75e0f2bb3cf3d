//! A writer that takes its time, and gives up when it is told to.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where a [`Throttle`] has its time from.
pub(crate) trait Pace {
    /// The time since some moment.
    fn now(&self) -> Duration;
    /// Waits that long, or until it is to stop.
    fn pause(&self, time: Duration);
    /// Whether it is to stop.
    fn is_stopped(&self) -> bool;
}

/// The pace of a member's threads: the system's clock, until the member stops.
pub(crate) struct Stopping {
    begun: Instant,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { begun: Instant::now(), stopped: Mutex::new(false), changed: Condvar::new() }
    }
}

impl Stopping {
    /// Ends every pause, and all that follow.
    pub(crate) fn stop(&self) {
        *self.stopped() = true;
        self.changed.notify_all();
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        // A flag is whole whoever panicked.
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pace for Stopping {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn pause(&self, time: Duration) {
        let waited = self.changed.wait_timeout_while(self.stopped(), time, |stopped| !*stopped);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn is_stopped(&self) -> bool {
        *self.stopped()
    }
}

/// Passes bytes on at no more than a rate, by pausing. For threads that may.
pub(crate) struct Throttle<'a> {
    out: &'a mut dyn Write,
    /// Bytes a second.
    rate: u64,
    pace: &'a dyn Pace,
    begun: Duration,
    written: u64,
}

impl<'a> Throttle<'a> {
    /// `rate` is in bytes a second. Once `pace` is stopped, every write fails.
    pub(crate) fn new(out: &'a mut dyn Write, rate: u64, pace: &'a dyn Pace) -> Self {
        Self { out, rate: rate.max(1), pace, begun: pace.now(), written: 0 }
    }
}

/// Small writes do not pause one by one, but when they are this far ahead of their rate.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// How far the writer is ahead of its rate.
fn ahead(written: u64, rate: u64, elapsed: Duration) -> Duration {
    Duration::from_secs_f64(written as f64 / rate as f64).saturating_sub(elapsed)
}

impl Write for Throttle<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pace.is_stopped() {
            return Err(io::Error::other("given up, for the member stops"));
        }
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        let ahead = ahead(self.written, self.rate, self.pace.now().saturating_sub(self.begun));
        if ahead > LEAST_PAUSE {
            self.pace.pause(ahead);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    /// A clock that goes on in pauses only, and remembers them.
    #[derive(Default)]
    struct Fake {
        now: Cell<Duration>,
        pauses: RefCell<Vec<Duration>>,
        stopped: Cell<bool>,
    }

    impl Pace for Fake {
        fn now(&self) -> Duration {
            self.now.get()
        }
        fn pause(&self, time: Duration) {
            self.pauses.borrow_mut().push(time);
            self.now.set(self.now.get() + time);
        }
        fn is_stopped(&self) -> bool {
            self.stopped.get()
        }
    }

    #[test]
    fn a_writer_is_ahead_by_what_its_bytes_take() {
        let second = Duration::from_secs(1);
        assert_eq!(ahead(1000, 1000, Duration::ZERO), second);
        assert_eq!(ahead(3000, 1000, second), second * 2);
        assert_eq!(ahead(1000, 1000, second), Duration::ZERO);
        assert_eq!(ahead(1000, 1000, second * 5), Duration::ZERO);
    }

    #[test]
    fn a_writer_pauses_until_its_bytes_are_due() {
        let (mut out, pace) = (Vec::new(), Fake::default());
        pace.now.set(Duration::from_secs(9));
        let mut throttle = Throttle::new(&mut out, 1000, &pace);
        throttle.write_all(&[0; 2000]).unwrap();
        throttle.write_all(&[0; 500]).unwrap();
        pace.now.set(pace.now.get() + Duration::from_secs(1));
        throttle.write_all(&[0; 1000]).unwrap();
        assert_eq!(*pace.pauses.borrow(), [Duration::from_secs(2), Duration::from_millis(500)]);
        assert_eq!(pace.now.get(), Duration::from_millis(9000 + 3500), "3500 bytes");
    }

    #[test]
    fn a_writer_does_not_pause_for_ten_milliseconds_but_for_eleven() {
        for (bytes, pauses) in [(9, 0), (10, 0), (11, 1)] {
            let (mut out, pace) = (Vec::new(), Fake::default());
            Throttle::new(&mut out, 1000, &pace).write_all(&vec![0; bytes]).unwrap();
            assert_eq!(pace.pauses.borrow().len(), pauses, "{bytes}");
        }
    }

    #[test]
    fn bytes_pass_unchanged_until_it_is_stopped() {
        let (mut out, pace) = (Vec::new(), Fake::default());
        let mut throttle = Throttle::new(&mut out, u64::MAX, &pace);
        throttle.write_all(b"abc").unwrap();
        throttle.write_all(b"def").unwrap();
        pace.stopped.set(true);
        assert!(throttle.write_all(b"ghi").is_err());
        assert_eq!(out, b"abcdef");
    }

    #[test]
    fn a_pause_lasts_as_long_as_it_should() {
        let (stopping, begun) = (Stopping::default(), Instant::now());
        stopping.pause(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20) && stopping.now() >= Duration::from_millis(20));
    }

    #[test]
    fn a_stop_ends_a_pause_and_the_next_ones() {
        let stopping = Arc::new(Stopping::default());
        let ((begins, begun), (ends, ended)) = (mpsc::channel(), mpsc::channel());
        let pausing = stopping.clone();
        thread::spawn(move || {
            begins.send(()).unwrap();
            (0..2).for_each(|_| pausing.pause(Duration::from_secs(3600)));
            ends.send(()).unwrap();
        });
        begun.recv().unwrap();
        assert!(!stopping.is_stopped());
        stopping.stop();
        assert!(stopping.is_stopped());
        ended.recv_timeout(Duration::from_secs(10)).expect("the pauses end");
    }
}
