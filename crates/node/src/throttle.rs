//! A writer that takes its time.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Passes bytes on at no more than a rate, by sleeping. For threads that may.
pub(crate) struct Throttle<'a> {
    out: &'a mut dyn Write,
    /// Bytes a second.
    rate: u64,
    begun: Instant,
    written: u64,
    stop: &'a AtomicBool,
}

impl<'a> Throttle<'a> {
    /// `rate` is in bytes a second. Once `stop` is set, every write fails.
    pub(crate) fn new(out: &'a mut dyn Write, rate: u64, stop: &'a AtomicBool) -> Self {
        Self { out, rate: rate.max(1), begun: Instant::now(), written: 0, stop }
    }
}

/// How far the writer is ahead of its rate.
fn ahead(written: u64, rate: u64, elapsed: Duration) -> Duration {
    Duration::from_secs_f64(written as f64 / rate as f64).saturating_sub(elapsed)
}

impl Write for Throttle<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("given up, for the member stops"));
        }
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        let ahead = ahead(self.written, self.rate, self.begun.elapsed());
        // Small writes do not sleep one by one.
        if ahead > Duration::from_millis(10) {
            sleep(ahead);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_ahead_by_what_its_bytes_take() {
        let second = Duration::from_secs(1);
        assert_eq!(ahead(1000, 1000, Duration::ZERO), second);
        assert_eq!(ahead(3000, 1000, second), second * 2);
        assert_eq!(ahead(1000, 1000, second), Duration::ZERO);
        assert_eq!(ahead(1000, 1000, second * 5), Duration::ZERO);
    }

    #[test]
    fn bytes_pass_unchanged_until_it_is_stopped() {
        let mut out = Vec::new();
        let stop = AtomicBool::new(false);
        let mut throttle = Throttle::new(&mut out, u64::MAX, &stop);
        throttle.write_all(b"abc").unwrap();
        throttle.write_all(b"def").unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(throttle.write_all(b"ghi").is_err());
        assert_eq!(out, b"abcdef");
    }
}
