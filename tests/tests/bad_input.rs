//! What cannot work is refused: a clear message, an exit code, and nothing changed.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use kvd_tests::ports::Port;
use kvd_tests::{Cluster, directory_contents, refused, refused_with_env};
use tempfile::TempDir;

/// Runs kvd in an empty directory and expects one of `words` on stderr and no file.
fn refused_in_an_empty_directory(args: &[&str], env: &[(&str, &str)], words: &[&str]) {
    let directory = TempDir::new().unwrap();
    let refused = refused_with_env(directory.path(), args, env);
    assert_says(&refused.stderr, words, &format!("{args:?} {env:?}"));
    let files = directory_contents(directory.path());
    assert!(files.is_empty(), "{args:?} left {:?}", files.keys());
}

fn assert_says(stderr: &str, words: &[&str], what: &str) {
    let said = stderr.to_lowercase();
    for word in words {
        assert!(said.contains(&word.to_lowercase()), "{what}: no {word:?} in the message:\n{stderr}");
    }
    assert!(!said.contains("panicked"), "{what}: a panic is no message:\n{stderr}");
}

#[test]
fn urls_that_cannot_be_parsed() {
    for url in
        ["nonsense", "ftp://127.0.0.1:1", "http://127.0.0.1", "http://:1", "http://127.0.0.1:99999", ""]
    {
        refused_in_an_empty_directory(&["--cluster", url], &[], &["http://HOST:PORT"]);
        let list = format!("http://127.0.0.1:1,{url}");
        refused_in_an_empty_directory(&["--cluster", &list], &[], &["http://HOST:PORT"]);
        refused_in_an_empty_directory(&[], &[("KVD_CLUSTER", url)], &["http://HOST:PORT"]);
    }
}

#[test]
fn an_id_outside_the_list() {
    let list = "http://127.0.0.1:1,http://127.0.0.1:2";
    refused_in_an_empty_directory(&["--cluster", list, "--id", "0"], &[], &["0"]);
    refused_in_an_empty_directory(&["--cluster", list, "--id", "3"], &[], &["3", "2"]);
    refused_in_an_empty_directory(&["--cluster", list, "--id", "x"], &[], &["x"]);
    refused_in_an_empty_directory(&["--cluster", list], &[("KVD_ID", "3")], &["3", "2"]);
}

#[test]
fn two_members_at_one_address() {
    refused_in_an_empty_directory(
        &["--cluster", "http://127.0.0.1:1,http://127.0.0.1:1"],
        &[],
        &["http://127.0.0.1:1"],
    );
}

#[test]
fn flags_that_make_no_sense() {
    refused_in_an_empty_directory(&["--no-such-flag"], &[], &["--no-such-flag"]);
    refused_in_an_empty_directory(&["--tick-ms", "0"], &[], &["tick-ms"]);
    refused_in_an_empty_directory(&["--election-ticks", "0"], &[], &["election-ticks"]);
    refused_in_an_empty_directory(&["--port", "65536"], &[], &["port"]);
}

#[test]
fn a_listener_beyond_this_machine_needs_tls_or_consent() {
    let peer = Port::reserve();
    refused_in_an_empty_directory(
        &["--cluster", &peer.url(), "--listen", "0.0.0.0"],
        &[],
        &["TLS", "--insecure"],
    );
    let everywhere = format!("0.0.0.0:{}", peer.number());
    refused_in_an_empty_directory(
        &["--cluster", &peer.url(), "--listen-peer", &everywhere],
        &[],
        &["TLS", "--insecure"],
    );
}

#[test]
fn a_port_in_use() {
    let (client, peer) = (Port::reserve(), Port::reserve());
    let cluster = peer.url();
    let client_port = client.number().to_string();
    let args = ["--cluster", &cluster, "--port", &client_port];
    for taken in [client.number(), peer.number()] {
        let _listener = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
        let directory = TempDir::new().unwrap();
        let before = directory_contents(directory.path());
        let refused = refused(directory.path(), &args);
        assert_says(&refused.stderr, &[&taken.to_string()], "a port in use");
        assert_eq!(directory_contents(directory.path()), before, "a port in use");
    }
}

#[test]
fn the_directory_of_another_member() {
    let mut cluster = Cluster::start(3);
    cluster.member_mut(1).stop();
    let data = cluster.member(1).data_dir();
    let before = directory_contents(&data);
    let list: Vec<String> = cluster.members().iter().map(|m| m.peer_url()).collect();
    let port = Port::reserve().number().to_string();
    cluster.member_mut(2).stop();
    let args =
        ["--id", "2", "--cluster", &list.join(","), "--port", &port, "--data-dir", data.to_str().unwrap()];
    let refused = refused(cluster.directory(), &args);
    assert_says(&refused.stderr, &["kvd-1", "member 1"], "the directory of member 1");
    assert!(directory_contents(&data) == before, "the directory of member 1 was changed");
    cluster.member_mut(1).start();
}

#[test]
fn the_directory_of_another_cluster() {
    let mut cluster = Cluster::start(1);
    cluster.member(1).put("key", "value");
    cluster.member_mut(1).stop();
    let data = cluster.member(1).data_dir();
    let before = directory_contents(&data);
    // The list of another cluster: this member's own address is not in it.
    let (client, peer) = (Port::reserve().number().to_string(), Port::reserve().url());
    let args = ["--cluster", &peer, "--port", &client, "--data-dir", data.to_str().unwrap()];
    let refused = refused(cluster.directory(), &args);
    assert_says(&refused.stderr, &["kvd-1", "cluster"], "the directory of another cluster");
    assert!(directory_contents(&data) == before, "the directory of another cluster was changed");
    cluster.member_mut(1).start();
    assert_eq!(cluster.member(1).get("key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn the_directory_of_a_single_member_is_not_that_of_one_of_three() {
    let mut cluster = Cluster::start(1);
    cluster.member(1).put("key", "value");
    cluster.member_mut(1).stop();
    let data = cluster.member(1).data_dir();
    let before = directory_contents(&data);
    // Its own address is in the list: alone it would go on, lead itself, and acknowledge what the others never see.
    let list = [cluster.member(1).peer_url(), Port::reserve().url(), Port::reserve().url()].join(",");
    let client = Port::reserve().number().to_string();
    let args = ["--id", "1", "--cluster", &list, "--port", &client, "--data-dir", data.to_str().unwrap()];
    let refused = refused(cluster.directory(), &args);
    assert_says(&refused.stderr, &["kvd-1", "another"], "the directory of a single member");
    assert!(directory_contents(&data) == before, "the directory of a single member was changed");
    cluster.member_mut(1).start();
    assert_eq!(cluster.member(1).get("key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_directory_that_another_process_holds() {
    let cluster = Cluster::start(1);
    cluster.member(1).put("key", "value");
    let data = cluster.member(1).data_dir();
    // It prepares segments of its log by itself: what changes while it is paused was changed by somebody else.
    cluster.member(1).pause();
    let before = directory_contents(&data);
    let (client, peer) = (Port::reserve().number().to_string(), Port::reserve().url());
    let args = ["--cluster", &peer, "--port", &client, "--data-dir", data.to_str().unwrap()];
    let refused = refused(cluster.directory(), &args);
    assert_says(&refused.stderr, &["kvd-1", "another process"], "a directory in use");
    assert!(directory_contents(&data) == before, "a directory in use was changed");
    cluster.member(1).resume();
    cluster.member(1).put("key", "still here");
}

#[test]
fn keys_and_values_over_the_limit() {
    let cluster = Cluster::start(1);
    let member = cluster.member(1);
    let limit = 1536 << 10; // 1.5 MiB
    member.put("largest", vec![b'v'; limit]);
    let answer = member.request("PUT", "/too-large", vec![b'v'; limit + 1]);
    assert_eq!(answer.status, 413);
    assert_says(&answer.text(), &["1572864"], "a value over the limit");
    assert_eq!(member.get("too-large"), None);
    assert_eq!(member.get("largest").map(|v| v.len()), Some(limit));

    member.put(&"k".repeat(4096), "v");
    let answer = member.request("PUT", &format!("/{}", "k".repeat(4097)), "v");
    assert_eq!(answer.status, 413);
    assert_says(&answer.text(), &["4096"], "a key over the limit");
    assert_eq!(member.request("PUT", "/", "v").status, 400, "an empty key");
}
