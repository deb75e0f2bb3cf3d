//! The layer diagram of ARCHITECTURE.md, read from `cargo metadata`.
//!
//! A crate may use what stands below it and nothing else. The table below is the diagram; a new crate needs a line.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Every package of the workspace with those of the workspace that it may depend on, lowest first.
const MAY_USE: &[(&str, &[&str])] = &[
    ("kvd-mutation", &[]),
    ("kvd-vfs", &[]),
    ("kvd-raftpb", &[]),
    ("kvd-wal", &["kvd-mutation", "kvd-vfs", "kvd-raftpb"]),
    ("kvd-snap", &["kvd-mutation", "kvd-vfs", "kvd-raftpb"]),
    ("kvd-transport", &["kvd-raftpb"]),
    ("kvd-node", &["kvd-mutation", "kvd-vfs", "kvd-raftpb", "kvd-wal", "kvd-snap"]),
    ("kvd-kvstore", &["kvd-mutation", "kvd-raftpb", "kvd-node"]),
    ("kvd-http-api", &["kvd-kvstore"]),
    ("kvd-resp-api", &["kvd-kvstore"]),
    (
        "kvd",
        &[
            "kvd-vfs",
            "kvd-raftpb",
            "kvd-wal",
            "kvd-snap",
            "kvd-transport",
            "kvd-node",
            "kvd-kvstore",
            "kvd-http-api",
            "kvd-resp-api",
        ],
    ),
    // A client has its own HTTP, and reads a member's files with the crates that own their formats.
    ("kvctl", &["kvd-vfs", "kvd-raftpb", "kvd-wal", "kvd-snap"]),
    // A checker of recorded histories; knows no store.
    ("kvd-linearizability", &[]),
    ("kvd-tests", &[]),
    ("kvd-chaos", &["kvd-linearizability", "kvd-tests", "kvd-vfs"]),
    // Drives the hot paths one by one, the door among them.
    ("kvd-instructions", &["kvd-vfs", "kvd-raftpb", "kvd-wal", "kvd-node", "kvd-kvstore", "kvd-http-api"]),
    // Drives the node and everything below it; no transport, no door, no runtime.
    ("kvd-sim", &["kvd-mutation", "kvd-vfs", "kvd-raftpb", "kvd-wal", "kvd-snap", "kvd-node", "kvd-kvstore"]),
    // Gives bytes to whatever parses some, wherever it is.
    (
        "kvd-fuzz",
        &[
            "kvd-vfs",
            "kvd-raftpb",
            "kvd-wal",
            "kvd-snap",
            "kvd-transport",
            "kvd-node",
            "kvd-kvstore",
            "kvd-resp-api",
            "kvd",
            "kvctl",
        ],
    ),
    // The log and the snapshots alone, and the node's bootstrap over them, with a state machine of its own.
    ("kvd-crash-images", &["kvd-vfs", "kvd-raftpb", "kvd-wal", "kvd-snap", "kvd-node"]),
    // Starts the others as programs.
    ("xtask", &[]),
];

/// Packages from outside that a package must not reach: through whatever it uses, ours or not.
const NEVER_REACHES: &[(&[&str], &[&str])] = &[
    // The Ready loop and all below it are runtime-neutral: a simulator drives them on one thread without a network.
    (
        &[
            "kvd-vfs",
            "kvd-raftpb",
            "kvd-wal",
            "kvd-snap",
            "kvd-node",
            "kvd-kvstore",
            "kvd-sim",
            "kvd-crash-images",
        ],
        &["tokio", "hyper", "hyper-util"],
    ),
    // The disk knows nothing of raft.
    (&["kvd-vfs"], &["raft", "prost"]),
    // A client speaks the doors' protocols and reads files; of the member itself it has nothing.
    (&["kvctl"], &["hyper", "hyper-util", "kvd-node", "kvd-kvstore", "kvd-transport"]),
];

/// Packages from outside that a package must not name itself.
const NEVER_NAMES: &[(&[&str], &[&str])] = &[
    // A door never touches raft, and raft never learns of HTTP.
    (&["kvd-http-api", "kvd-resp-api"], &["raft"]),
];

/// What the tests below look at.
struct Workspace {
    /// For each package of the workspace, the names of its direct normal dependencies (ours and others).
    normal: BTreeMap<String, BTreeSet<String>>,
    /// The same with dev- and build-dependencies, ours only.
    any_kind: BTreeMap<String, BTreeSet<String>>,
    /// The features of each package: what each turns on.
    features: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// The features that each dependency on the planted bugs asks for, by package.
    planting: BTreeMap<String, BTreeSet<String>>,
    /// For every package id of the graph, the ids of its resolved normal dependencies.
    resolved: BTreeMap<String, BTreeSet<String>>,
    names: BTreeMap<String, String>,
}

fn strings(array: &Value) -> impl Iterator<Item = &str> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn run(program: &str, variable: &str, args: &[&str]) -> String {
    let program = std::env::var_os(variable).unwrap_or_else(|| program.into());
    let output = Command::new(&program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?} {args:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

impl Workspace {
    fn read() -> Workspace {
        let version = run("rustc", "RUSTC", &["-vV"]);
        let host = version.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
        let metadata =
            run("cargo", "CARGO", &["metadata", "--format-version", "1", "--filter-platform", host]);
        let metadata: Value = serde_json::from_str(&metadata).unwrap();
        let members: BTreeSet<&str> = strings(&metadata["workspace_members"]).collect();
        let packages = metadata["packages"].as_array().unwrap();
        let name_of = |p: &Value| p["name"].as_str().unwrap().to_owned();
        let ours: BTreeSet<String> =
            packages.iter().filter(|p| members.contains(p["id"].as_str().unwrap())).map(name_of).collect();

        let mut normal = BTreeMap::new();
        let mut any_kind = BTreeMap::new();
        let (mut features, mut planting) = (BTreeMap::new(), BTreeMap::new());
        for package in packages.iter().filter(|p| ours.contains(p["name"].as_str().unwrap())) {
            let dependencies = package["dependencies"].as_array().unwrap();
            let of_normal = dependencies.iter().filter(|d| d["kind"].is_null()).map(name_of).collect();
            normal.insert(name_of(package), of_normal);
            let of_ours = dependencies.iter().map(name_of).filter(|d| ours.contains(d)).collect();
            any_kind.insert(name_of(package), of_ours);
            let turned_on = package["features"].as_object().unwrap().iter();
            let turned_on =
                turned_on.map(|(name, on)| (name.clone(), strings(on).map(str::to_owned).collect()));
            features.insert(name_of(package), turned_on.collect());
            let planted = dependencies.iter().filter(|d| d["name"] == "kvd-mutation");
            let asked = planted.flat_map(|d| strings(&d["features"])).map(str::to_owned).collect();
            planting.insert(name_of(package), asked);
        }

        let mut resolved = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let is_normal =
                |d: &&Value| d["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
            let deps = node["deps"].as_array().unwrap().iter().filter(is_normal);
            resolved.insert(
                node["id"].as_str().unwrap().to_owned(),
                deps.map(|d| d["pkg"].as_str().unwrap().to_owned()).collect(),
            );
        }
        let names = packages.iter().map(|p| (p["id"].as_str().unwrap().to_owned(), name_of(p))).collect();
        Workspace { normal, any_kind, features, planting, resolved, names }
    }

    /// Every package that `name` reaches through normal dependencies, with one path to it.
    fn reaches(&self, name: &str) -> BTreeMap<String, String> {
        let start = self.names.iter().find(|(_, n)| *n == name).unwrap().0.clone();
        let mut paths = BTreeMap::new();
        let mut todo = vec![(start, name.to_owned())];
        while let Some((id, path)) = todo.pop() {
            for next in &self.resolved[&id] {
                let next_name = &self.names[next];
                if !paths.contains_key(next_name) {
                    let path = format!("{path} -> {next_name}");
                    paths.insert(next_name.clone(), path.clone());
                    todo.push((next.clone(), path));
                }
            }
        }
        paths
    }
}

#[test]
fn every_package_has_its_place_in_the_diagram() {
    let packages: BTreeSet<String> = Workspace::read().normal.into_keys().collect();
    let table: BTreeSet<String> = MAY_USE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(packages, table, "left: the workspace, right: MAY_USE");
}

#[test]
fn a_crate_uses_only_what_stands_below_it() {
    let workspace = Workspace::read();
    for (name, allowed) in MAY_USE {
        for used in workspace.normal[*name].iter().filter(|d| workspace.normal.contains_key(*d)) {
            assert!(
                allowed.contains(&used.as_str()),
                "{name} depends on {used}; it may use {allowed:?} only"
            );
        }
    }
}

#[test]
fn the_diagram_has_no_cycle() {
    let mut below = BTreeSet::new();
    for (name, allowed) in MAY_USE {
        for used in *allowed {
            assert!(below.contains(used), "{name} may use {used}, which does not stand below it");
        }
        below.insert(name);
    }
}

#[test]
fn development_dependencies_close_no_cycle() {
    let mut left = Workspace::read().any_kind;
    while !left.is_empty() {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, uses| uses.iter().any(|d| names.contains(d)));
        assert!(left.len() < before, "these depend on each other: {left:#?}");
    }
}

#[test]
fn the_core_reaches_no_runtime_and_no_network() {
    let workspace = Workspace::read();
    for (names, forbidden) in NEVER_REACHES {
        for name in *names {
            let reached = workspace.reaches(name);
            for outsider in *forbidden {
                if let Some(path) = reached.get(*outsider) {
                    panic!("{name} must not reach {outsider}: {path}");
                }
            }
        }
    }
}

#[test]
fn no_package_plants_bugs_unless_it_is_asked_to() {
    let workspace = Workspace::read();
    for (name, features) in &workspace.features {
        for (feature, on) in features.iter().filter(|(_, on)| on.contains("kvd-mutation/planted")) {
            assert_eq!((name.as_str(), feature.as_str()), ("kvd-sim", "mutations"), "{on:?}");
        }
        assert!(!features.contains_key("default"), "{name}: what a build without flags has must be plain");
        assert_eq!(workspace.planting[name], BTreeSet::new(), "{name} plants bugs in every build");
    }
    assert!(workspace.features["kvd-sim"].contains_key("mutations"), "left behind by a change of names");
    assert!(workspace.features["kvd-mutation"].contains_key("planted"), "left behind by a change of names");
}

#[test]
fn doors_do_not_touch_raft() {
    let workspace = Workspace::read();
    for (names, forbidden) in NEVER_NAMES {
        for name in *names {
            for outsider in *forbidden {
                assert!(!workspace.normal[*name].contains(*outsider), "{name} must not depend on {outsider}");
            }
        }
    }
}

#[test]
fn the_reading_sees_what_is_there() {
    // If the format of cargo metadata changed, the tests above could pass by seeing nothing.
    let workspace = Workspace::read();
    assert!(workspace.normal["kvd-raftpb"].contains("prost"));
    assert!(workspace.reaches("kvd-raftpb").contains_key("protobuf"));
    assert!(!workspace.reaches("kvd-raftpb").contains_key("protox"), "a development dependency");
}
