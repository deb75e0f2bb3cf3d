//! The binaries under test.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Path of an up-to-date `kvd`.
///
/// `KVD_BIN` names it. Else it is the one beside the test itself, in the same target directory and of the same profile:
/// `cargo test --workspace` builds it there, and if it is missing or older than its sources, cargo builds it now.
///
/// # Panics
/// If the build fails.
pub fn kvd() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("KVD_BIN") {
        Some(path) => fs::canonicalize(&path).unwrap_or_else(|e| panic!("KVD_BIN={path:?}: {e}")),
        None => build("kvd"),
    })
}

/// Path of an up-to-date `kvctl`: as [`kvd`], by `KVCTL_BIN`.
///
/// # Panics
/// If the build fails.
pub fn kvctl() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("KVCTL_BIN") {
        Some(path) => fs::canonicalize(&path).unwrap_or_else(|e| panic!("KVCTL_BIN={path:?}: {e}")),
        None => build("kvctl"),
    })
}

fn build(name: &str) -> PathBuf {
    // TARGET/PROFILE/deps/this-test
    let test = std::env::current_exe().expect("the path of the running test");
    let output = test.parent().and_then(Path::parent).expect("TARGET/PROFILE above deps/");
    let binary = output.join(name);
    if is_up_to_date(&binary, name) {
        return binary;
    }
    let target = output.parent().expect("TARGET above PROFILE/");
    let profile = match output.file_name().and_then(|n| n.to_str()) {
        Some("debug") => "test", // both the dev and the test profile are put there
        Some(other) => other,
        None => panic!("{} has no profile directory", test.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", name, "--bin", name, "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo, which started this test, can be started again");
    assert!(status.success(), "cargo build --package {name}: {status}");
    binary
}

/// Whether the binary is younger than everything that it could be made from.
fn is_up_to_date(binary: &Path, name: &str) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let package = format!("bin/{name}");
    let sources = ["Cargo.lock", "Cargo.toml", &package, "crates"].map(|name| newest(&workspace.join(name)));
    match (modified(binary), sources.into_iter().collect::<io::Result<Vec<_>>>()) {
        (Ok(built), Ok(changed)) => changed.into_iter().all(|time| time <= built),
        _ => false,
    }
}

/// When a file, or the newest one below a directory, was last changed. Tests and examples do not count.
fn newest(path: &Path) -> io::Result<SystemTime> {
    let metadata = fs::metadata(path)?;
    let mut newest = metadata.modified()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if !["tests", "examples", "benches"].iter().any(|name| entry.file_name() == *name) {
                newest = newest.max(self::newest(&entry.path())?);
            }
        }
    }
    Ok(newest)
}
