//! A snapshot file: verified, read, received from a peer, loaded as the newest.
//!
//! The first byte is options. Unless it has bit 1, checksums are corrected as far as the lengths lead.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use kvd_raftpb::peers::SnapshotStore as _;
use kvd_snap::{Snapshotter, verify};
use kvd_vfs::{MemDisk, OpenMode, Vfs as _};

use crate::input::Input;

/// The term and index that the file has in its name.
pub(crate) const TERM: u64 = 5;
pub(crate) const INDEX: u64 = 7;

fn dir() -> &'static Path {
    Path::new("/snap")
}

fn path() -> PathBuf {
    dir().join(format!("{TERM:016x}-{INDEX:016x}.snap"))
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let options = input.byte();
    let piece = usize::from(input.byte()) + 1;
    let mut bytes = input.rest().to_vec();
    if options & 1 == 0 {
        correct(&mut bytes);
    }
    let (mem, snapshotter) = stored(&bytes);
    let verified = verify(&mem.disk(), &path());
    let ours = verified.as_ref().is_ok_and(|s| (s.metadata.term, s.metadata.index) == (TERM, INDEX));

    let read = snapshotter.read(TERM, INDEX).map_err(std::io::Error::from).and_then(|mut reader| {
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        assert_eq!(reader.len(), body.len() as u64);
        Ok(body)
    });
    assert_eq!(read.is_ok(), ours, "whoever reads the body finds what verify finds");
    if let (Ok(body), Ok(summary)) = (&read, &verified) {
        assert_eq!((body.len() as u64, bytes.len() as u64), (summary.body_bytes, summary.file_bytes));
    }
    let mut sent = Vec::new();
    let raw = snapshotter.open(TERM, INDEX).and_then(|(_, mut reader)| reader.read_to_end(&mut sent));
    assert_eq!(raw.is_ok(), verified.is_ok(), "whoever sends the file finds what verify finds");
    received(&bytes, piece, ours);

    let newest = snapshotter.newest_of(&[(TERM, INDEX)]);
    let kept = mem.exists(&path()).expect("a sound disk");
    match newest {
        Ok(Some(_)) => assert!(ours && kept),
        Ok(None) => assert!(!ours && !kept, "what is damaged is set aside"),
        Err(error) => assert!(!ours && kept && !error.is_corruption(), "a newer version stays: {error}"),
    }
}

fn stored(bytes: &[u8]) -> (MemDisk, Snapshotter) {
    let mem = MemDisk::new();
    let snapshotter = Snapshotter::open(mem.disk(), dir()).expect("a sound disk");
    mem.open(&path(), OpenMode::Truncate).expect("a sound disk");
    mem.overwrite_file(&path(), bytes.to_vec()).expect("it was just made");
    (mem, snapshotter)
}

fn received(bytes: &[u8], piece: usize, whole: bool) {
    let mem = MemDisk::new();
    let snapshotter = Snapshotter::open(mem.disk(), dir()).expect("a sound disk");
    let mut sink = snapshotter.receive(TERM, INDEX).expect("a sound disk");
    let installed =
        bytes.chunks(piece).try_for_each(|piece| sink.write_all(piece)).and_then(|()| sink.install());
    assert_eq!(installed.is_ok(), whole, "whoever receives the file finds what verify finds");
    let names = mem.list(dir()).expect("a sound disk");
    assert_eq!(names.len(), usize::from(whole), "a whole file or none: {names:?}");
}

/// Corrects the checksums of docs/snap-format.md.
fn correct(bytes: &mut [u8]) {
    let put = |bytes: &mut [u8], at: usize, crc: u32| {
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    };
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    if bytes.len() < 20 {
        return;
    }
    put(bytes, 12, crc32fast::hash(&bytes[..12]));
    let Some(end) = word(bytes, 16).and_then(|len| len.checked_add(20)).filter(|end| *end <= bytes.len())
    else {
        return;
    };
    put(bytes, end, crc32fast::hash(&bytes[16..end]));
    let (mut at, mut number) = (end + 4, 0_u64);
    while let Some(len) = word(bytes, at) {
        let trailer = len == 0;
        let rest = if trailer { 20 } else { len };
        let Some(body_end) = (at + 8).checked_add(rest).filter(|end| *end <= bytes.len()) else { return };
        if trailer {
            put(bytes, at + 16, crc32fast::hash(&bytes[..at]));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&number.to_le_bytes());
        crc.update(&(len as u32).to_le_bytes());
        crc.update(&bytes[at + 8..body_end]);
        put(bytes, at + 4, crc.finalize());
        if trailer {
            return;
        }
        (at, number) = (body_end, number + 1);
    }
}
