//! The committed prost code is what `proto/command.proto` says. `KVD_BLESS=1 cargo test -p kvd-kvstore --test
//! generated` writes it anew.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let files = protox::compile(["command.proto"], [root.join("proto")]).unwrap();
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(files).unwrap();
    let fresh = std::fs::read_to_string(out.path().join("kvd.store.rs")).unwrap();
    let path = root.join("src/generated/kvd.store.rs");
    if std::env::var_os("KVD_BLESS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "{} is stale: run KVD_BLESS=1 cargo test -p kvd-kvstore --test generated",
        path.display()
    );
}
