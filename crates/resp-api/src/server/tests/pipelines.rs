//! What arrives together: how it is proposed, read and answered.

use super::*;
use Asked::{Confirm, Local, Propose};

/// Lets the server go on until it is so.
async fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        tokio::task::yield_now().await;
    }
}

/// Lets the server do whatever it can do now.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn writes_that_arrive_together_are_proposed_together_and_answered_in_one_write() {
    let door = Fake::new();
    door.shut();
    let mut opened = opened(&door);
    let mut client = opened.connect();
    client.send("set a 1\r\nincr a\r\nset b 1 nx\r\nmset c 1 d 2\r\ndel b c\r\nget a\r\nget x\r\n").await;
    until(|| !door.state().asked.is_empty()).await;
    settle().await;
    assert_eq!(door.asked(), [Propose], "they are one command, and reads wait for it");
    assert_eq!(client.writes.load(Relaxed), 0);
    door.open();
    client.expect("+OK\r\n:2\r\n+OK\r\n+OK\r\n:2\r\n$1\r\n2\r\n$-1\r\n").await;
    assert_eq!(door.asked(), [Local, Local], "the writes prove that the member is current");
    assert_eq!(client.writes.load(Relaxed), 1);
}

#[tokio::test]
async fn reads_that_arrive_together_share_a_round_and_those_that_come_later_do_not() {
    let door = Fake::new();
    let mut opened = opened(&door);
    let mut client = opened.connect();
    client.ask("get a\r\nmget a b\r\nexists a\r\n", "$-1\r\n*2\r\n$-1\r\n$-1\r\n:0\r\n").await;
    assert_eq!(door.asked(), [Confirm, Local, Local, Local]);
    client.ask("get a\r\n", "$-1\r\n").await;
    assert_eq!(door.asked(), [Confirm, Local]);
    client.ask("readonly\r\nget a\r\n", "+OK\r\n$-1\r\n").await;
    assert_eq!(door.asked(), [Local]);
    client.ask("readwrite\r\nget a\r\n", "+OK\r\n$-1\r\n").await;
    assert_eq!(door.asked(), [Confirm, Local]);
}

#[tokio::test]
async fn a_write_waits_until_the_reads_before_it_are_done() {
    let door = Fake::new();
    let mut opened = opened(&door);
    let mut client = opened.connect();
    let expected = "$-1\r\n+OK\r\n$1\r\n1\r\n+OK\r\n$1\r\n2\r\n";
    client.ask("get a\r\nset a 1\r\nget a\r\nset a 2\r\nget a\r\n", expected).await;
    assert_eq!(door.asked(), [Confirm, Local, Propose, Local, Propose, Local]);
}

#[tokio::test]
async fn a_write_that_failed_proves_nothing_and_a_failed_round_is_not_repeated() {
    let door = Fake::new();
    door.state().fail = Some(Error::NoLeader);
    let mut opened = opened(&door);
    let mut client = opened.connect();
    let error = format!("-TRYAGAIN {}\r\n", Error::NoLeader);
    client.ask("set a 1\r\nget a\r\nget a\r\n", error.repeat(3)).await;
    assert_eq!(door.asked(), [Propose, Confirm]);
    door.state().fail = None;
    client.ask("get a\r\n", "$-1\r\n").await;
    assert_eq!(door.asked(), [Confirm, Local], "the next one asks again");
}

#[tokio::test]
async fn errors_stand_where_their_requests_stood() {
    let mut opened = opened(&Fake::new());
    let mut client = opened.connect();
    client.send("set a 1\r\nwhat\r\nset a 2\r\nget\r\nincr a\r\nset a 1 ex 1\r\necho x\r\n").await;
    client
        .expect(
            "+OK\r\n-ERR unknown command 'what', with args beginning with: \r\n+OK\r\n\
             -ERR wrong number of arguments for 'get' command\r\n:3\r\n\
             -ERR the option EX is not supported yet: keys do not expire\r\n$1\r\nx\r\n",
        )
        .await;
}

#[tokio::test]
async fn an_exchange_is_tried_again_if_another_write_came_between() {
    let door = Fake::new();
    door.state().store.put(b"k", b"first");
    door.state().others = vec![Command::Put { key: "k".into(), value: "second".into() }];
    let mut opened = opened(&door);
    let mut client = opened.connect();
    client.ask("set k mine get\r\n", "$6\r\nsecond\r\n").await;
    assert_eq!(door.asked(), [Local, Propose, Local, Propose], "no round: the write itself is the proof");
    assert_eq!(door.state().store.get(b"k").unwrap().value, "mine");
    // What is not written has to be as current as any read.
    client.ask("set k other nx get\r\n", "$4\r\nmine\r\n").await;
    assert_eq!(door.asked(), [Local, Confirm, Local]);
    client.ask("set k other nx get\r\nset k other xx get\r\n", "$4\r\nmine\r\n$4\r\nmine\r\n").await;
    assert_eq!(door.asked(), [Local, Confirm, Local, Local, Propose]);
}

#[tokio::test]
async fn a_command_has_a_bounded_number_of_writes() {
    for (sent, first) in [(1023, 1023), (1024, 1024), (1025, 1024)] {
        let door = Fake::new();
        door.shut();
        let mut opened = opened(&door);
        let mut client = opened.connect();
        // So short that they come with one read.
        client.send("incr a\n".repeat(sent)).await;
        until(|| !door.state().asked.is_empty()).await;
        settle().await;
        assert_eq!(door.asked(), [Propose]);
        assert_eq!(door.state().store.get(b"a").unwrap().value, first.to_string());
        door.open();
        let expected: String = (1..=sent).map(|i| format!(":{i}\r\n")).collect();
        client.expect(expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_connections_share_the_writes_under_way_and_wait_for_their_turn() {
    let door = Fake::new();
    door.shut();
    let mut opened = Opened::new(&door, Options { in_flight: 3, ..Options::default() });
    let (mut first, mut second) = (opened.connect(), opened.connect());
    let mut other = opened.connect();
    first.send("incr a\r\nincr a\r\n").await;
    other.send("incr d\r\n").await;
    until(|| door.state().asked.len() >= 2).await;
    second.send("incr b\r\n").await;
    until(|| door.state().asked.len() >= 3).await;
    let mut third = opened.connect();
    third.send("incr c\r\n").await;
    settle().await;
    assert_eq!(door.asked().len(), 3, "the fourth waits");
    door.open();
    third.expect(":1\r\n").await;
    first.expect(":1\r\n:2\r\n").await;
    second.expect(":1\r\n").await;
    // A long one counts for more, and one that counts for more than there are takes all.
    let value = "v".repeat(1 << 16);
    first.ask(request(&[b"set", b"a", value.as_bytes()]), "+OK\r\n").await;
    door.gate.forget_permits(Semaphore::MAX_PERMITS);
    door.asked();
    first.send(request(&[b"set", b"a", value.as_bytes()])).await;
    until(|| !door.state().asked.is_empty()).await;
    second.ask("incr b\r\n", format!("-BUSY {}\r\n", Error::Overloaded)).await;
    assert_eq!(door.asked().len(), 1);
}

#[tokio::test]
async fn many_keys_change_at_one_revision() {
    let door = Fake::new();
    let mut opened = opened(&door);
    opened.connect().ask("mset a 1 b 2 c 3\r\n", "+OK\r\n").await;
    assert_eq!(door.state().store.revision(), 2);
    opened.connect().ask("del a b x\r\n", ":2\r\n").await;
    assert_eq!(door.state().store.revision(), 3);
}
