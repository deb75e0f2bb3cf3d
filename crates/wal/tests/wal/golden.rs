//! The bytes of a new log, drawn out. A change here is a change of the format: it needs a new version.
//! `KVD_BLESS=1` rewrites the expected bytes.

use crate::support::*;

#[test]
fn a_new_log_with_one_save_has_exactly_these_bytes() {
    let disk = kvd_vfs::MemDisk::new();
    let mut wal = create(&disk, 4096);
    let mut first = entry(1, 1, 0);
    first.data = b"hello".as_slice().into();
    wal.save(&[first], Some(&hard_state(1, 2, 0)), true).unwrap();
    wal.close().unwrap();

    let paths = segments(&disk);
    assert_eq!(paths, [dir().join("0000000000000000-0000000000000000.wal")]);
    let bytes = read(&disk, &paths[0]);
    assert_eq!(bytes.len(), 4096);
    let dump = dump(&bytes);
    if std::env::var_os("KVD_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wal/golden.hex"), &dump).unwrap();
    }
    assert!(dump == include_str!("golden.hex"), "KVD_BLESS=1 rewrites golden.hex; now it is\n{dump}");
}

/// As `hexdump -C` prints: sixteen bytes a line, `*` for lines like the one before.
fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut before: Option<&[u8]> = None;
    let mut starred = false;
    for (i, line) in bytes.chunks(16).enumerate() {
        if before == Some(line) {
            if !starred {
                out += "*\n";
            }
            starred = true;
            continue;
        }
        (before, starred) = (Some(line), false);
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = line
            .iter()
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
            .collect();
        out += &format!("{:08x}  {}  {}  |{text}|\n", i * 16, hex[..8].join(" "), hex[8..].join(" "));
    }
    out + &format!("{:08x}\n", bytes.len())
}
