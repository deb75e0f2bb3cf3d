//! Damaged files: found, named, set aside. The table at the end of `docs/snap-format.md`, walked.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{self, Read};

use common::*;
use kvd_raftpb::peers::SnapshotStore;
use kvd_snap::loading::{Finding, TABLE, Verdict};
use kvd_snap::{
    CHUNK_BYTES, Damage, Error, MAX_CHUNK_BYTES, MAX_METADATA_BYTES, Snapshotter, VERSION, verify,
};
use kvd_vfs::{MemDisk, Op, OpenMode};

/// A small file with several chunks, which only another writer would make: the shape is legal.
fn small() -> Vec<u8> {
    let (_, snapshotter) = setup();
    save(&snapshotter, 2, 7, b"a small state").unwrap();
    raw(&snapshotter, 2, 7)
}

fn put(mem: &MemDisk, bytes: Vec<u8>) {
    mem.disk().open(&path(2, 7), OpenMode::Truncate).unwrap();
    mem.overwrite_file(&path(2, 7), bytes).unwrap();
}

/// Every way to read the file finds the damage; nobody hands out a byte that was not in `original`.
fn expect_damage(mem: &MemDisk, snapshotter: &Snapshotter, bytes: &[u8], what: &str) -> Damage {
    put(mem, bytes.to_vec());
    let damage = match verify(&mem.disk(), &path(2, 7)) {
        Err(Error::Corrupt { path: file, damage, offset }) => {
            assert_eq!(file, path(2, 7));
            assert!(offset <= bytes.len() as u64, "{what}");
            damage
        }
        other => panic!("{what}: verify says {other:?}"),
    };
    let read_all = || -> io::Result<()> {
        let mut body = Vec::new();
        let result = snapshotter.read(2, 7)?.read_to_end(&mut body);
        assert!(b"a small state".starts_with(&body), "{what}: handed out {body:?}");
        result.map(drop)
    };
    let error = read_all().expect_err(what);
    assert!(matches!(typed(&error), Error::Corrupt { .. }), "{what}: {error}");

    let (_, mut sending) = snapshotter.open(2, 7).unwrap();
    let error = sending.read_to_end(&mut Vec::new()).expect_err(what);
    assert!(matches!(typed(&error), Error::Corrupt { .. }), "{what}: {error}");
    assert!(sending.read(&mut [0; 9]).is_err(), "{what}: it stays so");

    for piece in [1, bytes.len().max(1)] {
        let error = receive(snapshotter, 2, 7, bytes, piece).expect_err(what);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
    }
    assert_eq!(names(&mem.disk()).len(), 1, "{what}: nothing was left by the receiver");

    assert_eq!(snapshotter.newest_of(&[(2, 7)]).unwrap(), None, "{what}");
    assert_eq!(names(&mem.disk()), ["0000000000000002-0000000000000007.snap.broken"], "{what}");
    mem.disk().remove_file(&path(2, 7).with_extension("snap.broken")).unwrap();
    damage
}

#[test]
fn every_truncation_is_found() {
    let (mem, snapshotter) = setup();
    let whole = small();
    for len in 0..whole.len() {
        let damage = expect_damage(&mem, &snapshotter, &whole[..len], &format!("cut to {len}"));
        assert_eq!(damage, Damage::Truncated(len as u64));
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let (mem, snapshotter) = setup();
    let whole = small();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        expect_damage(&mem, &snapshotter, &bytes, &format!("bit {bit} flipped"));
    }
}

#[test]
fn every_zeroed_or_overwritten_stretch_is_found() {
    let (mem, snapshotter) = setup();
    let whole = small();
    for from in 0..whole.len() {
        for (len, value) in [(4, 0), (whole.len(), 0), (4, 0xff), (9, 0xff)] {
            let mut bytes = whole.clone();
            let to = (from + len).min(whole.len());
            bytes[from..to].fill(value);
            if bytes != whole {
                expect_damage(&mem, &snapshotter, &bytes, &format!("{from}..{to} filled with {value}"));
            }
        }
    }
}

#[test]
fn bytes_after_the_end_are_found() {
    let (mem, snapshotter) = setup();
    for extra in [&b"\0"[..], &small()] {
        let bytes = [&small()[..], extra].concat();
        let damage = expect_damage(&mem, &snapshotter, &bytes, "more bytes");
        assert_eq!(damage, Damage::TrailingBytes);
    }
}

/// The parts of a file, put together by hand.
struct Parts {
    version: u32,
    metadata: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    body_len: u64,
}

impl Parts {
    fn new(chunks: &[&[u8]]) -> Self {
        let metadata = kvd_raftpb::codec::encode_snapshot_metadata(&metadata(2, 7));
        let body_len = chunks.iter().map(|c| c.len() as u64).sum();
        Self { version: VERSION, metadata, chunks: chunks.iter().map(|c| c.to_vec()).collect(), body_len }
    }

    fn bytes(&self) -> Vec<u8> {
        let crc = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
        let mut out = [&b"kvd-snap"[..], &self.version.to_le_bytes()].concat();
        out.extend(crc(&out));
        out.extend((self.metadata.len() as u32).to_le_bytes());
        out.extend(&self.metadata);
        out.extend(crc(&out[16..]));
        for (number, chunk) in (0_u64..).zip(&self.chunks) {
            let len = (chunk.len() as u32).to_le_bytes();
            out.extend(len);
            out.extend(crc(&[&number.to_le_bytes()[..], &len, chunk].concat()));
            out.extend(chunk);
        }
        let rest = [&self.body_len.to_le_bytes()[..], &crc(&out), b"pans-dvk"].concat();
        let number = (self.chunks.len() as u64).to_le_bytes();
        out.extend([0; 4]);
        out.extend(crc(&[&number[..], &[0; 4], &rest].concat()));
        out.extend(rest);
        out
    }
}

#[test]
fn the_parts_put_together_by_hand_are_a_file() {
    let (mem, snapshotter) = setup();
    assert_eq!(Parts::new(&[b"a small state"]).bytes(), small());
    put(&mem, Parts::new(&[b"a ", b"small", b" state"]).bytes());
    assert_eq!(read(&snapshotter, 2, 7).unwrap(), b"a small state");
    assert_eq!(verify(&mem.disk(), &path(2, 7)).unwrap().chunks, 3);
}

#[test]
fn each_damage_has_its_name() {
    let (mem, snapshotter) = setup();
    let whole = Parts::new(&[b"a ", b"small", b" state"]).bytes();
    let header = 16 + 4 + Parts::new(&[]).metadata.len() + 4;
    let set = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let with = |change: fn(&mut Parts)| {
        let mut parts = Parts::new(&[b"a ", b"small", b" state"]);
        change(&mut parts);
        parts.bytes()
    };
    // The second and third chunk change places: same lengths in the file, each checksum right for its bytes.
    let (second, third) = (header + 10, header + 10 + 13);
    let swapped =
        [&whole[..second], &whole[third..third + 14], &whole[second..third], &whole[third + 14..]].concat();
    let twice = [&whole[..second], &whole[header..]].concat();
    let gone = [&whole[..second], &whole[third..]].concat();
    let max = MAX_METADATA_BYTES;
    let chunk_max = MAX_CHUNK_BYTES;
    for (what, bytes, want) in [
        ("another magic", set(0, b"x"), Damage::Magic),
        ("a flipped version", set(8, &[3]), Damage::Prelude),
        ("version 0", with(|p| p.version = 0), Damage::Version(0)),
        ("no metadata", set(16, &[0; 4]), Damage::MetadataLength { len: 0, max }),
        ("much metadata", set(16, &(max + 1).to_le_bytes()), Damage::MetadataLength { len: max + 1, max }),
        ("other metadata", set(22, &[9]), Damage::Metadata),
        (
            "a long chunk",
            set(header, &(chunk_max + 1).to_le_bytes()),
            Damage::ChunkLength { chunk: 0, len: chunk_max + 1, max: chunk_max },
        ),
        ("another byte in a chunk", set(header + 8, b"A"), Damage::Chunk(0)),
        ("chunks in another order", swapped, Damage::Chunk(1)),
        ("a chunk twice", twice, Damage::Chunk(1)),
        ("a chunk gone", gone, Damage::Chunk(1)),
        ("the last chunk gone", [&whole[..third], &whole[third + 14..]].concat(), Damage::Trailer),
        ("another length", with(|p| p.body_len += 1), Damage::BodyLength { found: 13, expected: 14 }),
        ("another end", set(whole.len() - 1, b"K"), Damage::Trailer),
    ] {
        assert_eq!(expect_damage(&mem, &snapshotter, &bytes, what), want, "{what}");
    }
    let noise = expect_damage(&mem, &snapshotter, &with(|p| p.metadata = vec![0xff; 9]), "noise");
    assert!(matches!(noise, Damage::MetadataEncoding(_)), "{noise:?}");
}

#[test]
fn a_right_file_with_a_wrong_checksum_of_the_whole_is_found() {
    let (mem, snapshotter) = setup();
    let mut bytes = Parts::new(&[b"a small state"]).bytes();
    let trailer = bytes.len() - 28;
    bytes[trailer + 16] ^= 1;
    let rest = bytes[trailer + 8..].to_vec();
    let crc = crc32fast::hash(&[&1_u64.to_le_bytes()[..], &[0; 4], &rest].concat());
    bytes[trailer + 4..trailer + 8].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(expect_damage(&mem, &snapshotter, &bytes, "the whole"), Damage::Whole);
}

#[test]
fn the_longest_chunk_is_read_and_not_a_byte_more() {
    let (mem, snapshotter) = setup();
    let longest = body(MAX_CHUNK_BYTES as usize);
    for (len, ok) in [(longest.len() - 1, true), (longest.len(), true), (longest.len() + 1, false)] {
        let mut chunk = longest.clone();
        chunk.resize(len, 1);
        put(&mem, Parts::new(&[&chunk]).bytes());
        assert_eq!(verify(&mem.disk(), &path(2, 7)).is_ok(), ok, "{len}");
        assert_eq!(read(&snapshotter, 2, 7).is_ok(), ok, "{len}");
    }
}

#[test]
fn a_newer_version_is_named_and_left_alone() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 1, 5, b"older").unwrap();
    let mut parts = Parts::new(&[]);
    parts.version = VERSION + 1;
    // Whatever follows the prelude is unknown.
    let mut bytes = parts.bytes();
    bytes[16..].fill(0xaa);
    put(&mem, bytes.clone());
    let newer = |error: &Error| {
        assert!(matches!(error, Error::NewerVersion { found: 2, newest: 1, .. }), "{error}");
        assert!(!error.is_corruption());
        assert!(error.to_string().contains("upgrade"), "{error}");
    };
    newer(&snapshotter.newest_of(&[(1, 5), (2, 7)]).unwrap_err());
    newer(&snapshotter.read(2, 7).unwrap_err());
    newer(typed(&receive(&snapshotter, 2, 8, &bytes, 10).unwrap_err()));
    let (_, mut sending) = snapshotter.open(2, 7).unwrap();
    newer(typed(&sending.read_to_end(&mut Vec::new()).unwrap_err()));
    assert_eq!(names(&mem.disk()).len(), 2, "not set aside, and nothing left of the received one");
}

#[test]
fn a_file_under_another_name_is_set_aside() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 1, 5, b"older").unwrap();
    save(&snapshotter, 2, 6, b"misplaced").unwrap();
    mem.disk().rename(&path(2, 6), &path(2, 7)).unwrap();
    let error = snapshotter.read(2, 7).unwrap_err();
    assert!(matches!(error, Error::Other { asked: (2, 7), found: (2, 6), .. }), "{error}");
    let newest = snapshotter.newest_of(&[(1, 5), (2, 7)]).unwrap();
    assert_eq!(newest, Some(metadata(1, 5)));
}

#[test]
fn damaged_files_are_set_aside_one_after_the_other() {
    let (mem, snapshotter) = setup();
    for index in 1..=4 {
        save(&snapshotter, 1, index, &body(CHUNK_BYTES + 9)).unwrap();
    }
    for index in [2, 4] {
        let mut bytes = mem.read_file(&path(1, index)).unwrap();
        // In the second chunk: the whole file is looked at.
        let at = bytes.len() - 30;
        bytes[at] ^= 1;
        mem.overwrite_file(&path(1, index), bytes).unwrap();
    }
    // Number 3 was not recorded; 2 and 4 are damaged.
    let newest = snapshotter.newest_of(&[(1, 1), (1, 2), (1, 4)]).unwrap();
    assert_eq!(newest, Some(metadata(1, 1)));
    mem.crash_losing_all_unsynced();
    let name = |index: u64, suffix: &str| format!("0000000000000001-{index:016x}.snap{suffix}");
    assert_eq!(names(&mem.disk()), [name(1, ""), name(2, ".broken"), name(3, ""), name(4, ".broken")]);
    // Retention passes the older broken one.
    let snapshotter = Snapshotter::open(mem.disk(), dir()).unwrap();
    assert_eq!(snapshotter.retain(1).unwrap(), [(1, 3)]);
    assert_eq!(names(&mem.disk()), [name(3, ""), name(4, ".broken")]);
}

/// Makes the newest of two recorded snapshots look like that, in every way that there is.
fn made(finding: Finding) -> Vec<(MemDisk, Snapshotter)> {
    let fresh = || {
        let (mem, snapshotter) = setup();
        save(&snapshotter, 1, 5, b"older").unwrap();
        save(&snapshotter, 2, 7, b"a small state").unwrap();
        (mem, snapshotter)
    };
    let with = |bytes: Vec<u8>| {
        let (mem, snapshotter) = fresh();
        mem.overwrite_file(&path(2, 7), bytes).unwrap();
        (mem, snapshotter)
    };
    match finding {
        Finding::Absent => {
            let (mem, snapshotter) = fresh();
            mem.disk().remove_file(&path(2, 7)).unwrap();
            vec![(mem, snapshotter)]
        }
        // One for each row of the document that says so.
        Finding::Damaged => {
            let (whole, mut length) = (small(), Parts::new(&[b"a small state"]));
            length.body_len += 1;
            let mut bound = whole.clone();
            bound[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
            let (early, late) = (whole[..whole.len() - 1].to_vec(), [&whole[..], b"x"].concat());
            vec![with(vec![0; 99]), with(bound), with(early), with(late), with(length.bytes())]
        }
        Finding::Other => {
            let (mem, snapshotter) = fresh();
            save(&snapshotter, 3, 9, b"misplaced").unwrap();
            mem.disk().rename(&path(3, 9), &path(2, 7)).unwrap();
            vec![(mem, snapshotter)]
        }
        Finding::Newer => {
            let mut parts = Parts::new(&[b"a small state"]);
            parts.version = VERSION + 1;
            vec![with(parts.bytes())]
        }
        Finding::Unreadable => {
            let (mem, snapshotter) = fresh();
            // The first read lists the directory.
            mem.fail_nth(Op::Read, 2, MemDisk::EIO);
            vec![(mem, snapshotter)]
        }
        Finding::Whole => vec![fresh()],
    }
}

#[test]
fn every_row_of_the_loading_table_holds_on_real_bytes() {
    let (older, newer) = ("0000000000000001-0000000000000005.snap", "0000000000000002-0000000000000007.snap");
    let broken = format!("{newer}.broken");
    for (finding, want) in TABLE {
        for (mem, snapshotter) in made(finding) {
            let loaded = snapshotter.newest_of(&[(1, 5), (2, 7)]);
            let names = names(&mem.disk());
            let verdict = match loaded {
                Ok(Some(loaded)) if loaded == metadata(2, 7) => {
                    assert_eq!(names, [older, newer]);
                    Verdict::Load
                }
                Ok(Some(loaded)) => {
                    assert_eq!(loaded, metadata(1, 5));
                    if names == [older] { Verdict::Older } else { Verdict::SetAside }
                }
                Ok(None) => panic!("{finding:?}: the older one is there"),
                Err(error) => {
                    assert!(error.to_string().contains(newer), "{error}");
                    assert_eq!(names, [older, newer]);
                    Verdict::Refuse
                }
            };
            assert_eq!(verdict, want, "{finding:?}");
            if verdict == Verdict::SetAside {
                assert_eq!(names, [older, broken.as_str()], "{finding:?}");
            }
        }
    }
}

#[test]
fn the_document_has_the_same_table() {
    let document = include_str!("../../../docs/snap-format.md");
    let mut rows: Vec<(String, Verdict)> = document
        .lines()
        .skip_while(|line| !line.starts_with("| finding |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let verdict = match (cells[2].split([' ', ':']).next().unwrap(), cells[3]) {
                ("loaded", "stays") => Verdict::Load,
                ("the", "-") => Verdict::Older,
                ("the", "renamed `.broken`") => Verdict::SetAside,
                ("error", "stays") => Verdict::Refuse,
                other => panic!("no verdict: {other:?}"),
            };
            (cells[0].to_owned(), verdict)
        })
        .collect();
    rows.dedup();
    let table = TABLE.map(|(finding, verdict)| (format!("{finding:?}").to_lowercase(), verdict));
    assert_eq!(rows, table);
}

#[test]
fn what_is_received_is_what_was_asked_for() {
    let (mem, snapshotter) = setup();
    let bytes = small();
    for (term, index) in [(2, 8), (3, 7), (0, 0)] {
        let mut sink = snapshotter.receive(term, index).unwrap();
        let error = io::Write::write_all(&mut sink, &bytes).unwrap_err();
        assert!(matches!(typed(&error), Error::Other { found: (2, 7), .. }), "{error}");
        // What was refused once stays refused.
        assert!(io::Write::write(&mut sink, &bytes).is_err());
        assert!(sink.install().is_err());
        assert!(names(&mem.disk()).is_empty());
    }
    // Short, empty, long.
    for (bytes, want) in [
        (&bytes[..bytes.len() - 1], Damage::Truncated(bytes.len() as u64 - 1)),
        (&[][..], Damage::Truncated(0)),
        (&[&bytes[..], b"x"].concat(), Damage::TrailingBytes),
    ] {
        let error = receive(&snapshotter, 2, 7, bytes, 1 << 20).unwrap_err();
        assert!(matches!(typed(&error), Error::Corrupt { damage, .. } if *damage == want), "{error}");
        assert!(names(&mem.disk()).is_empty());
    }
    drop(snapshotter.receive(2, 7).unwrap());
    assert!(names(&mem.disk()).is_empty(), "dropped, it leaves nothing");
    receive(&snapshotter, 2, 7, &bytes, 1).unwrap();
    assert_eq!(read(&snapshotter, 2, 7).unwrap(), b"a small state");
}
