//! Bounds of connections: how many, how long, how large; hostile bytes; and the end.

use super::*;

/// Lets the server see that many seconds pass.
async fn pass(opened: &Opened, from: u64, to: u64) {
    for second in from..=to {
        // So that connections have noted what they do.
        settle().await;
        opened.connections.sweep(second);
    }
    settle().await;
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_are_answered_and_the_connection_is_closed() {
    for (bytes, answered) in [
        (&b"*1000000000\r\n"[..], "invalid multibulk length"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$-5\r\n", "invalid bulk length"),
        (b"*1\r\n+ping\r\n", "expected '$', got '+'"),
        (b"set a \"b\r\n", "unbalanced quotes in request"),
        (&[b'x'; 70_000], "too big inline request"),
        (b"ping\r\n*x\r\n", "invalid multibulk length"),
    ] {
        let mut opened = opened(&Fake::new());
        let mut client = opened.connect();
        client.send(bytes).await;
        if bytes.starts_with(b"ping") {
            client.expect("+PONG\r\n").await;
        }
        client.expect(format!("-ERR Protocol error: {answered}\r\n")).await;
        client.expect_end().await;
    }
    let mut opened = opened(&Fake::new());
    opened.connect().ask("*-1\r\n*0\r\n\r\nping\r\n", "+PONG\r\n").await;
}

#[tokio::test]
async fn a_browser_is_hung_up_on() {
    for first in ["POST / HTTP/1.1\r\n", "GET a\r\nHost: 127.0.0.1\r\n"] {
        let door = Fake::new();
        let mut opened = opened(&door);
        let mut client = opened.connect();
        client.send(format!("{first}\r\nset a 1\r\n")).await;
        if first.starts_with("GET") {
            client.expect("$-1\r\n").await;
        }
        client.expect_end().await;
        assert!(door.state().store.is_empty());
    }
}

/// The beginning of a request, `beyond` bytes longer than what does not count.
fn begun(beyond: usize) -> Vec<u8> {
    let mut bytes = b"*2\r\n$4\r\nECHO\r\n$100000\r\n".to_vec();
    bytes.resize((16 << 10) + beyond, b'x');
    bytes
}

#[tokio::test]
async fn requests_that_have_begun_are_bounded_for_all_connections_together() {
    for (second, fits) in [(999, true), (1000, true), (1001, false)] {
        let mut opened = Opened::new(&Fake::new(), Options { unfinished_bytes: 2000, ..Options::default() });
        let (mut one, mut two) = (opened.connect(), opened.connect());
        one.send(begun(1000)).await;
        settle().await;
        two.send(begun(second)).await;
        settle().await;
        assert_eq!(two.writes.load(Relaxed) == 0, fits, "{second}");
        if !fits {
            two.expect(format!("-BUSY {}\r\n", Error::Overloaded)).await;
            two.expect_end().await;
            // Its share is free again.
            let mut three = opened.connect();
            three.send(begun(1000)).await;
            settle().await;
            assert_eq!(three.writes.load(Relaxed), 0);
        }
        assert_eq!(one.writes.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_long_request_is_answered_in_one_write() {
    let mut opened = opened(&Fake::new());
    let mut client = opened.connect_through(4 << 20, "127.0.0.1:50000");
    let value = "x".repeat(1 << 20);
    client.ask(request(&[b"echo", value.as_bytes()]), format!("$1048576\r\n{value}\r\n")).await;
    assert_eq!(client.writes.load(Relaxed), 1);
}

#[tokio::test]
async fn a_request_takes_as_long_as_it_may() {
    let mut opened = opened(&Fake::new());
    let (mut idle, mut begun) = (opened.connect(), opened.connect());
    idle.ask("ping\r\n", "+PONG\r\n").await;
    begun.send("pi").await;
    pass(&opened, 1, 15).await;
    begun.send("n").await;
    pass(&opened, 16, 30).await;
    begun.ask("g\r\n", "+PONG\r\n").await;
    begun.send("pi").await;
    pass(&opened, 31, 62).await;
    begun.expect_end().await;
    pass(&opened, 63, 1000).await;
    idle.ask("ping\r\n", "+PONG\r\n").await;
}

#[tokio::test]
async fn replies_that_nobody_takes_end_a_connection() {
    let door = Fake::new();
    door.state().store.put(b"k", &[b'v'; 1000]);
    let mut opened = opened(&door);
    // A pipe that holds less than the reply.
    let mut slow = opened.connect_through(100, "127.0.0.1:50000");
    slow.send("get k\r\n").await;
    pass(&opened, 1, 20).await;
    slow.expect("$1000\r\n").await;
    pass(&opened, 21, 45).await;
    slow.expect("v".repeat(100)).await;
    pass(&opened, 46, 78).await;
    let rest = slow.rest().await;
    assert!(rest.len() < 900, "it was not cut off: {}", rest.len());
}

#[tokio::test]
async fn replies_are_sent_before_they_are_all_there() {
    let door = Fake::new();
    door.state().store.put(b"k", &[b'v'; 100_000]);
    let mut opened = opened(&door);
    let mut client = opened.connect_through(1 << 10, "127.0.0.1:50000");
    client.send(format!("mget {}\r\n", "k ".repeat(100))).await;
    let value = "v".repeat(100_000);
    client.expect("*100\r\n").await;
    client.expect(format!("$100000\r\n{value}\r\n").repeat(100)).await;
    assert!(client.writes.load(Relaxed) >= 100, "its values are not in memory twice");
}

async fn listening(door: &Fake, options: Options) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    RespApi::new(door.clone()).with_options(options).serve(listener).unwrap()
}

async fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = listening(&Fake::new(), Options { connections: 2, ..Options::default() }).await;
    let mut open = Vec::new();
    for at in 1..=3 {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        if at <= 2 {
            stream.write_all(b"ping\r\n").await.unwrap();
            assert_eq!(read_line(&mut stream).await, "+PONG\r\n");
            open.push(stream);
        } else {
            assert_eq!(read_line(&mut stream).await, "-ERR max number of clients reached\r\n");
            assert_eq!(read_line(&mut stream).await, "");
        }
    }
    // One that goes makes room, once the server has seen it go.
    drop(open.pop());
    loop {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        // The server may be gone before it has taken anything.
        let _ = stream.write_all(b"ping\r\n").await;
        if read_line(&mut stream).await == "+PONG\r\n" {
            break;
        }
    }
    assert_eq!(server.shutdown().await.cut_off, 0);
}

#[tokio::test]
async fn a_shutdown_closes_what_is_idle_and_answers_what_is_not() {
    let door = Fake::new();
    let server = listening(&door, Options::default()).await;
    let address = server.local_addr();
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut busy = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"ping\r\n").await.unwrap();
    assert_eq!(read_line(&mut idle).await, "+PONG\r\n");
    door.shut();
    busy.write_all(b"incr a\r\nincr a\r\n").await.unwrap();
    while door.state().asked.is_empty() {
        tokio::task::yield_now().await;
    }
    let ended = tokio::spawn(server.shutdown());
    assert_eq!(read_line(&mut idle).await, "");
    door.open();
    assert_eq!(read_line(&mut busy).await, ":1\r\n");
    assert_eq!(read_line(&mut busy).await, ":2\r\n");
    assert_eq!(read_line(&mut busy).await, "");
    assert_eq!(ended.await.unwrap(), Drained { finished: 2, cut_off: 0 });
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_cuts_off_what_has_no_answer_in_time() {
    let door = Fake::new();
    door.shut();
    let mut opened = opened(&door);
    let mut client = opened.connect();
    client.send("incr a\r\n").await;
    while door.state().asked.is_empty() {
        tokio::task::yield_now().await;
    }
    let drained = opened.connections.drain().await;
    assert_eq!(drained, Drained { finished: 0, cut_off: 1 });
    client.expect_end().await;
}

#[test]
fn a_budget_is_shared_and_given_back() {
    let budget = Budget::new(10);
    let (mut one, mut two) = (budget.hold(), budget.hold());
    assert!(one.set(4) && two.set(5) && two.set(6));
    assert!(!two.set(7) && !one.set(5));
    assert!(one.set(0) && two.set(9) && two.set(10) && !two.set(11));
    drop(two);
    assert!(one.set(10) && !one.set(11));
}
