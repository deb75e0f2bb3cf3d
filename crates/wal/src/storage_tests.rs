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
    let one = message_share(&log.entries[0]);
    let two = one + message_share(&log.entries[1]);
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
