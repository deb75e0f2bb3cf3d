//! How many connections there may be, how long each may take, and how they end. The sweep has the test's own clock.

use super::*;

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let door = Fake::new();
    let server = open(&door, Options { connections: 3, ..Options::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(&server).await;
        assert_eq!(client.request("GET", "/k", "").await.status, 404);
        held.push(client);
    }
    let mut fourth = Client::connect(&server).await;
    let reply = fourth.reply().await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.text().lines().count(), 1);
    assert!(fourth.reply().await.is_none());
    drop(held.pop());
    loop {
        // The server learns of the closing when it gets to it.
        let mut client = Client::connect(&server).await;
        client.send("GET /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
        if client.reply().await.is_some_and(|reply| reply.status == 404) {
            break;
        }
    }
    assert_eq!(server.shutdown().await.cut_off, 0);
}

struct Swept {
    connections: Connections<Fake>,
    gauge: Arc<Gauge>,
    task: AbortHandle,
    client: Client<DuplexStream>,
}

impl Swept {
    /// A connection that came in second 1000 to a door with default options. The pipe holds 64 KiB each way.
    fn new(door: &Fake) -> Self {
        let mut connections = Connections::new(door.clone(), Extras::default(), Options::default());
        connections.sweep(1000);
        let (client, server) = duplex(64 << 10);
        connections.add(server);
        let (gauge, task) = connections.open.values().next().unwrap().clone();
        Self { connections, gauge, task, client: Client { stream: client, buffer: Vec::new() } }
    }

    async fn reaches(&self, phase: Phase) {
        while self.gauge.phase().0 != phase {
            assert!(!self.task.is_finished(), "the connection ended on the way to {phase:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Sweeps at the last second that is in time, and at the first that is not.
    async fn closes_after(mut self, since: u64, seconds: u64) {
        for second in since..=since + seconds {
            self.connections.sweep(second);
            tokio::task::yield_now().await;
            assert!(!self.task.is_finished(), "closed in second {second}");
        }
        self.connections.sweep(since + seconds + 1);
        let ended = next(&mut self.connections.tasks).await;
        assert!(ended.as_ref().is_err_and(JoinError::is_cancelled));
        self.connections.ended(ended);
        assert!(self.connections.open.is_empty());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    Swept::new(&Fake::new()).closes_after(1000, 75).await;
}

#[tokio::test]
async fn a_connection_is_idle_again_after_an_answer() {
    let mut swept = Swept::new(&Fake::new());
    swept.connections.sweep(1050);
    assert_eq!(swept.client.request("PUT", "/k", "v").await.status, 204);
    swept.reaches(Phase::Idle).await;
    swept.closes_after(1050, 75).await;
}

#[tokio::test]
async fn a_head_that_trickles_is_closed() {
    let mut swept = Swept::new(&Fake::new());
    swept.connections.sweep(1003);
    swept.client.send("GET /k HT").await;
    swept.reaches(Phase::Head).await;
    for second in 1004..=1013 {
        swept.connections.sweep(second);
        swept.client.send("T").await;
        tokio::task::yield_now().await;
    }
    swept.closes_after(1003, 10).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_closed() {
    let mut swept = Swept::new(&Fake::new());
    swept.client.send("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n").await;
    swept.reaches(Phase::Body).await;
    for second in 1001..=1030 {
        swept.connections.sweep(second);
        swept.client.send("x").await;
        tokio::task::yield_now().await;
    }
    swept.closes_after(1000, 30).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_closed_and_one_that_reads_slowly_is_not() {
    let door = Fake::new();
    door.state().store.put(b"big", &vec![7; 1 << 20]);
    let mut swept = Swept::new(&door);
    swept.client.send("GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await;
    swept.reaches(Phase::Replying).await;
    for second in [1025, 1050, 1075] {
        swept.connections.sweep(second);
        let mut some = vec![0; 64 << 10];
        swept.client.stream.read_exact(&mut some).await.unwrap();
        while swept.gauge.phase() != (Phase::Replying, second) {
            tokio::task::yield_now().await;
        }
    }
    swept.closes_after(1075, 30).await;
}

#[tokio::test]
async fn a_request_in_the_store_is_left_to_the_store() {
    let door = Fake::new();
    door.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut swept = Swept::new(&door);
    swept.client.send("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await;
    swept.reaches(Phase::Serving).await;
    swept.connections.sweep(1_000_000);
    door.gate.add_permits(1);
    assert_eq!(swept.client.reply().await.unwrap().status, 204);
}

#[tokio::test]
async fn a_shutdown_lets_requests_finish_and_closes_the_rest() {
    let door = Fake::new();
    door.gate.forget_permits(Semaphore::MAX_PERMITS);
    let server = open(&door, Options::default()).await;
    let address = server.local_addr();
    let mut idle = Client::connect(&server).await;
    assert_eq!(idle.request("GET", "/k", "").await.status, 404);
    let mut busy = Client::connect(&server).await;
    busy.send("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await;
    // A later connection's answer says that the earlier one's request has been taken in.
    assert_eq!(once(&server, "GET", "/k", "").await.status, 404);
    let shutdown = tokio::spawn(server.shutdown());
    assert!(idle.reply().await.is_none(), "an idle connection is closed");
    assert!(TcpStream::connect(address).await.is_err(), "no connection is accepted any more");
    door.gate.add_permits(1);
    let reply = busy.reply().await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (204, Some("close")));
    assert!(busy.reply().await.is_none());
    assert_eq!(shutdown.await.unwrap().cut_off, 0);
}

#[tokio::test]
async fn a_shutdown_cuts_off_what_does_not_end() {
    let door = Fake::new();
    door.gate.forget_permits(Semaphore::MAX_PERMITS);
    let server = open(&door, Options { drain: Duration::ZERO, ..Options::default() }).await;
    let mut busy = Client::connect(&server).await;
    busy.send("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await;
    assert_eq!(once(&server, "GET", "/k", "").await.status, 404);
    assert_eq!(server.shutdown().await.cut_off, 1);
    assert!(busy.reply().await.is_none());
}
