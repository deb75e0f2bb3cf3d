//! What this machine can do to a cluster.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::cluster::{FAKETIME, output, run};
use crate::faults::Kind;

/// Why a kind of fault cannot happen here; `None` if it can.
pub fn missing(kind: Kind) -> Option<String> {
    static TRACE: OnceLock<Result<(), String>> = OnceLock::new();
    static TMPFS: OnceLock<Result<(), String>> = OnceLock::new();
    static EXT4: OnceLock<Result<(), String>> = OnceLock::new();
    let result = match kind {
        Kind::DiskError | Kind::DiskDelay => TRACE.get_or_init(trace).clone(),
        Kind::FullDisk => TMPFS.get_or_init(tmpfs).clone(),
        Kind::PowerLoss | Kind::PowerLossAll => EXT4.get_or_init(ext4).clone(),
        Kind::Clock if !Path::new(FAKETIME).exists() => Err(format!("{FAKETIME}: install libfaketime")),
        _ => Ok(()),
    };
    result.err()
}

fn trace() -> Result<(), String> {
    // By attaching, as the fault does: some sandboxes allow only the tracing of one's own children.
    let mut sleeper =
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().map_err(|e| e.to_string())?;
    let pid = sleeper.id().to_string();
    let traced = output(Command::new("timeout").args(["-s", "TERM", "1", "strace", "-q", "-p", &pid]));
    sleeper.kill().and_then(|()| sleeper.wait()).map_err(|e| e.to_string())?;
    match traced {
        // `timeout` ends a tracer that could attach.
        Err(error) if error.contains("exit status: 124") => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err("strace ended by itself".into()),
    }
}

fn tmpfs() -> Result<(), String> {
    in_a_directory(|at| {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "kvd-chaos"]).arg(at))?;
        run(Command::new("umount").arg(at))
    })
}

fn ext4() -> Result<(), String> {
    run(Command::new("perl").args(["-e", "1"]))?;
    in_a_directory(|at| {
        let image = at.with_extension("ext4");
        let tried = (|| {
            run(Command::new("truncate").args(["-s", "8M"]).arg(&image))?;
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at))?;
            run(Command::new("umount").arg(at))
        })();
        let removed = std::fs::remove_file(&image).map_err(|e| format!("{}: {e}", image.display()));
        tried.and(removed)
    })
}

fn in_a_directory(work: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let at = std::env::temp_dir().join(format!("kvd-chaos-{}", std::process::id()));
    let error = |e: std::io::Error| format!("{}: {e}", at.display());
    std::fs::create_dir(&at).map_err(error)?;
    let worked = work(&at);
    std::fs::remove_dir(&at).map_err(error)?;
    worked
}
