//! Saving, reading, choosing and removing snapshots.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{self, Read, Write};

use common::*;
use kvd_raftpb::peers::SnapshotStore;
use kvd_snap::{CHUNK_BYTES, Error, MAX_METADATA_BYTES, Snapshotter, verify};
use kvd_vfs::{OpenMode, RealDisk};

#[test]
fn bodies_of_every_length_come_back() {
    let (mem, snapshotter) = setup();
    let lens = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7];
    for (index, len) in (1..).zip(lens) {
        let want = body(len);
        let bytes = save(&snapshotter, 2, index, &want).unwrap();
        let reader = snapshotter.read(2, index).unwrap();
        assert_eq!((reader.len(), reader.is_empty()), (len as u64, len == 0));
        assert_eq!(reader.metadata(), &metadata(2, index));
        assert!(read(&snapshotter, 2, index).unwrap() == want, "{len}");
        let summary = verify(&mem.disk(), &path(2, index)).unwrap();
        assert_eq!(summary.metadata, metadata(2, index));
        assert_eq!((summary.file_bytes, summary.body_bytes), (bytes, len as u64));
        assert_eq!(summary.chunks, len.div_ceil(CHUNK_BYTES) as u64);
    }
}

#[test]
fn the_size_of_writes_and_reads_does_not_matter() {
    let (_, snapshotter) = setup();
    let want = body(2 * CHUNK_BYTES + 100);
    save(&snapshotter, 1, 1, &want).unwrap();
    let whole = raw(&snapshotter, 1, 1);
    for piece in [7, CHUNK_BYTES - 1, CHUNK_BYTES + 1, want.len()] {
        let write = &mut |out: &mut dyn Write| want.chunks(piece).try_for_each(|piece| out.write_all(piece));
        snapshotter.save(&metadata(1, 1), write).unwrap();
        assert!(raw(&snapshotter, 1, 1) == whole, "{piece}");
        let mut reader = snapshotter.read(1, 1).unwrap();
        let (mut got, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                n => got.extend_from_slice(&buffer[..n]),
            }
        }
        assert!(got == want, "{piece}");
        // The end stays the end, and an empty buffer is no end.
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);
        assert_eq!(snapshotter.read(1, 1).unwrap().read(&mut []).unwrap(), 0);
    }
}

#[test]
fn the_exact_bytes_of_a_file() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 5, 300, b"kvd").unwrap();
    let bytes = mem.read_file(&path(5, 300)).unwrap();
    let hex: Vec<_> =
        bytes.chunks(16).map(|row| row.iter().map(|b| format!("{b:02x}")).collect::<String>()).collect();
    assert_eq!(
        hex,
        [
            // magic, version, crc
            "6b76642d736e617001000000b9ada0e4",
            // length of the metadata, the metadata
            "0c0000000a050a0301020310ac021805",
            // crc of the metadata; chunk: length, crc, body
            "2c9a5fb5030000008a4603916b766400",
            // trailer: 0, crc, body length, crc of the file, magic
            "000000bb5d0daa03000000000000004d",
            "61c3ee70616e732d64766b",
        ],
        "{hex:#?}"
    );
}

#[test]
fn names_are_term_and_index() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 0x1f, 0xabc, b"").unwrap();
    assert_eq!(names(&mem.disk()), ["000000000000001f-0000000000000abc.snap"]);
}

#[test]
fn the_newest_recorded_snapshot_is_chosen() {
    let (_, snapshotter) = setup();
    assert_eq!(snapshotter.newest_of(&[]).unwrap(), None);
    assert_eq!(snapshotter.newest_of(&[(1, 5)]).unwrap(), None);
    for (term, index) in [(1, 5), (1, 9), (2, 12), (3, 20)] {
        save(&snapshotter, term, index, b"state").unwrap();
    }
    let newest =
        |recorded: &[(u64, u64)]| snapshotter.newest_of(recorded).unwrap().map(|m| (m.term, m.index));
    assert_eq!(newest(&[(1, 5), (1, 9), (2, 12), (3, 20)]), Some((3, 20)));
    assert_eq!(newest(&[(2, 12), (1, 5)]), Some((2, 12)));
    // Term and index both count.
    assert_eq!(newest(&[(1, 5), (2, 20), (3, 12)]), Some((1, 5)));
    assert_eq!(newest(&[]), None);
    assert_eq!(snapshotter.newest_of(&[(3, 20)]).unwrap(), Some(metadata(3, 20)));
}

#[test]
fn orphans_are_removed_at_open_and_foreign_files_stay() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 1, 5, b"state").unwrap();
    for name in ["0000000000000001-0000000000000009.3.tmp", "x.tmp", "notes.txt", "1-5.snap", "a.snap"] {
        mem.disk().open(&dir().join(name), OpenMode::CreateNew).unwrap();
    }
    let again = Snapshotter::open(mem.disk(), dir()).unwrap();
    let kept = ["0000000000000001-0000000000000005.snap", "1-5.snap", "a.snap", "notes.txt"];
    assert_eq!(names(&mem.disk()), kept);
    assert_eq!(again.retain(9).unwrap(), [(1, 5)]);
    mem.crash_losing_all_unsynced();
    assert!(!names(&mem.disk()).iter().any(|name| name.ends_with(".tmp")), "the removal is durable");
}

#[test]
fn old_snapshots_are_removed_and_an_open_one_is_read_to_its_end() {
    let (mem, snapshotter) = setup();
    let ids = [(1, 5), (1, 9), (2, 7), (2, 12)];
    let want = body(2 * CHUNK_BYTES);
    for (term, index) in ids {
        save(&snapshotter, term, index, &want).unwrap();
    }
    let mut reader = snapshotter.read(1, 5).unwrap();
    let mut first = [0; 10];
    reader.read_exact(&mut first).unwrap();
    let (_, mut sending) = snapshotter.open(1, 9).unwrap();

    assert_eq!(snapshotter.retain(9).unwrap(), ids);
    assert_eq!(snapshotter.retain(4).unwrap(), ids);
    assert_eq!(snapshotter.retain(3).unwrap(), ids[1..]);
    assert_eq!(snapshotter.retain(2).unwrap(), ids[2..]);
    assert_eq!(snapshotter.retain(1).unwrap(), ids[3..]);
    assert_eq!(snapshotter.retain(0).unwrap(), ids[3..], "the last one stays");
    assert_eq!(names(&mem.disk()).len(), 1);

    let mut rest = first.to_vec();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest == want);
    let mut sent = Vec::new();
    sending.read_to_end(&mut sent).unwrap();
    receive(&snapshotter, 1, 9, &sent, 1000).unwrap();
    assert!(read(&snapshotter, 1, 9).unwrap() == want);
}

#[test]
fn a_snapshot_that_is_not_recorded_yet_does_not_push_out_a_recorded_one() {
    let (_, snapshotter) = setup();
    for index in 1..=5 {
        save(&snapshotter, 1, index, b"").unwrap();
    }
    assert_eq!(snapshotter.retain_up_to(2, (1, 4)).unwrap(), [(1, 3), (1, 4), (1, 5)]);
    assert_eq!(snapshotter.retain_up_to(1, (1, 4)).unwrap(), [(1, 4), (1, 5)]);
    assert_eq!(
        snapshotter.retain_up_to(1, (1, 3)).unwrap(),
        [(1, 4), (1, 5)],
        "nothing counted is left to remove"
    );
}

#[test]
fn unrecorded_snapshots_are_removed() {
    let (mem, snapshotter) = setup();
    for (term, index) in [(1, 5), (1, 9), (2, 12)] {
        save(&snapshotter, term, index, b"").unwrap();
    }
    snapshotter.remove_unrecorded(&[(1, 5), (2, 9)]).unwrap();
    assert_eq!(snapshotter.retain(9).unwrap(), [(1, 5)]);
    mem.crash_losing_all_unsynced();
    assert_eq!(names(&mem.disk()).len(), 1);
}

#[test]
fn a_body_that_cannot_be_written_leaves_nothing() {
    let (mem, snapshotter) = setup();
    let gave_up = snapshotter.save(&metadata(1, 5), &mut |out| {
        out.write_all(&body(CHUNK_BYTES + 1))?;
        Err(io::Error::other("no more state"))
    });
    let error = gave_up.unwrap_err();
    assert!(matches!(error, Error::Body { .. }), "{error}");
    assert!(error.to_string().contains("no more state"), "{error}");
    assert!(names(&mem.disk()).is_empty());
}

#[test]
fn the_metadata_is_bounded() {
    let (mem, snapshotter) = setup();
    // Each id above 2^56 takes nine bytes.
    let sized = |len: usize| {
        let mut metadata = metadata(1, 5);
        metadata.mut_conf_state().voters = vec![u64::MAX >> 1; len / 9 - 2];
        let missing = len - kvd_raftpb::codec::encode_snapshot_metadata(&metadata).len();
        metadata.mut_conf_state().voters.extend(vec![1; missing]);
        assert_eq!(kvd_raftpb::codec::encode_snapshot_metadata(&metadata).len(), len);
        metadata
    };
    let limit = MAX_METADATA_BYTES as usize;
    for len in [limit - 1, limit] {
        let metadata = sized(len);
        snapshotter.save(&metadata, &mut |_| Ok(())).unwrap();
        assert_eq!(snapshotter.newest_of(&[(1, 5)]).unwrap(), Some(metadata));
    }
    snapshotter.retain(1).unwrap();
    let error = snapshotter.save(&sized(limit + 1), &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::MetadataTooLarge { len, .. } if len == limit + 1), "{error}");
    assert_eq!(names(&mem.disk()).len(), 1);
}

#[test]
fn saves_receives_and_reads_run_beside_each_other() {
    let (mem, snapshotter) = setup();
    let want = body(3 * CHUNK_BYTES);
    save(&snapshotter, 1, 1, &want).unwrap();
    let sent = raw(&snapshotter, 1, 1);
    std::thread::scope(|scope| {
        for index in 2..6 {
            let (snapshotter, want) = (snapshotter.clone(), &want);
            scope.spawn(move || save(&snapshotter, 1, index, want).unwrap());
        }
        for _ in 0..4 {
            let (receiver, sent) = (snapshotter.clone(), &sent);
            // The same one several times: each has a temporary file of its own.
            scope.spawn(move || receive(&receiver, 1, 1, sent, 5000).unwrap());
            let snapshotter = snapshotter.clone();
            scope.spawn(move || assert!(raw(&snapshotter, 1, 1) == *sent));
        }
    });
    assert_eq!(snapshotter.retain(9).unwrap(), [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]);
    assert_eq!(names(&mem.disk()).len(), 5);
    for index in 1..6 {
        assert!(read(&snapshotter, 1, index).unwrap() == want);
    }
}

#[test]
fn on_a_real_disk_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("snap");
    let disk: kvd_vfs::Disk = std::sync::Arc::new(RealDisk::new());
    let snapshotter = Snapshotter::open(disk.clone(), &dir).unwrap();
    let want = body(CHUNK_BYTES + 5);
    save(&snapshotter, 1, 5, &want).unwrap();
    assert!(read(&snapshotter, 1, 5).unwrap() == want);
    let sent = raw(&snapshotter, 1, 5);
    let mut reader = snapshotter.read(1, 5).unwrap();
    snapshotter.remove_unrecorded(&[]).unwrap();
    assert!(matches!(snapshotter.read(1, 5), Err(Error::Io { .. })));
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest == want);
    receive(&snapshotter, 1, 5, &sent, 777).unwrap();
    let file = dir.join("0000000000000001-0000000000000005.snap");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(snapshotter.newest_of(&[(1, 5)]).unwrap(), Some(metadata(1, 5)));
}

#[test]
fn a_peer_does_not_exchange_what_the_log_recorded() {
    let (_, other) = setup();
    save(&other, 2, 7, b"something else").unwrap();
    let forged = raw(&other, 2, 7);
    for noted in [(|s: &Snapshotter| drop(s.newest_of(&[(2, 7)]).unwrap())) as fn(&Snapshotter), |s| {
        drop(s.retain_up_to(2, (3, 9)).unwrap())
    }] {
        let (mem, snapshotter) = setup();
        save(&snapshotter, 2, 7, b"the state").unwrap();
        let own = raw(&snapshotter, 2, 7);
        // Nobody said that it was recorded: the newer file counts.
        receive(&snapshotter, 2, 7, &forged, 9).unwrap();
        assert_eq!(read(&snapshotter, 2, 7).unwrap(), b"something else");
        mem.overwrite_file(&path(2, 7), own).unwrap();

        noted(&snapshotter);
        receive(&snapshotter, 2, 7, &forged, 9).unwrap();
        assert_eq!(read(&snapshotter, 2, 7).unwrap(), b"the state");
        assert_eq!(names(&mem.disk()).len(), 1, "what was received is gone");

        // Damage makes it worth nothing; a copy mends it.
        let mut rotten = mem.read_file(&path(2, 7)).unwrap();
        rotten[20] ^= 1;
        mem.overwrite_file(&path(2, 7), rotten).unwrap();
        receive(&snapshotter, 2, 7, &forged, 9).unwrap();
        assert_eq!(read(&snapshotter, 2, 7).unwrap(), b"something else");
    }
}
