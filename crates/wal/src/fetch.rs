//! What raft wants of the entries that are no longer in memory: requests, and the answers until raft takes them.
//!
//! ```text
//!  entries(low, ..)        next()         LogReader          answered()       on_entries_fetched
//!  ------------------> queued ---> in flight ---> read back ---> window ---> entries(low, ..)
//!  LogTemporarilyUnavailable                                                  takes it from the window
//! ```
//! Everything is bounded, and everything may be forgotten at any time: raft asks again when it next has a reason to
//! send (an acknowledgement, a proposal, the answer to a heartbeat).

use std::collections::VecDeque;

use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use crate::storage::message_share;
use crate::window::payload;

/// Fetches that may be under way at a time.
const IN_FLIGHT: usize = 2;
/// Requests that may wait: as many as a cluster has members that lag, and some from a moment ago.
const QUEUED: usize = 16;
/// Contexts that a request keeps. More than one member may wait for the same entries, and one may ask again.
const CONTEXTS: usize = 8;
/// Answers that are kept until raft has taken all of them.
const WINDOWS: usize = 4;

/// Entries to be read back, from `low` up to, and without, `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The first index.
    pub low: u64,
    /// The index behind the last that may be read.
    pub high: u64,
    /// How many bytes to read, if that is more than one entry: for [`crate::LogReader::read`].
    pub max_bytes: u64,
    /// How often the log had been rewritten when it was asked for.
    pub(crate) epoch: u64,
}

#[derive(Debug)]
struct Request {
    low: u64,
    high: u64,
    contexts: Vec<GetEntriesContext>,
    in_flight: bool,
}

/// The requests and the answers.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    requests: VecDeque<Request>,
    /// Also those whose request was forgotten meanwhile.
    in_flight: usize,
    /// Contiguous entries each, oldest answer first.
    windows: VecDeque<Vec<Entry>>,
    /// Payload bytes in the windows.
    bytes: u64,
}

impl Fetches {
    /// Notes that raft wants the entries from `low` on.
    pub(crate) fn want(&mut self, low: u64, high: u64, context: GetEntriesContext) {
        if let Some(request) = self.requests.iter_mut().find(|request| request.low == low) {
            if request.contexts.len() < CONTEXTS {
                request.contexts.push(context);
            }
            return;
        }
        if self.requests.len() >= QUEUED
            && let Some(oldest) = self.requests.iter().position(|request| !request.in_flight)
        {
            self.requests.remove(oldest);
        }
        self.requests.push_back(Request { low, high, contexts: vec![context], in_flight: false });
    }

    /// The next request to be carried out, if one more may be.
    pub(crate) fn next(&mut self, max_bytes: u64, epoch: u64) -> Option<Fetch> {
        if self.in_flight >= IN_FLIGHT {
            return None;
        }
        let request = self.requests.iter_mut().find(|request| !request.in_flight)?;
        request.in_flight = true;
        self.in_flight += 1;
        Some(Fetch { low: request.low, high: request.high, max_bytes, epoch })
    }

    /// A fetch has its answer. Who waits for it; nobody, if it was forgotten.
    pub(crate) fn answered(&mut self, low: u64) -> Vec<GetEntriesContext> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let found = self.requests.iter().position(|request| request.low == low && request.in_flight);
        found.and_then(|at| self.requests.remove(at)).map_or_else(Vec::new, |request| request.contexts)
    }

    /// Keeps an answer.
    pub(crate) fn keep(&mut self, entries: Vec<Entry>) {
        if self.windows.len() >= WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back(entries);
        self.count();
    }

    /// Entries from `low` on, as many as fit and one at least, if an answer has them. An answer that was taken to its
    /// end is done with.
    pub(crate) fn take(&mut self, low: u64, high: u64, max_bytes: u64) -> Option<Vec<Entry>> {
        let holds = |window: &&Vec<Entry>| {
            window.first().is_some_and(|first| first.index <= low)
                && window.last().is_some_and(|last| last.index >= low)
        };
        let at = self.windows.iter().position(|window| holds(&window))?;
        let window = &self.windows[at];
        let from = (low - window[0].index) as usize;
        let wanted = window[from..].iter().take_while(|entry| entry.index < high);
        let out = limited(wanted, max_bytes);
        if from + out.len() == window.len() {
            self.windows.remove(at);
            self.count();
        }
        Some(out)
    }

    /// Answers with entries before `first`, or from `end` on, are of no use.
    pub(crate) fn keep_within(&mut self, first: u64, end: u64) {
        self.windows
            .retain(|window| window.last().is_some_and(|last| last.index >= first && last.index < end));
        self.count();
    }

    /// Forgets everything. What is in flight comes back, and finds nobody who waits.
    pub(crate) fn clear(&mut self) {
        self.requests.clear();
        self.windows.clear();
        self.count();
    }

    /// Payload bytes in the answers.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn count(&mut self) {
        self.bytes = self.windows.iter().flatten().map(payload).sum();
    }
}

/// As many entries as a message of that many bytes takes, but one at least.
pub(crate) fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: u64) -> Vec<Entry> {
    let mut size = 0u64;
    let mut out = Vec::new();
    for entry in entries {
        size = size.saturating_add(message_share(entry));
        if size > max_bytes && !out.is_empty() {
            break;
        }
        out.push(entry.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        let entry = |index| {
            let mut entry = Entry::default();
            (entry.index, entry.term, entry.data) = (index, 1, vec![1; 10].into());
            entry
        };
        range.map(entry).collect()
    }

    fn want(fetches: &mut Fetches, low: u64) {
        fetches.want(low, low + 10, GetEntriesContext::empty(true));
    }

    fn next(fetches: &mut Fetches) -> Option<u64> {
        fetches.next(100, 7).map(|fetch| fetch.low)
    }

    #[test]
    fn a_range_is_fetched_once_for_all_who_wait_and_few_at_a_time() {
        let mut fetches = Fetches::default();
        for _ in 0..=CONTEXTS {
            want(&mut fetches, 5);
        }
        let fetch = fetches.next(100, 7).unwrap();
        assert_eq!(fetch, Fetch { low: 5, high: 15, max_bytes: 100, epoch: 7 });
        want(&mut fetches, 5);
        assert_eq!(next(&mut fetches), None, "it is under way");
        want(&mut fetches, 6);
        want(&mut fetches, 7);
        assert_eq!((next(&mut fetches), next(&mut fetches)), (Some(6), None), "two at a time");
        assert_eq!(fetches.answered(5).len(), CONTEXTS);
        assert_eq!(next(&mut fetches), Some(7));
    }

    #[test]
    fn the_oldest_request_that_waits_gives_way() {
        let mut fetches = Fetches::default();
        want(&mut fetches, 1);
        assert_eq!(next(&mut fetches), Some(1));
        for low in 2..=QUEUED as u64 {
            want(&mut fetches, low);
        }
        assert_eq!(fetches.requests.len(), QUEUED);
        want(&mut fetches, 100);
        assert_eq!((fetches.requests.len(), next(&mut fetches)), (QUEUED, Some(3)));
        assert_eq!(fetches.answered(1).len(), 1);
    }

    #[test]
    fn what_comes_back_after_it_was_forgotten_finds_nobody() {
        let mut fetches = Fetches::default();
        want(&mut fetches, 1);
        want(&mut fetches, 2);
        assert_eq!((next(&mut fetches), next(&mut fetches)), (Some(1), Some(2)));
        fetches.clear();
        want(&mut fetches, 2);
        assert_eq!(next(&mut fetches), None, "both are still under way");
        assert_eq!(fetches.answered(2).len(), 0, "asked for again, but not under way again");
        assert_eq!(next(&mut fetches), Some(2));
        assert_eq!((fetches.answered(1).len(), fetches.answered(2).len()), (0, 1));
    }

    #[test]
    fn an_answer_is_handed_out_in_pieces_and_then_gone() {
        let mut fetches = Fetches::default();
        fetches.keep(entries(5..=8));
        let indexes = |out: Vec<Entry>| out.iter().map(|entry| entry.index).collect::<Vec<_>>();
        assert_eq!(fetches.take(4, 9, 1000), None);
        assert_eq!(fetches.take(9, 10, 1000), None);
        assert_eq!(fetches.take(5, 9, 99).map(indexes), Some(vec![5]), "50 bytes each");
        assert_eq!(fetches.take(5, 9, 100).map(indexes), Some(vec![5, 6]));
        assert_eq!(fetches.take(5, 6, 1000).map(indexes), Some(vec![5]));
        assert_eq!(fetches.bytes(), 40);
        assert_eq!(fetches.take(7, 9, 1000).map(indexes), Some(vec![7, 8]));
        assert_eq!((fetches.bytes(), fetches.take(7, 9, 1000)), (0, None));
    }

    #[test]
    fn answers_are_few_and_go_with_what_they_were_read_from() {
        let mut fetches = Fetches::default();
        for at in 1..=WINDOWS as u64 + 1 {
            fetches.keep(entries(10 * at..=10 * at + 4));
        }
        assert_eq!(fetches.windows.len(), WINDOWS);
        fetches.keep_within(25, 54);
        assert_eq!(fetches.windows.len(), 2, "30..=34 and 40..=44");
        fetches.keep_within(34, 45);
        assert_eq!(fetches.windows.len(), 2);
    }
}
