//! The example runs to its end.

#[allow(unreachable_pub, reason = "it is the main function of a program, too")]
#[path = "../examples/three_nodes.rs"]
mod three_nodes;

#[test]
fn three_nodes_agree() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let result = three_nodes::main().map_err(|error| error.to_string());
        let _ = done.send(result);
    });
    assert_eq!(ended.recv_timeout(std::time::Duration::from_secs(60)), Ok(Ok(())));
}
