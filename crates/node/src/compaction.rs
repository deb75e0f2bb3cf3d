//! When a snapshot is due, and which ones are on record.

/// Decides by the bytes that the log has grown, not by entries or time: writing a state of n bytes once every n bytes
/// of log costs each write the same however large the state becomes.
#[derive(Debug)]
pub(crate) struct Compaction {
    /// The least growth of the log between two snapshots, in bytes.
    threshold: u64,
    /// Bytes applied since the newest snapshot.
    grown: u64,
    /// Size of the newest snapshot that was taken here, in bytes.
    last_size: u64,
    /// A snapshot is being written or recorded.
    running: bool,
    /// Newest recorded snapshot: (term, index).
    newest: (u64, u64),
    /// A follower needs a snapshot of at least this index.
    asked_for: Option<u64>,
}

impl Compaction {
    pub(crate) fn new(threshold: u64, newest: (u64, u64)) -> Self {
        Self { threshold, grown: 0, last_size: 0, running: false, newest, asked_for: None }
    }

    /// Takes the first snapshot earlier by this member's share of the threshold: it is the `place`-th (from 0) of `of`
    /// members, which apply the same log and would otherwise all write at the same moment.
    pub(crate) fn stagger(&mut self, place: u64, of: u64) {
        self.grown += self.threshold / of.max(1) * place;
    }

    /// An entry of that many bytes was applied.
    pub(crate) fn grow(&mut self, bytes: u64) {
        self.grown += bytes;
    }

    /// A follower needs a snapshot that reaches `index` and knows of it.
    pub(crate) fn ask_for(&mut self, index: u64) {
        // The one that is being written may do; if not, it is asked for again.
        if !self.running {
            self.asked_for = Some(self.asked_for.unwrap_or(0).max(index));
        }
    }

    /// Whether to freeze the state now, at the `applied` index.
    pub(crate) fn is_due(&self, applied: u64) -> bool {
        let wanted = self.asked_for.is_some_and(|index| applied >= index)
            || self.grown >= self.threshold.max(self.last_size);
        wanted && !self.running && applied > self.newest.1
    }

    pub(crate) fn begin(&mut self) {
        self.running = true;
        self.grown = 0;
        self.asked_for = None;
    }

    /// The snapshot that was begun is on disk.
    pub(crate) fn saved(&mut self, size: u64) {
        self.last_size = size;
    }

    /// The snapshot that was begun is not on disk, and is due as before.
    pub(crate) fn not_saved(&mut self) {
        self.running = false;
        self.grown += self.threshold.max(self.last_size);
    }

    /// A snapshot of our own is on record, and begun ones may be begun again.
    pub(crate) fn recorded(&mut self, term: u64, index: u64) {
        self.running = false;
        self.newest = self.newest.max((term, index));
    }

    /// The leader's snapshot took the place of the log.
    pub(crate) fn installed(&mut self, term: u64, index: u64) {
        self.newest = self.newest.max((term, index));
        self.grown = 0;
    }

    pub(crate) fn newest(&self) -> (u64, u64) {
        self.newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_must_grow_by_the_threshold_or_by_the_last_snapshot() {
        let mut compaction = Compaction::new(100, (1, 1));
        compaction.grow(99);
        assert!(!compaction.is_due(5));
        compaction.grow(1);
        assert!(compaction.is_due(5));
        compaction.begin();
        compaction.grow(1000);
        assert!(!compaction.is_due(6), "one at a time");
        compaction.saved(2000);
        compaction.recorded(1, 5);
        compaction.grow(999);
        assert!(!compaction.is_due(7));
        compaction.grow(1);
        assert!(compaction.is_due(7));
    }

    #[test]
    fn members_take_turns() {
        let mut due_at = Vec::new();
        for place in 0..3 {
            let mut compaction = Compaction::new(90, (1, 1));
            compaction.stagger(place, 3);
            let mut bytes = 0;
            while !compaction.is_due(5) {
                compaction.grow(1);
                bytes += 1;
            }
            due_at.push(bytes);
        }
        assert_eq!(due_at, [90, 60, 30]);
    }

    #[test]
    fn a_follower_can_ask_for_one_early_but_not_for_the_one_there_is() {
        let mut compaction = Compaction::new(100, (1, 5));
        compaction.ask_for(7);
        assert!(!compaction.is_due(6));
        assert!(compaction.is_due(7));
        let mut compaction = Compaction::new(100, (1, 5));
        compaction.ask_for(3);
        assert!(!compaction.is_due(5));
        assert!(compaction.is_due(6));
    }
}
