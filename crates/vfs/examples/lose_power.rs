//! Replaces a file in the one order that is safe, and in one that is not, and loses power after each.
//!
//! `cargo run -p kvd-vfs --example lose_power`

use std::io;
use std::path::Path;

use kvd_vfs::{MemDisk, OpenMode, Vfs};

/// Gives a file new content. `careful`: the content is durable before it has its name, and then the name is.
fn replace(disk: &dyn Vfs, content: &[u8], careful: bool) -> io::Result<()> {
    let (temporary, path) = (Path::new("/data/file.tmp"), Path::new("/data/file"));
    let mut file = disk.open(temporary, OpenMode::Truncate)?;
    file.write_all_at(content, 0)?;
    if careful {
        file.sync_data()?;
    }
    disk.rename(temporary, path)?;
    if careful {
        disk.sync_dir(Path::new("/data"))?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    for careful in [true, false] {
        let mut lost = 0;
        for seed in 0..100 {
            // `RealDisk::new()` is the disk to use in earnest; this one can lose its power.
            let disk = MemDisk::new();
            disk.create_dir_all(Path::new("/data"))?;
            replace(&disk, b"the old content", true)?;
            replace(&disk, b"the new content", careful)?;
            // Of what was not synced, any part may be on the disk afterwards.
            disk.crash(seed);
            lost += u32::from(disk.read_file(Path::new("/data/file"))? != b"the new content");
        }
        println!("careful: {careful}; the new content was lost in {lost} of 100 power failures");
        assert_eq!(lost > 0, !careful);
    }
    Ok(())
}
