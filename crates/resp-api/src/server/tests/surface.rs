//! Every command: what is asked, and what is answered.

use super::*;

/// A transcript: inline requests and their replies, in which a space is the end of a line and `~` a space.
async fn transcript(door: &Fake, lines: &[(&str, &str)]) {
    let mut opened = opened(door);
    let mut client = opened.connect();
    for (asked, answered) in lines {
        let expected = answered.replace(' ', "\r\n").replace('~', " ") + "\r\n";
        client.send(format!("{asked}\r\n")).await;
        let mut found = vec![0; 4096];
        let read = client.stream.read(&mut found).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&found[..read]), expected, "{asked}");
    }
}

#[tokio::test]
async fn strings() {
    transcript(
        &Fake::new(),
        &[
            ("get a", "$-1"),
            ("set a 1", "+OK"),
            ("GET a", "$1 1"),
            ("set a 2 nx", "$-1"),
            ("set a 2 xx", "+OK"),
            ("set b 2 XX", "$-1"),
            ("set b 2 NX", "+OK"),
            ("set b 3 get", "$1 2"),
            ("set c 3 get", "$-1"),
            ("set c 4 nx get", "$1 3"),
            ("set d 4 nx get", "$-1"),
            ("set e 4 xx get", "$-1"),
            ("set d 5 xx get keepttl", "$1 4"),
            ("get e", "$-1"),
            ("set a 1 nx xx", "-ERR~syntax~error"),
            ("set a 1 what", "-ERR~syntax~error"),
            ("set a 1 ex 5", "-ERR~the~option~EX~is~not~supported~yet:~keys~do~not~expire"),
            ("setnx a 1", ":0"),
            ("setnx f 1", ":1"),
            ("mget a x b", "*3 $1 2 $-1 $1 3"),
            ("mset g 1 h 2 g 3", "+OK"),
            ("mget g h", "*2 $1 3 $1 2"),
            ("mset g 1 h", "-ERR~wrong~number~of~arguments~for~'mset'~command"),
            ("append g ab", ":3"),
            ("append new ab", ":2"),
            ("strlen g", ":3"),
            ("strlen x", ":0"),
            ("incr n", ":1"),
            ("incrby n 41", ":42"),
            ("decr n", ":41"),
            ("decrby n 50", ":-9"),
            ("incr g", "-ERR~value~is~not~an~integer~or~out~of~range"),
            ("incrby n x", "-ERR~value~is~not~an~integer~or~out~of~range"),
            ("incrby n 9223372036854775807", ":9223372036854775798"),
            ("incrby n 10", "-ERR~increment~or~decrement~would~overflow"),
            ("decrby n -9223372036854775808", "-ERR~decrement~would~overflow"),
        ],
    )
    .await;
}

#[tokio::test]
async fn keys() {
    transcript(
        &Fake::new(),
        &[
            ("dbsize", ":0"),
            ("keys *", "*0"),
            ("scan 0", "*2 $1 0 *0"),
            ("mset a1 v a2 v b1 v", "+OK"),
            ("dbsize", ":3"),
            ("exists a1 a1 x b1", ":3"),
            ("type a1", "+string"),
            ("type x", "+none"),
            ("keys a*", "*2 $2 a1 $2 a2"),
            ("keys [^a]?", "*1 $2 b1"),
            ("scan 0 match b* count 100", "*2 $1 0 *1 $2 b1"),
            ("scan 0 type string count 3", "*2 $1 0 *3 $2 a1 $2 a2 $2 b1"),
            ("scan 0 type list", "*2 $1 0 *0"),
            ("scan x", "-ERR~invalid~cursor"),
            ("scan -1", "-ERR~invalid~cursor"),
            (
                "scan 12345",
                "-ERR~invalid~cursor:~it~is~another~member's,~or~too~old~to~be~remembered;~begin~again~with~SCAN~0",
            ),
            ("scan 0 count 0", "-ERR~syntax~error"),
            ("scan 0 count x", "-ERR~value~is~not~an~integer~or~out~of~range"),
            ("scan 0 count", "-ERR~syntax~error"),
            ("scan 0 what 1", "-ERR~syntax~error"),
            ("del a1", ":1"),
            ("del a1", ":0"),
            ("del a1 a2 a2 b1", ":2"),
            ("mset a v b v", "+OK"),
            ("unlink a x", ":1"),
            ("flushdb", "+OK"),
            ("flushdb async", "+OK"),
            ("flushall sync", "+OK"),
            ("flushall now", "-ERR~syntax~error"),
            ("dbsize", ":0"),
        ],
    )
    .await;
}

#[tokio::test]
async fn connection() {
    let greeting = "$6 server $3 kvd $7 version $6 7.0.15 $4 mode $10 standalone $4 role $6 master $5 proto";
    transcript(
        &Fake::new(),
        &[
            ("ping", "+PONG"),
            ("ping hello", "$5 hello"),
            ("ping a b", "-ERR~wrong~number~of~arguments~for~'ping'~command"),
            ("echo \"a b\"", "$3 a~b"),
            ("select 0", "+OK"),
            ("select 1", "-ERR~DB~index~is~out~of~range"),
            ("select x", "-ERR~value~is~not~an~integer~or~out~of~range"),
            ("client id", ":1"),
            ("client getname", "$-1"),
            ("client setname me", "+OK"),
            ("client getname", "$2 me"),
            (
                "client setname \"a b\"",
                "-ERR~Client~names~cannot~contain~spaces,~newlines~or~special~characters.",
            ),
            ("client setname \"\"", "+OK"),
            ("client getname", "$-1"),
            ("client setinfo lib-name x", "+OK"),
            ("client setinfo lib-ver 1", "+OK"),
            ("client setinfo what 1", "-ERR~Unrecognized~option~'what'"),
            ("client what", "-ERR~unknown~subcommand~'what'.~Try~CLIENT~HELP."),
            ("client setname", "-ERR~wrong~number~of~arguments~for~'client|setname'~command"),
            ("client", "-ERR~wrong~number~of~arguments~for~'client'~command"),
            ("auth default x", "+OK"),
            ("auth other x", "-WRONGPASS~invalid~username-password~pair~or~user~is~disabled."),
            ("auth a b c", "-ERR~syntax~error"),
            ("readonly", "+OK"),
            ("readwrite", "+OK"),
            ("hello 4", "-NOPROTO~unsupported~protocol~version"),
            ("hello x", "-ERR~Protocol~version~is~not~an~integer~or~out~of~range"),
            ("hello 2 what", "-ERR~Syntax~error~in~HELLO~option~'what'"),
            ("hello 2 auth other x", "-WRONGPASS~invalid~username-password~pair~or~user~is~disabled."),
            ("hello 2 auth default x setname me", &format!("*14 {greeting} :2 $2 id :1 $7 modules *0")),
            ("client getname", "$2 me"),
            ("hello 3", &format!("%7 {greeting} :3 $2 id :1 $7 modules *0")),
            ("get a", "_"),
            ("reset", "+RESET"),
            ("get a", "$-1"),
            ("client getname", "$-1"),
            ("frobnicate a bc", "-ERR~unknown~command~'frobnicate',~with~args~beginning~with:~'a'~'bc'~"),
            ("get", "-ERR~wrong~number~of~arguments~for~'get'~command"),
            ("get a b", "-ERR~wrong~number~of~arguments~for~'get'~command"),
        ],
    )
    .await;
}

#[tokio::test]
async fn commands_and_configuration() {
    let get = "*10 $3 get :2 *2 +readonly +fast :1 :1 :1 *0 *0 *0 *0";
    transcript(
        &Fake::new(),
        &[
            ("command count", ":38"),
            ("command info get nothing", &format!("*2 {get} *-1")),
            (
                "command docs echo what",
                "*2 $4 echo *6 $7 summary $20 Returns~its~argument $5 since $5 1.0.0 $5 group $10 connection",
            ),
            ("command getkeys mset a 1 b 2", "*2 $1 a $1 b"),
            ("command getkeys get", "-ERR~Invalid~number~of~arguments~specified~for~command"),
            ("command getkeys ping", "-ERR~The~command~has~no~key~arguments"),
            ("command getkeys what", "-ERR~Invalid~command~specified"),
            ("command what", "-ERR~unknown~subcommand~'what'.~Try~COMMAND~HELP."),
            ("config get save", "*2 $4 save $0 "),
            ("config get append* SAVE", "*6 $11 appendfsync $6 always $10 appendonly $3 yes $4 save $0 "),
            ("config get what", "*0"),
            ("config get", "-ERR~wrong~number~of~arguments~for~'config|get'~command"),
            ("config set save 1", "-ERR~unknown~subcommand~'set'.~Try~CONFIG~HELP."),
            (
                "config help",
                "*5 +CONFIG~<subcommand>~[<arg>~[value]~...].~Subcommands~are: +GET +~~~~Parameters,~by~pattern. \
                 +HELP +~~~~What~there~is.",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_a_member_knows_of_itself() {
    let door = Fake::new();
    transcript(
        &door,
        &[
            ("role", "*3 $6 master :9 *0"),
            ("info replication", "$50 #~Replication role:master master_repl_offset:9 "),
            ("set a 1", "+OK"),
            ("info keyspace", "$44 #~Keyspace db0:keys=1,expires=0,avg_ttl=0 "),
        ],
    )
    .await;
    door.state().status.leader = Some(2);
    transcript(&door, &[("role", "*5 $5 slave $0  :0 $9 connected :9")]).await;
    door.state().status.leader = None;
    transcript(&door, &[("role", "*5 $5 slave $0  :0 $7 connect :9")]).await;

    let mut opened = opened(&door);
    let mut client = opened.connect();
    client.send("info\r\nclient info\r\nhello 3\r\ninfo kvd\r\ntime\r\nquit\r\n").await;
    let all = client.rest().await;
    for line in [
        "redis_version:7.0.15",
        "connected_clients:1",
        "used_memory:2",
        "role:slave",
        "master_link_status:down",
        "cluster_id:0000000000000007",
        "id=1 addr=127.0.0.1:50000 laddr=127.0.0.1:6379 name= db=0 flags=N resp=2 lib-name= lib-ver=",
        "txt:# Kvd",
    ] {
        assert!(all.contains(line), "{line} in {all}");
    }
}

#[tokio::test]
async fn the_administrators_commands() {
    let door = Fake::new();
    let bad_id = "-ERR~a~member~id~is~a~number~from~1~to~18446744073709551615";
    transcript(
        &door,
        &[
            ("join 127.0.0.1:9021 4", "+OK"),
            ("join 5 http://127.0.0.1:9022", "+OK"),
            ("leave 4", "+OK"),
            ("snapshot", "+OK"),
            ("join a b", bad_id),
            ("join 127.0.0.1:9021 0", bad_id),
            ("leave x", bad_id),
            ("leave +1", bad_id),
        ],
    )
    .await;
    assert_eq!(door.state().members, [(5, "http://127.0.0.1:9022".to_owned())]);

    let refused =
        "-NOPERM this command is for connections from the member's own machine; --redis-admin lifts that\r\n";
    let mut closed = opened(&door);
    for line in ["join 127.0.0.1:9021 4\r\n", "leave 5\r\n", "snapshot\r\n"] {
        closed.connect_through(4096, "192.0.2.1:50000").ask(line, refused).await;
        closed.connect_through(4096, "[::ffff:127.0.0.1]:50000").ask(line, "+OK\r\n").await;
    }
    let mut admin = Opened::new(&door, Options { admin: true, ..Options::default() });
    admin.connect_through(4096, "192.0.2.1:50000").ask("snapshot\r\n", "+OK\r\n").await;
}

#[tokio::test]
async fn what_the_store_did_not_do_has_a_stable_first_word() {
    for (error, word) in [
        (Error::NoLeader, "TRYAGAIN"),
        (Error::Stopped, "TRYAGAIN"),
        (Error::Overloaded, "BUSY"),
        (Error::Unknown { reason: "why" }, "UNKNOWN"),
        (Error::Removed, "CLUSTERDOWN"),
        (Error::BadResponse, "ERR"),
    ] {
        let door = Fake::new();
        door.state().fail = Some(error.clone());
        let mut opened = opened(&door);
        for line in [
            "set a 1",
            "set a 1 get",
            "del a b",
            "get a",
            "mget a",
            "keys *",
            "scan 0",
            "dbsize",
            "join 1 h:1",
        ] {
            opened.connect().ask(format!("{line}\r\n"), format!("-{word} {error}\r\n")).await;
        }
    }
}

#[tokio::test]
async fn keys_and_values_are_as_long_as_they_may_be() {
    let door = Fake::new();
    door.state().limits = StoreLimits { key_bytes: 3, value_bytes: 4 };
    let mut opened = opened(&door);
    let mut client = opened.connect();
    for (line, answered) in [
        ("set kk vvv", "+OK\r\n"),
        ("set kkk vvvv", "+OK\r\n"),
        ("set kkkk v", "-ERR the key has 4 bytes and may have at most 3\r\n"),
        ("set k vvvvv", "-ERR the value has 5 bytes and may have at most 4\r\n"),
        ("append kk v", ":4\r\n"),
        ("append kk v", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"),
        ("get kkkk", "-ERR the key has 4 bytes and may have at most 3\r\n"),
        ("set \"\" v", "-ERR the key is empty\r\n"),
        ("exists a \"\"", "-ERR the key is empty\r\n"),
    ] {
        client.ask(format!("{line}\r\n"), answered).await;
    }
}

#[tokio::test]
async fn a_scan_returns_what_is_there_all_the_time_whatever_else_comes_and_goes() {
    let door = Fake::new();
    for i in 0..100 {
        door.state().store.put(format!("stays{i:02}").as_bytes(), b"v");
        door.state().store.put(format!("goes{i:02}").as_bytes(), b"v");
    }
    let mut opened = opened(&door);
    let (mut cursor, mut found, mut calls) = ("0".to_owned(), Vec::new(), 0);
    loop {
        // Each call on a connection of its own, as pools do.
        let mut client = opened.connect();
        client.send(format!("scan {cursor} count 7\r\nquit\r\n")).await;
        let all = client.rest().await;
        let words: Vec<&str> = all.split("\\r\\n").collect();
        words[2].clone_into(&mut cursor);
        found.extend(words.iter().filter(|word| word.starts_with("stays")).map(|word| (*word).to_owned()));
        if cursor == "0" {
            break;
        }
        calls += 1;
        let mut state = door.state();
        state.store.put(format!("came{calls:02}").as_bytes(), b"v");
        for i in 0..5 {
            state.store.delete(format!("goes{:02}", calls * 5 + i).as_bytes());
        }
        assert!(calls < 100, "no end behind {found:?}");
    }
    let expected: Vec<String> = (0..100).map(|i| format!("stays{i:02}")).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_reply_to_keys_and_a_pattern_are_bounded() {
    let door = Fake::new();
    for i in 0..10 {
        door.state().store.put(format!("key{i}").as_bytes(), b"v");
    }
    // Each key takes 10 bytes.
    for (reply_bytes, whole) in [(99, false), (100, true), (101, true)] {
        let mut opened = Opened::new(&door, Options { reply_bytes, ..Options::default() });
        let refused = format!("-ERR the reply would have more than {reply_bytes} bytes; use SCAN\r\n");
        let expected = if whole { "*10\r\n".to_owned() } else { refused };
        opened.connect().ask("keys *\r\n", expected).await;
    }
    let mut opened = opened(&door);
    let refused = "-ERR the pattern has 1025 bytes and may have at most 1024\r\n";
    for (len, answered) in [(1023, "*0\r\n"), (1024, "*0\r\n"), (1025, refused)] {
        opened.connect().ask(format!("keys {}\r\n", "x".repeat(len)), answered).await;
    }
}
