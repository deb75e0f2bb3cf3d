//! Whether the disk has room for the next segment.
//!
//! A log that is cut takes a segment that was prepared before, and the next one is prepared at once. If that fails for
//! want of room, nothing of the log is touched: what was appended is where it was, and what is left of the current
//! segment can be appended to. So this is no failure of the log. Whoever prepares gives back what it had taken, says so
//! here, and tries again until there is room. Until then a cut waits, and with it every save behind it.
//!
//! Whoever writes to the log should stop taking on work as soon as it is told: then the rest of the segment is left for
//! what cannot be refused, such as votes, and no save ever waits.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two attempts: short beside what it takes to free space, long beside what an attempt costs.
const RETRY: Duration = Duration::from_secs(1);

/// Called with whether the disk is full, when that changes.
type Watcher = Box<dyn Fn(bool) + Send>;

/// Who lacks room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The thread that prepares ahead.
    Ahead = 0,
    /// A save that needs a segment of its own length.
    Now = 1,
}

/// Whether the disk has room, for whoever wants to know. Clones share everything.
#[derive(Clone, Default)]
pub struct Room(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lacking: [bool; 2],
    given_up: bool,
    watcher: Option<Watcher>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("is_full", &self.is_full()).finish_non_exhaustive()
    }
}

impl Room {
    /// Whether the next segment cannot be prepared for want of room.
    pub fn is_full(&self) -> bool {
        self.lock().lacking.contains(&true)
    }

    /// Calls `watcher` whenever [`Room::is_full`] changes, from the thread that notices, and now if it is full. There
    /// is one watcher.
    pub fn watch(&self, watcher: impl Fn(bool) + Send + 'static) {
        let mut state = self.lock();
        if state.lacking.contains(&true) {
            watcher(true);
        }
        state.watcher = Some(Box::new(watcher));
    }

    /// Nothing waits for room any more: a save that would fails instead. For the end of a member, which must not wait
    /// for its operator.
    pub fn give_up(&self) {
        self.lock().given_up = true;
        self.0.changed.notify_all();
    }

    pub(crate) fn set(&self, who: Who, lacking: bool) {
        let mut state = self.lock();
        let before = state.lacking.contains(&true);
        state.lacking[who as usize] = lacking;
        let after = state.lacking.contains(&true);
        if before != after
            && let Some(watcher) = &state.watcher
        {
            watcher(after);
        }
    }

    /// Waits until it is time for the next attempt; false if there will be none.
    pub(crate) fn wait(&self) -> bool {
        let state = self.lock();
        let waited = self.0.changed.wait_timeout_while(state, RETRY, |state| !state.given_up);
        !waited.unwrap_or_else(PoisonError::into_inner).0.given_up
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each field is set at once.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_watcher_hears_of_changes_and_of_what_was_before() {
        let room = Room::default();
        let (sender, said) = channel();
        room.set(Who::Ahead, true);
        room.watch(move |full| sender.send(full).unwrap());
        room.set(Who::Now, true);
        room.set(Who::Ahead, false);
        assert!(room.is_full(), "one of the two still lacks room");
        room.set(Who::Now, false);
        room.set(Who::Now, false);
        drop(room);
        assert_eq!(said.iter().collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn whoever_waits_is_woken_by_giving_up() {
        let room = Room::default();
        let waiting = std::thread::spawn({
            let room = room.clone();
            move || while room.wait() {}
        });
        room.give_up();
        waiting.join().unwrap();
    }
}
