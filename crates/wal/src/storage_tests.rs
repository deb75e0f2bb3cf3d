use super::*;
use bytes::Bytes;
use raft::Error;

fn entry(index: u64, term: u64, data: &'static [u8]) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = term;
    entry.data = Bytes::from_static(data);
    entry
}

fn metadata(index: u64, term: u64, voters: &[u64], learners: &[u64]) -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata::default();
    metadata.index = index;
    metadata.term = term;
    metadata.mut_conf_state().voters = voters.to_vec();
    metadata.mut_conf_state().learners = learners.to_vec();
    metadata
}

fn log() -> LogStorage {
    let entries = vec![entry(4, 2, b"4444"), entry(5, 2, b"55555"), entry(6, 3, b"666666")];
    LogStorage::new(metadata(3, 1, &[1, 2, 3], &[]), HardState::default(), entries)
}

fn indexes(log: &LogStorage, low: u64, high: u64, max: u64) -> Vec<u64> {
    let entries = log.entries(low, high, max, GetEntriesContext::empty(false)).unwrap();
    entries.iter().map(|entry| entry.index).collect()
}

fn term(log: &LogStorage, index: u64) -> Result<u64, StorageError> {
    log.term(index).map_err(|error| match error {
        Error::Store(error) => error,
        other => panic!("{other}"),
    })
}

#[test]
fn terms_are_known_from_the_boundary_to_the_last_entry() {
    let log = log();
    assert_eq!(term(&log, 2), Err(StorageError::Compacted));
    assert_eq!([3, 4, 5, 6].map(|index| term(&log, index).unwrap()), [1, 2, 2, 3]);
    assert_eq!(term(&log, 7), Err(StorageError::Unavailable));
    assert_eq!((Storage::first_index(&log).unwrap(), Storage::last_index(&log).unwrap()), (4, 6));
    assert_eq!((log.first_index(), log.last_index()), (4, 6));
}

#[test]
fn an_empty_log_is_a_joiner() {
    let log = LogStorage::new(SnapshotMetadata::default(), HardState::default(), Vec::new());
    assert_eq!((log.first_index(), log.last_index(), term(&log, 0)), (1, 0, Ok(0)));
    assert!(!log.initial_state().unwrap().initialized());
}

#[test]
fn initial_state_is_the_hard_state_and_the_snapshots_conf_state() {
    let mut log = log();
    let mut hard_state = HardState::default();
    hard_state.term = 9;
    log.set_hard_state(hard_state.clone());
    let state = log.initial_state().unwrap();
    assert_eq!(state.hard_state, hard_state);
    assert_eq!(state.conf_state.voters, [1, 2, 3]);
}

#[test]
fn entries_stop_at_the_size_but_never_before_the_first() {
    let log = log();
    let one = message_share(&entry(4, 2, b"4444"));
    let two = one + message_share(&entry(5, 2, b"55555"));
    assert_eq!(indexes(&log, 4, 7, u64::MAX), [4, 5, 6]);
    assert_eq!(indexes(&log, 4, 7, 0), [4]);
    assert_eq!(indexes(&log, 4, 7, two - 1), [4]);
    assert_eq!(indexes(&log, 4, 7, two), [4, 5]);
    assert_eq!(indexes(&log, 4, 7, two + 1), [4, 5]);
    assert_eq!(indexes(&log, 5, 5, u64::MAX), [0u64; 0]);
    let compacted = log.entries(3, 5, None, GetEntriesContext::empty(false)).unwrap_err();
    assert_eq!(compacted, Error::Store(StorageError::Compacted));
}

#[test]
fn an_overlapping_append_replaces_the_tail_and_counts_its_bytes() {
    let mut log = log();
    assert_eq!(log.bytes(), 15);
    log.append(&[entry(5, 4, b"x")]);
    assert_eq!((log.last_index(), log.bytes(), term(&log, 5)), (5, 5, Ok(4)));
    log.append(&[]);
    log.append(&[entry(4, 4, b""), entry(5, 4, b"yy")]);
    assert_eq!((log.last_index(), log.bytes(), term(&log, 4)), (5, 2, Ok(4)));
    log.append(&[entry(6, 4, b"z")]);
    assert_eq!((log.last_index(), log.bytes()), (6, 3));
}

#[test]
#[should_panic(expected = "an append at index 8 to a log of 4..=6")]
fn a_gap_is_a_bug() {
    log().append(&[entry(8, 3, b"")]);
}

#[test]
#[should_panic(expected = "an append at index 3")]
fn an_append_below_the_boundary_is_a_bug() {
    log().append(&[entry(3, 3, b"")]);
}

#[test]
fn compaction_keeps_the_boundary_term_and_stops_at_the_snapshot() {
    let mut log = log();
    log.compact(6);
    assert_eq!(log.first_index(), 4, "nothing is on disk beyond the snapshot at 3");
    log.set_snapshot(metadata(5, 2, &[1], &[]));
    log.compact(4);
    assert_eq!((log.first_index(), term(&log, 4), term(&log, 3)), (5, Ok(2), Err(StorageError::Compacted)));
    assert_eq!(log.bytes(), 11);
    log.compact(3);
    log.compact(6);
    assert_eq!((log.first_index(), log.last_index(), term(&log, 5), log.bytes()), (6, 6, Ok(2), 6));
    log.set_snapshot(metadata(6, 3, &[1], &[]));
    log.compact(u64::MAX);
    assert_eq!((log.first_index(), log.last_index(), term(&log, 6), log.bytes()), (7, 6, Ok(3), 0));
    log.append(&[entry(7, 3, b"7")]);
}

#[test]
fn an_older_snapshot_does_not_replace_a_newer() {
    let mut log = log();
    log.set_snapshot(metadata(5, 2, &[1], &[]));
    log.set_snapshot(metadata(4, 2, &[2], &[]));
    assert_eq!(log.snapshot_metadata().index, 5);
}

#[test]
fn an_installed_snapshot_replaces_the_log() {
    let mut log = log();
    log.install(metadata(10, 5, &[1], &[]));
    assert_eq!((log.first_index(), log.last_index(), log.bytes(), term(&log, 10)), (11, 10, 0, Ok(5)));
    assert_eq!((log.hard_state().commit, log.hard_state().term), (10, 5));
    assert_eq!(log.initial_state().unwrap().conf_state.voters, [1]);
    log.append(&[entry(11, 5, b"11")]);
}

#[test]
fn a_snapshot_is_offered_to_its_members_and_asked_for_otherwise() {
    let mut log = log();
    let unavailable = Error::Store(StorageError::SnapshotTemporarilyUnavailable);
    for to in 1..=3 {
        let snapshot = log.snapshot(3, to).unwrap();
        assert_eq!((snapshot.get_metadata().index, snapshot.data.len()), (3, 0));
    }
    assert_eq!(log.take_snapshot_request(), None);

    assert_eq!(log.snapshot(4, 1).unwrap_err(), unavailable, "one index beyond");
    assert_eq!(log.take_snapshot_request(), Some(4));
    assert_eq!(log.take_snapshot_request(), None);

    assert_eq!(log.snapshot(0, 4).unwrap_err(), unavailable, "not in the conf state");
    assert_eq!(log.snapshot(5, 1).unwrap_err(), unavailable);
    assert_eq!(log.snapshot(0, 4).unwrap_err(), unavailable);
    assert_eq!(log.take_snapshot_request(), Some(5), "the furthest of all that were asked for");

    log.set_snapshot(metadata(5, 2, &[1], &[4]));
    assert!(log.snapshot(5, 4).is_ok());
    assert!(LogStorage::default().snapshot(0, 1).is_err());
}

#[test]
fn compaction_can_keep_some_bytes_before_its_index() {
    // Entries 4, 5 and 6 hold 4, 5 and 6 bytes.
    for (index, keep, first) in [
        (5, 0, 6),
        (5, 4, 6),
        (5, 5, 5),
        (5, 8, 5),
        (5, 9, 4),
        (5, 10, 4),
        (6, 5, 7),
        (6, 6, 6),
        (6, 11, 5),
        (9, 0, 7),
        (2, 0, 4),
    ] {
        let mut log = log();
        log.set_snapshot(metadata(6, 3, &[1], &[]));
        log.compact_keeping(index, keep);
        assert_eq!(log.first_index(), first, "to {index}, keeping {keep}");
    }
}

/// Entries 1 to `last` of 100 bytes, of a new term every ten, with a snapshot at 0.
fn long_log(last: u64) -> LogStorage {
    let entries: Vec<Entry> = (1..=last).map(|index| entry(index, 1 + index / 10, &[7; 100])).collect();
    LogStorage::new(SnapshotMetadata::default(), HardState::default(), entries)
}

fn in_memory(entries: u64) -> u64 {
    entries * (100 + size_of::<Entry>() as u64)
}

fn ask(log: &LogStorage, low: u64, high: u64) -> Result<Vec<Entry>, StorageError> {
    log.entries(low, high, 1000, GetEntriesContext::empty(true)).map_err(|error| match error {
        Error::Store(error) => error,
        other => panic!("{other}"),
    })
}

/// What a reader finds for a fetch, if nothing of the log has changed.
fn read_back(fetch: Fetch, until: u64) -> ReadBack {
    ReadBack::Entries((fetch.low..until).map(|index| entry(index, 1 + index / 10, &[7; 100])).collect())
}

#[test]
fn entries_go_from_memory_while_they_take_more_than_they_may() {
    for (cache, front) in
        [(in_memory(20), 1), (in_memory(20) - 1, 2), (in_memory(19), 2), (in_memory(19) - 1, 3), (0, 20)]
    {
        let mut log = long_log(20);
        log.set_cache_bytes(cache);
        log.evict(20);
        assert_eq!(log.first_in_memory(), front, "{cache} bytes");
        assert_eq!(log.bytes(), (21 - front) * 100);
        assert_eq!((log.first_index(), log.last_index()), (1, 20));
    }
    // Not beyond what is applied and durable.
    for (upto, front) in [(0, 1), (9, 10), (10, 11), (11, 12), (19, 20), (20, 20), (99, 20)] {
        let mut log = long_log(20);
        log.set_cache_bytes(0);
        log.evict(upto);
        assert_eq!(log.first_in_memory(), front, "up to {upto}");
        for index in 0..=20 {
            assert_eq!(term(&log, index), Ok(if index == 0 { 0 } else { 1 + index / 10 }));
        }
        assert_eq!(term(&log, 21), Err(StorageError::Unavailable));
    }
}

#[test]
fn what_went_from_memory_is_asked_for_and_then_found() {
    let mut log = long_log(40);
    log.set_cache_bytes(in_memory(10));
    log.evict(40);
    assert_eq!(log.first_in_memory(), 31);
    assert_eq!(ask(&log, 31, 41).unwrap().len(), 7, "from memory, as many as fit");
    assert_eq!(log.next_fetch(), None);
    let at_once = log.entries(30, 41, 1000, GetEntriesContext::empty(false)).unwrap_err();
    assert_eq!(at_once, Error::Store(StorageError::Unavailable), "raft would not come back for it");

    assert_eq!(ask(&log, 5, 41), Err(StorageError::LogTemporarilyUnavailable));
    let fetch = log.next_fetch().unwrap();
    assert_eq!((fetch.low, fetch.high, fetch.max_bytes), (5, 31, FETCH_LEAST));
    assert_eq!(log.next_fetch(), None);
    assert_eq!(log.fetched(fetch, read_back(fetch, 31)).unwrap().len(), 1);
    assert_eq!(log.bytes(), 3600, "what was read back counts");
    let indexes = |entries: Vec<Entry>| entries.iter().map(|entry| entry.index).collect::<Vec<_>>();
    assert_eq!(ask(&log, 5, 41).map(indexes), Ok((5..12).collect()));
    assert_eq!(ask(&log, 26, 41).map(indexes), Ok((26..31).collect()), "to its end");
    assert_eq!(ask(&log, 26, 41), Err(StorageError::LogTemporarilyUnavailable));
    assert_eq!(log.bytes(), 1000);
    let fetch = log.next_fetch().unwrap();
    log.forget_fetches();
    assert_eq!(log.fetched(fetch, read_back(fetch, 31)).unwrap().len(), 0);
    assert_eq!(log.bytes(), 1000, "nobody waits for it");
}

#[test]
fn a_fetch_reads_an_eighth_of_the_cache_within_bounds() {
    for (cache, bytes) in [
        (0, FETCH_LEAST),
        (8 * FETCH_LEAST - 8, FETCH_LEAST),
        (8 * FETCH_LEAST + 8, FETCH_LEAST + 1),
        (8 * FETCH_MOST, FETCH_MOST),
        (u64::MAX, FETCH_MOST),
    ] {
        let mut log = long_log(3);
        log.set_cache_bytes(0);
        log.evict(3);
        log.set_cache_bytes(cache);
        assert!(ask(&log, 1, 4).is_err());
        assert_eq!(log.next_fetch().unwrap().max_bytes, bytes);
    }
}

fn fetching(low: u64) -> (LogStorage, Fetch) {
    let mut log = long_log(40);
    log.set_cache_bytes(0);
    log.evict(30);
    assert!(ask(&log, low, 41).is_err());
    let fetch = log.next_fetch().unwrap();
    (log, fetch)
}

#[test]
fn an_answer_that_the_log_has_moved_past_is_dropped() {
    // Compacted, wholly and in part.
    for (to, first) in [(24, None), (19, None), (20, None), (15, Some(16)), (14, Some(15))] {
        let (mut log, fetch) = fetching(15);
        log.set_snapshot(metadata(to, 1 + to / 10, &[1], &[]));
        log.compact(to);
        assert_eq!(log.fetched(fetch, read_back(fetch, 20)).unwrap().len(), 1);
        let asked = ask(&log, to + 1, 41);
        match first {
            Some(15) => assert_eq!(asked.unwrap()[0].index, 15),
            _ => assert_eq!(asked, Err(StorageError::LogTemporarilyUnavailable), "{to}"),
        }
        assert_eq!(ask(&log, to, 41), Err(StorageError::Compacted));
    }
    // Its segment was released.
    let (mut log, fetch) = fetching(15);
    log.set_snapshot(metadata(22, 3, &[1], &[]));
    assert_eq!(log.fetched(fetch, ReadBack::Gone { first_index: 21 }).unwrap().len(), 1);
    assert_eq!((log.first_index(), ask(&log, 15, 41)), (21, Err(StorageError::Compacted)));
    // Replaced by the leader's snapshot.
    let (mut log, fetch) = fetching(15);
    log.install(metadata(100, 9, &[1], &[]));
    assert_eq!(log.fetched(fetch, read_back(fetch, 31)).unwrap().len(), 0);
    assert_eq!((log.first_index(), log.last_index(), log.bytes()), (101, 100, 0));
    assert_eq!(term(&log, 100), Ok(9));
}

#[test]
fn an_overwritten_tail_takes_what_was_read_back_with_it() {
    // raft never replaces what is applied; the log does not rely on it.
    let (mut log, fetch) = fetching(15);
    assert_eq!(log.fetched(fetch, read_back(fetch, 25)).unwrap().len(), 1);
    log.append(&[entry(20, 9, b"new"), entry(21, 9, b"er")]);
    assert_eq!((log.first_in_memory(), log.last_index(), log.bytes()), (20, 21, 5));
    assert_eq!(
        (term(&log, 19), term(&log, 20), term(&log, 22)),
        (Ok(2), Ok(9), Err(StorageError::Unavailable))
    );
    assert_eq!(ask(&log, 15, 22), Err(StorageError::LogTemporarilyUnavailable));
    let second = log.next_fetch().unwrap();
    assert_eq!((second.low, second.high), (15, 20));
    // While it is read, more is overwritten: only what has the term that it has now counts.
    log.append(&[entry(18, 10, b"newest")]);
    assert_eq!(log.fetched(second, read_back(second, 20)).unwrap().len(), 1);
    assert_eq!(ask(&log, 15, 19).unwrap().len(), 3);
    // All of it.
    assert!(ask(&log, 15, 19).is_err());
    let third = log.next_fetch().unwrap();
    log.append(&[entry(15, 11, b"")]);
    assert_eq!(log.fetched(third, read_back(third, 18)).unwrap().len(), 1);
    assert_eq!(ask(&log, 15, 16).unwrap()[0].term, 11);
}

#[test]
fn a_log_whose_files_do_not_have_an_entry_says_so() {
    for answer in [
        ReadBack::Entries(Vec::new()),
        ReadBack::Entries(vec![entry(15, 1, b"of another term")]),
        ReadBack::Entries(vec![entry(16, 2, b"not the first")]),
        ReadBack::Gone { first_index: 21 },
    ] {
        let (mut log, fetch) = fetching(15);
        let error = log.fetched(fetch, answer).unwrap_err();
        assert!(matches!(error, crate::Error::NotInLog { index: 15, term: 2 }), "{error}");
    }
}

#[test]
fn compaction_reaches_over_what_went_from_memory() {
    let mut log = long_log(40);
    log.set_cache_bytes(0);
    log.evict(30);
    log.set_snapshot(metadata(35, 4, &[1], &[]));
    log.compact(12);
    assert_eq!((log.first_index(), log.first_in_memory(), term(&log, 12)), (13, 31, Ok(2)));
    assert_eq!(term(&log, 13), Ok(2));
    log.compact(33);
    assert_eq!((log.first_index(), log.first_in_memory(), log.bytes()), (34, 34, 700));
    log.compact(35);
    log.append(&[entry(41, 5, b"")]);
    assert_eq!((term(&log, 35), term(&log, 36), term(&log, 41)), (Ok(4), Ok(4), Ok(5)));

    // Parts of at least 64 KiB: here ten entries each.
    static LONG: [u8; 7000] = [1; 7000];
    let entries: Vec<Entry> = (1..=45).map(|index| entry(index, 1, &LONG)).collect();
    for (keep, first) in [
        (0, 41),
        (34_999, 37),
        (35_000, 36),
        (69_999, 36),
        (70_000, 31),
        (139_999, 31),
        (140_000, 21),
        (280_000, 1),
    ] {
        let mut log = LogStorage::new(SnapshotMetadata::default(), HardState::default(), entries.clone());
        log.set_snapshot(metadata(45, 1, &[1], &[]));
        log.set_cache_bytes(0);
        log.evict(35);
        log.compact_keeping(40, keep);
        assert_eq!(log.first_index(), first, "keeping {keep}");
    }
}
