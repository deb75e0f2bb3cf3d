//! A bounded rate, which all snapshots share.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock;

/// Says when the next bytes may go.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second; `None`: any number.
    rate: Option<u64>,
    /// When what was let go before is over.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> Pace {
        Pace { rate, free_at: Mutex::default() }
    }

    /// Takes the next turn, for so many bytes. They may go at the time that it returns; `None`: at once.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<Instant> {
        let rate = self.rate?;
        let now = Instant::now();
        let mut free_at = lock(&self.free_at);
        // Time in which nothing was sent is not saved up for a burst.
        let start = free_at.map_or(now, |at| at.max(now));
        *free_at = Some(start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        Some(start).filter(|start| *start > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_follow_each_other_at_the_rate_and_are_not_saved_up() {
        let pace = Pace::new(Some(1000));
        let start = Instant::now();
        assert_eq!(pace.reserve(500), None, "the first goes at once");
        assert_eq!(pace.reserve(250), Some(start + Duration::from_millis(500)));
        assert_eq!(pace.reserve(1), Some(start + Duration::from_millis(750)));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.reserve(500), None);
        assert_eq!(pace.reserve(1), Some(Instant::now() + Duration::from_millis(500)));
        assert_eq!(Pace::new(None).reserve(usize::MAX), None);
    }
}
