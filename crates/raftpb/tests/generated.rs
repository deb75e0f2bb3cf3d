//! The committed prost code is what the `.proto` files say. `KVD_BLESS=1 cargo test -p kvd-raftpb --test generated`
//! writes it anew.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let files = protox::compile(["raft.proto", "node.proto"], [root.join("proto")]).unwrap();
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(files).unwrap();
    for name in ["kvd.raft.rs", "kvd.node.rs"] {
        let fresh = std::fs::read_to_string(out.path().join(name)).unwrap();
        let path = root.join("src/generated").join(name);
        if std::env::var_os("KVD_BLESS").is_some() {
            std::fs::write(&path, &fresh).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == fresh,
            "{} is stale: run KVD_BLESS=1 cargo test -p kvd-raftpb --test generated",
            path.display()
        );
    }
}
